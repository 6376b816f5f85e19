"""What an agent's pod gets when it asks for a sidecar."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_policy
from flotilla_api import names
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import (
    Injection,
    SidecarInputs,
    inject_sidecar,
    is_injected,
    make_volumes,
    wanted_policy,
)
from flotilla_operator.resources.specs import parse_policy

Manifest = dict[str, Any]

SETTINGS = OperatorSettings(
    engine_image="vllm", router_image="router:1", control_url="https://flotilla-control.flotilla-system.svc:9443"
)
OWN_INIT: Manifest = {"name": "flotilla-router", "image": "theirs"}
OWN_VOLUME: Manifest = {"name": "flotilla-tokens", "emptyDir": {}}
LABELS = {names.POLICY_LABEL: "billing"}


def inputs(settings: OperatorSettings = SETTINGS, **spec: Any) -> SidecarInputs:
    return SidecarInputs("agents", "billing", parse_policy(a_policy(**spec)), settings)


def an_agent(**spec: Any) -> Manifest:
    return {"metadata": {"labels": dict(LABELS)}, "spec": {"containers": [{"name": "agent", "image": "a"}], **spec}}


def injected(pod: Manifest, **spec: Any) -> Injection:
    found = inject_sidecar(pod, inputs(**spec))
    assert not found.refused
    return found


def sidecar_of(found: Injection) -> Manifest:
    return found.pod["spec"]["initContainers"][0]


def variables(container: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def test_the_sidecar_starts_before_every_other_container_and_stays() -> None:
    """It is the first init container, with restartPolicy Always, and others wait until it has a snapshot."""
    found = injected(an_agent(initContainers=[{"name": "migrate", "image": "m"}]))

    assert [each["name"] for each in found.pod["spec"]["initContainers"]] == [names.SIDECAR_CONTAINER, "migrate"]
    assert sidecar_of(found)["restartPolicy"] == "Always"
    assert sidecar_of(found)["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert is_injected(found.pod)
    assert found.pod["metadata"]["annotations"] == {names.INJECTED_ANNOTATION: "billing"}


def test_every_agent_container_finds_the_sidecar() -> None:
    """Init containers too: they may call models."""
    agent = an_agent(initContainers=[{"name": "migrate", "image": "m"}])
    found = injected(agent, placement={"sidecar": {"port": 4000}})

    for container in (found.pod["spec"]["initContainers"][1], found.pod["spec"]["containers"][0]):
        assert variables(container) == {"OPENAI_BASE_URL": "http://127.0.0.1:4000/v1", "OPENAI_API_KEY": "flotilla"}
    assert found.warnings == ()


def test_values_that_are_there_win_with_a_warning() -> None:
    """Whoever sets an address or a key keeps it, wherever its value comes from, and is told what that means."""
    own = [
        {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "k", "key": "k"}}},
        {"name": "OPENAI_BASE_URL", "value": "http://elsewhere/v1"},
    ]
    found = injected(an_agent(containers=[{"name": "agent", "image": "a", "env": own}]))

    assert found.pod["spec"]["containers"][0]["env"] == own
    assert found.warnings == (
        "container agent sets OPENAI_BASE_URL itself, which stays: calls that go there do not pass the sidecar",
        "container agent sets OPENAI_API_KEY itself, which stays: the sidecar needs no key and sends none on",
    )


def test_volumes_that_are_ours_already_are_no_obstacle() -> None:
    """Somebody may have written them out; and those of a name that this policy's sidecar does not need are theirs."""
    own: Manifest = {"name": "flotilla-gateway-ca", "emptyDir": {}}

    found = injected(an_agent(volumes=[own, *make_volumes(inputs())]))

    assert found.pod["spec"]["volumes"] == [own, *make_volumes(inputs())]


FROM_ELSEWHERE: Manifest = {"name": "agent", "image": "a", "envFrom": [{"secretRef": {"name": "openai"}}]}


@pytest.mark.parametrize(
    ("own", "lost"),
    [
        pytest.param([], "OPENAI_BASE_URL and OPENAI_API_KEY", id="both"),
        pytest.param([{"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:18080/v1"}], "OPENAI_API_KEY", id="one"),
    ],
)
def test_values_from_elsewhere_lose_with_a_warning(own: list[Manifest], lost: str) -> None:
    """In Kubernetes `env` goes before `envFrom`; what is in there nobody can see here."""
    agent = an_agent(containers=[{**FROM_ELSEWHERE, "env": own}])
    found = injected(agent)

    assert found.warnings == (
        f"container agent: the sidecar's {lost} go before what its envFrom holds; to keep yours, set them in env",
    )
    assert variables(found.pod["spec"]["containers"][0])["OPENAI_API_KEY"] == "flotilla"
    assert injected(found.pod).warnings == (), "it is told once"


