"""Who may do what: the rights of the operator, of engines and gateways, and who gets a snapshot."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from e2e.fixtures import new_space
from e2e.objects import a_policy, an_expert
from e2e.sidecars import an_agent
from e2e.steps import Space, system_of
from flotilla_api.control import REVIEW_PATH
from flotilla_api.names import (
    CONTROL_AUDIENCE,
    CONTROL_CA_KEY,
    CONTROL_PORT,
    GATEWAY_AUDIENCE,
    snapshot_name,
)
from localcluster.tools import CommandError
from stack.flotilla import SYSTEM_NAMESPACE, Stack

OPERATOR = f"system:serviceaccount:{SYSTEM_NAMESPACE}:flotilla-operator"
CONTROL_HOST = f"flotilla-control.{SYSTEM_NAMESPACE}.svc"


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """Two policies with a gateway each, and an expert that runs."""
    with new_space(stack) as space:
        space.apply(an_expert("small"), a_policy("mine", experts=["small"]), a_policy("other", experts=["small"]))
        space.wait_ready("Expert", "small")
        for policy in ("mine", "other"):
            space.wait_condition("RoutingPolicy", policy, "ConfigPropagated", "True")
        yield space


def _may(stack: Stack, account: str, verb: str, resource: str, namespace: str) -> bool:
    """What `kubectl auth can-i` says; `resource` is TYPE, TYPE/NAME, TYPE:SUBRESOURCE or TYPE/NAME:SUBRESOURCE."""
    resource, _, subresource = resource.partition(":")
    options = [f"--subresource={subresource}"] if subresource else []
    try:
        said = stack.cluster.kubectl("auth", "can-i", verb, resource, "-n", namespace, f"--as={account}", *options)
    except CommandError:
        return False
    return said == "yes\n"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        pytest.param("get", "secrets", id="read Secrets"),
        pytest.param("list", "secrets", id="list Secrets"),
        pytest.param("create", "secrets", id="write Secrets"),
        pytest.param("patch", "experts", id="write a spec"),
        pytest.param("delete", "routingpolicies", id="delete a policy"),
        pytest.param("delete", "pods", id="delete pods"),
        pytest.param("create", "pods:exec", id="enter pods"),
        pytest.param("create", "serviceaccounts:token", id="make tokens"),
        pytest.param("create", "clusterrolebindings", id="bind rights of the cluster"),
        pytest.param("escalate", "roles", id="grant what it does not have"),
    ],
)
def test_the_operator_may_not(stack: Stack, fleet: Space, verb: str, resource: str) -> None:
    """The operator's account has no such right in a user's namespace."""
    assert not _may(stack, OPERATOR, verb, resource, fleet.name)


def test_the_operator_reads_its_own_secret_only(stack: Stack) -> None:
    """In its own namespace it may read the Secret of its certificate authority by name, and no other."""
    assert _may(stack, OPERATOR, "get", "secrets/flotilla-control-tls", SYSTEM_NAMESPACE)
    assert not _may(stack, OPERATOR, "get", "secrets/sh.helm.release.v1.flotilla.v1", SYSTEM_NAMESPACE)
    assert not _may(stack, OPERATOR, "list", "secrets", SYSTEM_NAMESPACE)


def test_a_gateway_may_read_its_own_snapshot_and_nothing_else(stack: Stack, fleet: Space) -> None:
    """A gateway's account has one right: its own policy's snapshot."""
    account = f"system:serviceaccount:{fleet.name}:mine-gateway"

    assert _may(stack, account, "get", "routingpolicies.flotilla.dev/mine:snapshot", fleet.name)
    assert not _may(stack, account, "get", "routingpolicies.flotilla.dev/other:snapshot", fleet.name)
    assert not _may(stack, account, "get", "routingpolicies.flotilla.dev/mine", fleet.name)
    assert not _may(stack, account, "get", "secrets", fleet.name)
    assert not _may(stack, account, "list", "pods", fleet.name)


def test_engines_hold_no_token(fleet: Space) -> None:
    """An engine runs other people's code: nothing in its pod can speak to the API server."""
    volumes = fleet.engine("small").pod["spec"]["volumes"]

    assert fleet.engine("small").pod["spec"]["automountServiceAccountToken"] is False
    assert not [volume for volume in volumes if "projected" in volume or "secret" in volume]


# The control API


def _token(space: Space, account: str, pod: dict[str, Any] | None, audience: str = CONTROL_AUDIENCE) -> str:
    """A token of a ServiceAccount, bound to a pod where one is given, as the kubelet asks for."""
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
    if pod:
        metadata = pod["metadata"]
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"{space.path('ServiceAccount', account)}/token"
    return space.stack.cluster.api.post(path, json=request).raise_for_status().json()["status"]["token"]