def test_a_container_that_sets_both_itself_is_not_warned_of_what_it_takes_from_elsewhere() -> None:
    """Nothing of the sidecar's is put before it."""
    own = [{"name": name, "value": "own"} for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")]

    found = injected(an_agent(containers=[{**FROM_ELSEWHERE, "env": own}]))

    assert not [warning for warning in found.warnings if "envFrom" in warning]


def test_the_policy_wins_over_the_chart() -> None:
    """Image, ports and each amount of CPU and memory; what the policy leaves out is the chart's."""
    wishes = {
        "image": "router:2",
        "port": 4000,
        "adminPort": 4001,
        "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
    }
    sidecar = sidecar_of(injected(an_agent(), placement={"sidecar": wishes}))

    assert sidecar["image"] == "router:2"
    assert sidecar["resources"] == {
        "requests": {"cpu": "1", "memory": "64Mi"},
        "limits": {"cpu": "2", "memory": "256Mi"},
    }
    assert (variables(sidecar)["FLOTILLA_DATA_PORT"], sidecar["ports"][0]["containerPort"]) == ("4000", 4001)


@pytest.mark.parametrize(
    ("wishes", "requests", "limits"),
    [
        pytest.param({"requests": {"memory": "1Gi"}}, {"memory": "1Gi"}, {"memory": "1Gi"}, id="more than the limit"),
        pytest.param({"requests": {"memory": "65Mi"}}, {"memory": "65Mi"}, {"memory": "256Mi"}, id="within the limit"),
        pytest.param({"limits": {"memory": "32Mi"}}, {"memory": "32Mi"}, {"memory": "32Mi"}, id="less than asked for"),
        pytest.param({"limits": {"cpu": "10m"}}, {"cpu": "10m"}, {"cpu": "10m"}, id="cpu, which has no limit else"),
        pytest.param({"requests": {"cpu": "2"}}, {"cpu": "2"}, {}, id="cpu without a limit"),
    ],
)
def test_where_the_policy_says_one_of_two_amounts_the_other_follows(
    wishes: Manifest, requests: Manifest, limits: Manifest
) -> None:
    """The API server refuses a pod that asks for more than it may use."""
    sidecar = sidecar_of(injected(an_agent(), placement={"sidecar": {"resources": wishes}}))

    assert sidecar["resources"] == {
        "requests": {"cpu": "50m", "memory": "64Mi"} | requests,
        "limits": {"memory": "256Mi"} | limits,
    }


def test_the_sidecar_listens_for_the_agent_on_loopback_alone() -> None:
    """The kubelet and Prometheus dial the pod's address, and find nothing there but health and metrics."""
    environment = variables(sidecar_of(injected(an_agent())))

    assert environment["FLOTILLA_DATA_HOST"] == "127.0.0.1"
    assert environment["FLOTILLA_ADMIN_HOST"] == "$(POD_IP)"
    assert environment["FLOTILLA_ROLE"] == "Sidecar"


def test_no_credential_is_mounted() -> None:
    """Two tokens for audiences that are ours, a ConfigMap, and of the gateway's certificate only the authority."""
    volumes = make_volumes(inputs(tls={"secretRef": {"name": "router-tls"}}))

    tokens = [each["serviceAccountToken"]["audience"] for each in volumes[1]["projected"]["sources"]]
    assert tokens == ["flotilla-control", "flotilla-gateway"]
    (secret,) = [each["secret"] for each in volumes[2]["projected"]["sources"]]
    assert secret["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    assert len(volumes) == 3
    assert len(make_volumes(inputs())) == 2


def test_the_agents_rights_in_the_cluster_are_not_the_sidecars() -> None:
    """Kubernetes gives a container the account's token, unless it mounts something where that would be."""
    mounts = sidecar_of(injected(an_agent()))["volumeMounts"]

    (covering,) = [each for each in mounts if each["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"]
    assert covering["name"] == "flotilla-tokens"


def test_image_pull_secrets_are_added_to_the_pods_own() -> None:
    """Names that are there stay once."""
    settings = OperatorSettings("vllm", "router:1", "https://control", router_image_pull_secrets=("ours", "both"))
    agent = an_agent(imagePullSecrets=[{"name": "both"}, {"name": "theirs"}])

    found = inject_sidecar(agent, inputs(settings))

    assert found.pod["spec"]["imagePullSecrets"] == [{"name": "ours"}, {"name": "both"}, {"name": "theirs"}]


def test_an_entry_without_a_name_is_left_alone() -> None:
    """Kubernetes takes an image pull secret without one."""
    settings = OperatorSettings("vllm", "router:1", "https://control", router_image_pull_secrets=("ours",))

    found = inject_sidecar(an_agent(imagePullSecrets=[{}]), inputs(settings))

    assert found.pod["spec"]["imagePullSecrets"] == [{"name": "ours"}, {}]


@pytest.mark.parametrize(
    ("spec", "placement", "why"),
    [
        pytest.param({"hostNetwork": True}, {}, "host's network", id="its loopback is the node's"),
        pytest.param({"os": {"name": "windows"}}, {}, "Windows", id="no image for it"),
        pytest.param({"containers": [{"name": "flotilla-router"}]}, {}, "rename", id="the name is taken"),
        pytest.param({"initContainers": [OWN_INIT]}, {}, "rename", id="an init container of its own has the name"),
        pytest.param(
            {"initContainers": [{**OWN_INIT, "restartPolicy": "Always"}]}, {}, "rename", id="so has its own sidecar"
        ),
        pytest.param(
            {"initContainers": [{**OWN_INIT, "env": [{"name": "FLOTILLA_ROLE", "value": "Sidecar"}]}]},
            {},
            "rename",
            id="ours, but it would end before the agent starts",
        ),
        pytest.param({"volumes": [OWN_VOLUME]}, {}, "flotilla-tokens", id="a volume of its own has a name of ours"),
        pytest.param({}, {"port": 19090}, "twice", id="one port for two listeners"),
        pytest.param({"resources": {"limits": {"cpu": "1"}}}, {}, "spec.resources", id="bounded as a whole"),
        pytest.param(
            {"containers": [{"name": "web", "ports": [{"containerPort": 18080}]}]},
            {},
            "container web declares port 18080, where the sidecar would listen: set placement.sidecar.port",
            id="the port for the agent is taken",
        ),
        pytest.param(
            {"initContainers": [{"name": "proxy", "ports": [{"containerPort": 4001, "protocol": "TCP"}]}]},
            {"adminPort": 4001},
            "container proxy declares port 4001, where the sidecar would listen: set placement.sidecar.adminPort",
            id="the admin port is taken",
        ),
        pytest.param(
            {},
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
            "more memory than it allows",
            id="amounts of a policy that is older than the rule against them",
        ),
    ],
)
def test_a_pod_that_cannot_have_a_sidecar_stays_as_it_is(spec: Manifest, placement: Manifest, why: str) -> None:
    """And the reason is a sentence for a person."""
    agent = an_agent(**spec)

    found = inject_sidecar(agent, inputs(placement={"sidecar": placement}))

    assert found.pod is agent
    assert why in found.refused


def test_a_port_of_another_protocol_is_free() -> None:
    """The sidecar listens for TCP."""
    injected(an_agent(containers=[{"name": "web", "ports": [{"containerPort": 18080, "protocol": "UDP"}]}]))


def test_a_static_pod_is_left_alone() -> None:
    """The API server lets no mirror of one mount a token."""
    agent = an_agent()
    agent["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "d34d"}

    assert "static pod" in inject_sidecar(agent, inputs()).refused


def test_another_policys_sidecar_is_not_taken_for_this_ones() -> None:
    """A template was injected, and then its label was changed, with or without the annotation."""
    of_another = injected(an_agent()).pod
    spec = parse_policy(a_policy())

    found = inject_sidecar(of_another, SidecarInputs("agents", "second", spec, SETTINGS))

    assert found.pod is of_another
    assert found.refused == "it has the sidecar of policy billing: inject the original again"


@pytest.mark.parametrize(
    ("labels", "policy"),
    [
        pytest.param(LABELS, "billing", id="it asks for one"),
        pytest.param({}, None, id="it does not"),
        pytest.param(None, None, id="no labels at all"),
        pytest.param({names.POLICY_LABEL: ""}, None, id="an empty name"),
        pytest.param({**LABELS, names.KIND_LABEL: "RoutingPolicy"}, None, id="our own child"),
    ],
)
def test_who_asks_for_a_sidecar(labels: Manifest | None, policy: str | None) -> None:
    """The label alone says it, and our own children are left alone."""
    assert wanted_policy({"metadata": {"labels": labels}, "spec": {}}) == policy


_NAMES = st.sampled_from(["a", "b", "flotilla-router", "OPENAI_BASE_URL", "OPENAI_API_KEY", "flotilla-tokens"])
_ENTRIES: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries({"name": _NAMES}), unique_by=lambda each: each["name"]
)
_CONTAINERS: st.SearchStrategy[Any] = st.lists(
    st.fixed_dictionaries({"name": _NAMES}, optional={"env": _ENTRIES}), unique_by=lambda each: each["name"], min_size=1
)
PODS: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({}, optional={"annotations": st.dictionaries(_NAMES, _NAMES)}),
        "spec": st.fixed_dictionaries(
            {"containers": _CONTAINERS}, optional={"initContainers": _CONTAINERS, "volumes": _ENTRIES}
        ),
    }
)


@given(pod=PODS)
def test_injecting_twice_does_what_injecting_once_does(pod: Manifest) -> None:
    """Whatever the pod has already: a webhook may be asked again, and a manifest may be injected before."""
    once = inject_sidecar(pod, inputs())

    assert inject_sidecar(once.pod, inputs()).pod == once.pod


@given(pod=PODS)
def test_injecting_takes_nothing_away(pod: Manifest) -> None:
    """Every entry of every list is still there, in its order."""
    after = inject_sidecar(pod, inputs()).pod["spec"]

    for field in ("containers", "initContainers", "volumes"):
        before = [each["name"] for each in pod["spec"].get(field, [])]
        present = [each["name"] for each in after.get(field, [])]
        assert [name for name in present if name in before] == before