def _ask_control(space: Space, policy: str, token: str, **query: str) -> httpx.Response:
    """The control API's answer to a router with this token, over TLS with the authority that routers are given."""
    return _call_control(space, "GET", f"/v1/snapshots/{space.name}/{policy}", token, params=query)


def _call_control(space: Space, method: str, path: str, token: str, **request: Any) -> httpx.Response:
    system = system_of(space.stack)
    authority = space.get("ConfigMap", snapshot_name("mine"))["data"][CONTROL_CA_KEY]
    url = f"https://{system.get('Service', 'flotilla-control')['spec']['clusterIP']}:{CONTROL_PORT}{path}"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(verify=ssl.create_default_context(cadata=authority), trust_env=False, timeout=3) as client:
        return client.request(method, url, headers=headers, extensions={"sni_hostname": CONTROL_HOST}, **request)


def _review(space: Space, policy: str, caller: str, token: str) -> httpx.Response:
    """The control API's answer to a gateway that was shown a token."""
    path = REVIEW_PATH.format(namespace=space.name, policy=policy)
    return _call_control(space, "POST", path, caller, json={"token": token})


def _pod(space: Space, policy: str) -> dict[str, Any]:
    (pod,) = space.ready_pods("RoutingPolicy", policy)
    return pod


def test_a_router_gets_its_snapshot(fleet: Space) -> None:
    """With its own token a router gets the snapshot of its policy, and the digest beside it."""
    answer = _ask_control(fleet, "mine", _token(fleet, "mine-gateway", _pod(fleet, "mine")))

    assert answer.status_code == 200
    assert answer.json()["policy"] == "mine"
    assert answer.headers["x-flotilla-digest"] == fleet.get("RoutingPolicy", "mine")["status"]["snapshotDigest"]


def test_no_token_no_snapshot(fleet: Space) -> None:
    """Without a token, or with something else, nobody is let in."""
    assert _ask_control(fleet, "mine", "").status_code == 401
    assert _ask_control(fleet, "mine", "made-up").status_code == 401


def test_a_token_for_another_audience_is_refused(fleet: Space) -> None:
    """A token that was made for the API server itself is worth nothing here."""
    token = _token(fleet, "mine-gateway", _pod(fleet, "mine"), audience="https://kubernetes.default.svc.cluster.local")

    assert _ask_control(fleet, "mine", token).status_code == 401


def test_a_token_that_is_bound_to_no_pod_is_refused(fleet: Space) -> None:
    """Acknowledgements are counted by pod, so a caller must be one."""
    answer = _ask_control(fleet, "mine", _token(fleet, "mine-gateway", None))

    assert answer.status_code == 401
    assert "pod" in answer.json()["error"]["message"]


def test_a_router_gets_no_other_policys_snapshot(fleet: Space) -> None:
    """Not even of its own namespace."""
    answer = _ask_control(fleet, "other", _token(fleet, "mine-gateway", _pod(fleet, "mine")))

    assert answer.status_code == 403


def test_another_account_of_the_namespace_gets_no_snapshot(fleet: Space) -> None:
    """An engine's account is not a gateway's."""
    (pod,) = fleet.ready_pods("Expert", "small")

    assert _ask_control(fleet, "mine", _token(fleet, "small-expert", pod)).status_code == 403


def test_a_router_of_another_namespace_gets_no_snapshot(fleet: Space, space: Space) -> None:
    """A gateway of the same name elsewhere is somebody else."""
    space.apply(an_expert("small", replicas=0), a_policy("mine", experts=["small"]))
    space.wait_condition("RoutingPolicy", "mine", "RouterReady", "True")
    foreign = _token(space, "mine-gateway", _pod(space, "mine"))

    assert _ask_control(fleet, "mine", foreign).status_code == 403
    assert _ask_control(space, "mine", foreign).status_code == 200


# Sidecars


@pytest.fixture(scope="module")
def agent(fleet: Space) -> dict[str, Any]:
    """A pod that asks for the sidecar of the policy mine."""
    fleet.apply(an_agent("agent", "mine"))
    return fleet.get("Pod", "agent")


def test_a_sidecar_gets_its_own_policys_snapshot(fleet: Space, agent: dict[str, Any]) -> None:
    """Its pod's label is all that it takes: no right is granted to the account that its agent happens to have."""
    answer = _ask_control(fleet, "mine", _token(fleet, "default", agent))

    assert answer.status_code == 200
    assert answer.json()["policy"] == "mine"


def test_a_sidecar_gets_no_other_policys_snapshot(fleet: Space, agent: dict[str, Any]) -> None:
    """Not even of its own namespace."""
    answer = _ask_control(fleet, "other", _token(fleet, "default", agent))

    assert answer.status_code == 403
    assert answer.json()["error"]["message"]


def test_a_sidecar_of_another_namespace_gets_no_snapshot(fleet: Space, space: Space) -> None:
    """A pod with the same label elsewhere is somebody else's."""
    space.apply(an_agent("agent", "mine"))
    foreign = _token(space, "default", space.get("Pod", "agent"))

    assert _ask_control(fleet, "mine", foreign).status_code == 403


def test_a_pod_without_the_label_gets_no_snapshot(fleet: Space) -> None:
    """An agent's account has no right of its own: without the label its pod is anybody."""
    stranger = an_agent("stranger", "mine")
    del stranger["metadata"]["labels"]
    fleet.apply(stranger)

    assert _ask_control(fleet, "mine", _token(fleet, "default", fleet.get("Pod", "stranger"))).status_code == 403


def test_the_token_for_the_gateway_is_none_for_the_control_api(fleet: Space, agent: dict[str, Any]) -> None:
    """Each of a sidecar's tokens is good for one thing."""
    assert _ask_control(fleet, "mine", _token(fleet, "default", agent, GATEWAY_AUDIENCE)).status_code == 401


def test_a_gateway_asks_whose_token_it_was_shown(fleet: Space, agent: dict[str, Any]) -> None:
    """Only a token for gateways, of a pod that asks for that very policy's sidecar, is good."""
    mine, other = (_token(fleet, f"{policy}-gateway", _pod(fleet, policy)) for policy in ("mine", "other"))
    good = _token(fleet, "default", agent, GATEWAY_AUDIENCE)
    no_agents = _token(fleet, "mine-gateway", _pod(fleet, "mine"), GATEWAY_AUDIENCE)
    for_control = _token(fleet, "default", agent)

    assert _review(fleet, "mine", mine, good).json()["pod"] == "agent"
    for policy, gateway, token in (("other", other, good), ("mine", mine, no_agents), ("mine", mine, for_control)):
        answer = _review(fleet, policy, gateway, token)
        assert answer.status_code == 403
        assert answer.json()["error"]["message"]


def test_nobody_but_the_gateway_may_ask_about_tokens(fleet: Space, agent: dict[str, Any]) -> None:
    """Neither a sidecar nor another policy's gateway."""
    token = _token(fleet, "default", agent, GATEWAY_AUDIENCE)
    sidecar = _token(fleet, "default", agent)
    other = _token(fleet, "other-gateway", _pod(fleet, "other"))

    assert _review(fleet, "mine", sidecar, token).status_code == 403
    assert _review(fleet, "mine", other, token).status_code == 403
    assert _review(fleet, "mine", "made-up", token).status_code == 401


def test_a_gateway_relays_for_its_own_sidecars_alone(fleet: Space, space: Space, agent: dict[str, Any]) -> None:
    """Another namespace's token, another policy's, or one for another audience opens no gateway."""
    space.apply(an_agent("agent", "mine"))
    foreign = _token(space, "default", space.get("Pod", "agent"), GATEWAY_AUDIENCE)
    gateway = fleet.gateway("other")
    tokens = [
        foreign,
        _token(fleet, "default", agent, GATEWAY_AUDIENCE),
        _token(fleet, "default", agent),
        "made-up",
    ]

    answers = [gateway.with_key(token).ask("hello", x_flotilla_relay="other") for token in tokens]

    assert {answer.status_code for answer in answers} <= {401, 403}
    assert all(answer.json()["error"]["message"] for answer in answers)


def test_a_router_that_refuses_a_snapshot_is_named_by_the_policy(fleet: Space) -> None:
    """A router that says that it keeps its last good snapshot turns ConfigPropagated to SnapshotRejected."""
    digest = fleet.get("RoutingPolicy", "other")["status"]["snapshotDigest"]
    token = _token(fleet, "other-gateway", _pod(fleet, "other"))
    said = {"digest": f"sha256:{'0' * 64}", "rejected": digest, "error": "targets: two have the same name"}

    done = threading.Event()

    def insist() -> None:
        """The pod's own router says otherwise with each of its polls, which take the place of ours."""
        while not done.is_set():
            with suppress(httpx.ReadTimeout):
                _ask_control(fleet, "other", token, **said)

    insisting = threading.Thread(target=insist)
    insisting.start()
    try:
        found = fleet.wait_condition("RoutingPolicy", "other", "ConfigPropagated", "False", "SnapshotRejected")
    finally:
        done.set()
        insisting.join()

    assert "two have the same name" in found["message"]
    fleet.wait_condition("RoutingPolicy", "other", "ConfigPropagated", "True", "Acknowledged")
