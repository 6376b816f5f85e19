"""The control API over TLS: who may call, what a poll waits for and acknowledges, and the way through a standby."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from test_certificates import CurrentClock

from fakes.apiserver import FakeApiServer, running_api_server
from flotilla_api.conditions import Reason
from flotilla_api.control import (
    ARTIFACT_PATH,
    DIGEST_HEADER,
    PROBLEMS_MAX,
    PUBLISHED_HEADER,
    TEXT_MAX_CHARACTERS,
    Problem,
    ProblemKind,
)
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.adapters import control_api
from flotilla_operator.adapters.access import Access
from flotilla_operator.adapters.artifacts import Missing
from flotilla_operator.adapters.certificates import Certificates
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.control_api import ControlApi, Leadership, Wakening
from flotilla_operator.adapters.routers import Pace, RouterRegistry
from flotilla_operator.adapters.tokens import DENIALS_MAX, ExpiringCache
from flotilla_operator.reconcile.types import Acknowledgement, Key, PublishedSnapshot
from flotilla_operator.scaling.report import Recommendation
from flotilla_operator.telemetry import Telemetry

KEY = Key("RoutingPolicy", "agents", "router")
EXPERT = Key("Expert", "agents", "sql")
PATH = "/v1/snapshots/agents/router"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
SNAPSHOT = b'{"policy":"router"}'
A_SNAPSHOT = PublishedSnapshot(SNAPSHOT, "2026-11-23T12:00:00.000000Z")
ANOTHER = PublishedSnapshot(b"other", "2026-11-23T12:00:01.000000Z")
DIGEST = RoutingSnapshot.digest_of(SNAPSHOT)
OTHER = RoutingSnapshot.digest_of(b"other")
BEARER = {"Authorization": "Bearer token-1"}
ROUTER_USER = {
    "username": "system:serviceaccount:agents:router-gateway",
    "uid": "sa-uid",
    "groups": ["system:serviceaccounts"],
    "extra": {
        "authentication.kubernetes.io/pod-name": ["router-gateway-1"],
        "authentication.kubernetes.io/pod-uid": ["pod-uid-1"],
    },
}


PODS = "/api/v1/namespaces/agents/pods"
REVIEW = "/v1/tokens/agents/router"
WAKE = "/v1/wake/agents/sql?policy=router"
ARTIFACT_DIGEST = "sha256:" + 64 * "a"
ARTIFACT = f"/v1/artifacts/agents/router/{ARTIFACT_DIGEST}"
BRIDGED = (EXPERT, False)
"""A wake of a request that waits for nobody."""
TOKEN_BODY = b'{"token": "relayed-1"}'
AGENT_USER = {
    **ROUTER_USER,
    "username": "system:serviceaccount:agents:default",
    "extra": {
        "authentication.kubernetes.io/pod-name": ["agent-1"],
        "authentication.kubernetes.io/pod-uid": ["uid-1"],
    },
}


def authenticated(**user: Any) -> dict[str, Any]:
    """A TokenReview's status for the router, with changes."""
    return {"authenticated": True, "audiences": ["flotilla-control"], "user": {**ROUTER_USER, **user}}


@dataclass
class Server:
    """A replica's control API."""

    control: ControlApi
    registry: RouterRegistry
    leading: bool = True
    leader: str = ""
    exists: bool = True
    allows_sidecars: bool = True
    woken: list[Key] = field(default_factory=list[Key])
    experts_woken: list[tuple[Key, bool]] = field(default_factory=list[tuple[Key, bool]])
    recommendation: Recommendation | None = None
    artifact: bytes | Missing = b"tar"
    """What it has for ARTIFACT_DIGEST of KEY."""


@dataclass
class World:
    """Control APIs on one Kubernetes API, and a router's HTTP client."""

    api: FakeApiServer
    client: Client
    clock: CurrentClock
    http: aiohttp.ClientSession
    certificates: Certificates
    stack: AsyncExitStack

    async def server(self, *, poll_seconds: float = 0.3, **changes: Any) -> Server:
        """One more replica, listening."""
        woken: list[Key] = []
        experts_woken: list[tuple[Key, bool]] = []
        registry = RouterRegistry(
            self.clock,
            Telemetry(),
            wake=woken.append,
            leading=lambda: server.leading,
            pace=Pace(poll_seconds=poll_seconds, absence_seconds=0.05, repeat_seconds=0.0, gather_seconds=0.02),
        )

        def exists(key: Key) -> bool:
            return server.exists and key in (KEY, EXPERT)

        def recommend(key: Key) -> Recommendation | None:
            return server.recommendation if key == EXPERT else None

        async def artifacts(key: Key, digest: str) -> bytes | Missing:
            assert (key, digest) == (KEY, ARTIFACT_DIGEST)
            return server.artifact

        control = ControlApi(
            Access(self.client, self.clock, allows_sidecars=lambda key: server.allows_sidecars or key != KEY),
            registry,
            self.certificates,
            Leadership(leading=lambda: server.leading, leader_address=lambda: server.leader),
            clock=self.clock,
            exists=exists,
            wakening=Wakening(
                names=lambda key, expert: key == KEY and expert in ("sql", "gone"),
                on_wake=lambda key, waits: experts_woken.append((key, waits)),
            ),
            recommend=recommend,
            artifacts=artifacts,
        )
        server = Server(control, registry, woken=woken, experts_woken=experts_woken, **changes)
        await control.start("127.0.0.1", 0)
        self.stack.push_async_callback(control.stop)
        return server

    def put_pod(self, name: str = "agent-1", uid: str = "uid-1", **labels: str) -> None:
        """A pod of namespace agents is there; `labels` are ours."""
        metadata = {"name": name, "uid": uid, "labels": {f"flotilla.dev/{key}": value for key, value in labels.items()}}
        self.api.put(f"{PODS}/{name}", {"metadata": {**metadata, "namespace": "agents"}})

    async def review(
        self,
        server: Server,
        body: bytes = TOKEN_BODY,
        *,
        path: str = REVIEW,
        headers: Mapping[str, str] = BEARER,
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to a gateway that was shown a token."""
        url = f"https://127.0.0.1:{server.control.port}{path}"
        async with self.http.post(url, data=body, headers=headers) as response:
            return response.status, await response.json()

    async def wake(
        self, server: Server, path: str = WAKE, headers: Mapping[str, str] = BEARER
    ) -> tuple[int, str, Mapping[str, str]]:
        """Status, error and headers of the answer to a router that has an expert woken."""
        async with self.http.post(f"https://127.0.0.1:{server.control.port}{path}", headers=headers) as response:
            body = await response.read()
            return response.status, json.loads(body)["error"]["message"] if body else "", response.headers

    async def call(
        self,
        server: Server,
        query: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        path: str = PATH,
        headers: Mapping[str, str] = BEARER,
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of one poll."""
        url = f"https://127.0.0.1:{server.control.port}{path}"
        async with self.http.get(url, params=query, headers=headers) as response:
            return response.status, await response.read(), response.headers


@asynccontextmanager
async def a_world() -> AsyncGenerator[World]:
    """The Kubernetes API knows the router's token and grants it the snapshot."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api_server())
        api.reviews = {TOKEN_REVIEWS: authenticated(), ACCESS_REVIEWS: {"allowed": True}}
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        client = await stack.enter_async_context(Client(connection, Telemetry()))
        clock = CurrentClock()
        certificates = Certificates(
            client, clock, namespace="flotilla-system", names=["control"], address="127.0.0.1", changed=lambda: None
        )
        await certificates.load()
        connector = aiohttp.TCPConnector(ssl=certificates.client_context)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield World(api, client, clock, http, certificates, stack)


async def test_a_router_without_a_snapshot_gets_it_at_once() -> None:
    """The answer is the published bytes and their digest."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        status, body, headers = await world.call(server, {"digest": ""})
        assert (status, body, headers[DIGEST_HEADER]) == (200, SNAPSHOT, DIGEST)
        assert headers["Content-Type"] == "application/json"
        assert headers[PUBLISHED_HEADER] == A_SNAPSHOT.published_at


async def test_a_poll_waits_for_the_next_snapshot() -> None:
    """A router that serves the current one hears of the next when it is published."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        poll = asyncio.create_task(world.call(server, {"digest": DIGEST}))
        await _until_connected(server)
        server.registry.publish(KEY, ANOTHER)

        status, body, headers = await poll
        assert (status, body, headers[DIGEST_HEADER]) == (200, b"other", OTHER)


async def test_a_poll_without_news_ends_empty() -> None:
    """After a while the router is to ask again."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        assert (await world.call(server, {"digest": DIGEST}))[0] == 204


async def test_a_refused_snapshot_is_not_sent_again() -> None:
    """A router that refused the current one waits for the next, and says why it refused."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        query = {"digest": OTHER, "rejected": DIGEST, "error": "no such field"}
        poll = asyncio.create_task(world.call(server, query))
        await _until_connected(server)

        assert server.registry.acknowledgements(KEY) == (
            Acknowledgement("router-gateway-1", "pod-uid-1", OTHER, rejected="no such field"),
        )
        assert (await poll)[0] == 204


async def test_a_poll_acknowledges_and_wakes_the_policy() -> None:
    """Who it is comes from the token, what it serves and misses from the query."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        query = [("digest", DIGEST), ("problem", "Credential:big:no key: none"), ("problem", "no tls.crt")]
        poll = asyncio.create_task(world.call(server, query))
        await _until_connected(server)

        (acknowledgement,) = server.registry.acknowledgements(KEY)
        assert (acknowledgement.pod, acknowledgement.pod_uid) == ("router-gateway-1", "pod-uid-1")
        assert acknowledgement.problems == (
            Problem(ProblemKind.CREDENTIAL, "big", "no key: none"),
            Problem(ProblemKind.OTHER, "", "no tls.crt"),
        )
        assert server.woken == [KEY]
        await poll


async def test_an_acknowledgement_lasts_from_poll_to_poll_and_ends_with_the_last() -> None:
    """A router that stays away counts no more, and its policy looks again."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        await world.call(server, {"digest": DIGEST})
        between_polls = server.registry.acknowledgements(KEY)
        await world.call(server, {"digest": DIGEST})
        server.woken.clear()
        async with asyncio.timeout(10):
            while not server.woken:  # noqa: ASYNC110 - the registry has nothing else to wait for
                await asyncio.sleep(0.01)

        assert len(between_polls) == 1
        assert server.registry.acknowledgements(KEY) == ()


async def test_a_router_that_hangs_up_is_noticed() -> None:
    """A killed router's poll does not count until it would have ended by itself."""
    async with a_world() as world:
        server = await world.server(poll_seconds=600)
        server.registry.publish(KEY, A_SNAPSHOT)
        poll = asyncio.create_task(world.call(server, {"digest": DIGEST}))
        await _until_connected(server)
        poll.cancel()
        async with asyncio.timeout(10):
            while server.registry.acknowledgements(KEY):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_a_policy_that_does_not_exist_is_a_404() -> None:
    """The router learns that it is not only late."""
    async with a_world() as world:
        server = await world.server(exists=False)

        assert (await world.call(server))[0] == 404


async def test_a_policy_that_is_not_published_yet_is_waited_for() -> None:
    """Just after a replica took over it knows of the policy before it has its snapshot."""
    async with a_world() as world:
        server = await world.server()
        poll = asyncio.create_task(world.call(server))
        await _until_connected(server)
        server.registry.publish(KEY, A_SNAPSHOT)

        assert (await poll)[0] == 200


async def test_withdrawing_a_policy_ends_its_polls() -> None:
    """Nobody waits for a policy that is gone."""
    async with a_world() as world:
        server = await world.server(poll_seconds=600)
        server.registry.publish(KEY, A_SNAPSHOT)
        poll = asyncio.create_task(world.call(server, {"digest": DIGEST}))
        await _until_connected(server)
        server.registry.publish(KEY, None)

        assert (await poll)[0] == 204
        assert server.registry.acknowledgements(KEY) == ()


@pytest.mark.parametrize(
    ("headers", "review", "allowed", "expected"),
    [
        pytest.param({}, authenticated(), True, 401, id="no token"),
        pytest.param({"Authorization": "Basic abc"}, authenticated(), True, 401, id="another scheme"),
        pytest.param({"Authorization": "Bearer "}, authenticated(), True, 401, id="an empty token"),
        pytest.param({"Authorization": "Bearer tokén"}, authenticated(), True, 401, id="no token's letters"),
        pytest.param(BEARER, {"authenticated": False, "error": "expired"}, True, 401, id="a token that is not valid"),
        pytest.param(
            BEARER, {"authenticated": True, "user": ROUTER_USER}, True, 401, id="a token for nobody's audience"
        ),
        pytest.param(BEARER, authenticated(extra={}), True, 401, id="a token that is not bound to a pod"),
        pytest.param(BEARER, authenticated(username="admin"), True, 401, id="not a ServiceAccount"),
        pytest.param(
            BEARER, authenticated(username="system:serviceaccount:other:x"), True, 403, id="from another namespace"
        ),
        pytest.param(BEARER, authenticated(), False, 403, id="without the permission"),
    ],
)
async def test_callers_without_a_right_are_refused(
    headers: dict[str, str], review: dict[str, Any], *, allowed: bool, expected: int
) -> None:
    """Whoever is not a pod of the namespace with the permission learns nothing."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: review, ACCESS_REVIEWS: {"allowed": allowed}}
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        status, body, _ = await world.call(server, headers=headers)
        assert status == expected
        assert SNAPSHOT not in body
        assert server.registry.acknowledgements(KEY) == ()


async def test_a_sidecar_is_admitted_by_its_pods_label() -> None:
    """No account of an agent needs a right in RBAC; its acknowledgement says that it runs beside one."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        world.put_pod(policy="router")
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        assert (await world.call(server))[:2] == (200, SNAPSHOT)
        poll = asyncio.create_task(world.call(server, {"digest": DIGEST}))
        await _until_connected(server)

        assert server.registry.acknowledgements(KEY) == (Acknowledgement("agent-1", "uid-1", DIGEST, sidecar=True),)
        assert (await poll)[0] == 204


async def test_a_sidecar_can_put_nothing_into_a_status_but_kinds() -> None:
    """Its texts are an agent's pod's, which anybody may have written; a gateway's are kept."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        world.put_pod(policy="router")
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        said = [
            ("digest", OTHER),
            ("rejected", DIGEST),
            ("error", "call me now"),
            ("problem", "Gateway:call me now:call me now"),
            ("problem", "Gateway:again:again"),
            ("problem", "call me now"),
        ]
        poll = asyncio.create_task(world.call(server, said))
        await _until_connected(server)
        (acknowledgement,) = server.registry.acknowledgements(KEY)

        assert acknowledgement.problems == (Problem(ProblemKind.GATEWAY, "", ""), Problem(ProblemKind.OTHER, "", ""))
        assert acknowledgement.rejected
        assert "call me" not in str(acknowledgement)
        assert (await poll)[0] == 204


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(None, id="its pod is gone"),
        pytest.param({"uid": "uid-2", "policy": "router"}, id="another pod has its name"),
        pytest.param({"policy": "second"}, id="its pod asks for another policy"),
        pytest.param({}, id="its pod asks for none"),
        pytest.param({"policy": "router", "owner-kind": "Expert"}, id="its pod is a child of ours"),
    ],
)
async def test_a_pod_without_the_policys_label_is_refused(pod: dict[str, str] | None) -> None:
    """A token says who it is; its live pod says what it may read."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        if pod is not None:
            world.put_pod(**pod)
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        status, body, _ = await world.call(server)
        assert status == 403
        assert b"flotilla.dev/policy" in body


async def test_a_policy_without_sidecars_admits_nobody_by_a_label() -> None:
    """A pod that makes itself tokens and a label gets neither the snapshot nor a provider; its gateway goes on."""
    async with a_world() as world:
        world.api.reviews = {
            TOKEN_REVIEWS: of_audience,
            ACCESS_REVIEWS: lambda spec: {"allowed": spec["user"] == ROUTER_USER["username"]},
        }
        world.put_pod(policy="router")
        server = await world.server(allows_sidecars=False)
        server.registry.publish(KEY, A_SNAPSHOT)

        status, body, _ = await world.call(server, headers={"Authorization": "Bearer agent-1"})
        assert (status, b"placement.sidecar.enabled: false" in body) == (403, True)
        status, answer = await world.review(server)
        assert (status, answer["error"]["reason"]) == (403, "TokenRefused")
        assert "placement.sidecar.enabled: false" in answer["error"]["message"]
        assert (await world.call(server))[:2] == (200, SNAPSHOT)


async def test_a_label_admits_nobody_to_another_namespace() -> None:
    """A pod of the same name and label elsewhere is another pod."""
    async with a_world() as world:
        user = {**AGENT_USER, "username": "system:serviceaccount:other:default"}
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**user), ACCESS_REVIEWS: {"allowed": True}}
        world.put_pod(policy="router")
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        assert (await world.call(server))[0] == 403
        assert (await world.review(server))[0] == 403


async def test_a_gateway_is_admitted_by_rbac_alone() -> None:
    """Taking its Role away takes effect, whatever labels its pod bears, and nobody reads its pod."""
    async with a_world() as world:
        world.api.reviews[ACCESS_REVIEWS] = {"allowed": False}
        world.put_pod("router-gateway-1", "pod-uid-1", policy="router")
        server = await world.server()

        assert (await world.call(server))[0] == 403
        assert ("GET", f"{PODS}/router-gateway-1") not in world.api.requests


async def test_whoever_rbac_grants_it_gets_a_snapshot_without_a_label() -> None:
    """As before there were labels; it does not count as a sidecar."""
    async with a_world() as world:
        world.api.reviews[TOKEN_REVIEWS] = authenticated(**AGENT_USER)
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)

        assert (await world.call(server))[0] == 200
        assert [each.sidecar for each in server.registry.acknowledgements(KEY)] == [False]


async def test_a_pods_label_is_read_once_a_minute_and_then_anew() -> None:
    """Polling costs two requests a minute; a label that is taken away shuts the sidecar out within that time."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        world.put_pod(policy="router")
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        for _ in range(3):
            await world.call(server)
        reads = world.api.requests.count(("GET", f"{PODS}/agent-1"))
        world.put_pod()
        await world.clock.advance(61)

        assert reads == 1
        assert (await world.call(server))[0] == 403


def of_audience(spec: dict[str, Any]) -> dict[str, Any]:
    """The gateway's token is for the control API, that of the agent's pod for gateways."""
    (audience,) = spec["audiences"]
    owners = {
        "token-1": ("flotilla-control", ROUTER_USER),
        "agent-1": ("flotilla-control", AGENT_USER),
        "relayed-1": ("flotilla-gateway", AGENT_USER),
    }
    found, user = owners.get(spec["token"], ("", {}))
    return {"authenticated": found == audience, "audiences": [audience], "user": user}


async def test_a_gateway_learns_whose_token_it_was_shown() -> None:
    """A replica that does not lead says so itself, and both reviews are cached."""
    async with a_world() as world:
        world.api.reviews[TOKEN_REVIEWS] = of_audience
        world.put_pod(policy="router")
        standby = await world.server(leading=False)

        assert await world.review(standby) == (200, {"pod": "agent-1"})
        assert await world.review(standby) == (200, {"pod": "agent-1"})
        assert world.api.requests.count(("POST", TOKEN_REVIEWS)) == 2


@pytest.mark.parametrize(
    ("body", "pod", "message"),
    [
        pytest.param(b'{"token": "token-1"}', {"policy": "router"}, "not valid for audience", id="another audience"),
        pytest.param(b'{"token": "x"}', {"policy": "router"}, "not valid for audience", id="no token of anyone"),
        pytest.param(b'{"token": ""}', {"policy": "router"}, "show a ServiceAccount token", id="no token"),
        pytest.param(b'{"token": "\\ud800"}', {"policy": "router"}, "show a ServiceAccount token", id="no text"),
        pytest.param(TOKEN_BODY, {"policy": "second"}, "is not labelled for policy router", id="another policy"),
        pytest.param(TOKEN_BODY, {"policy": "router", "uid": "uid-2"}, "is not labelled", id="another pod by its name"),
    ],
)
async def test_a_gateway_learns_why_a_token_is_worth_nothing(body: bytes, pod: dict[str, str], message: str) -> None:
    """One sentence, and never the token."""
    async with a_world() as world:
        world.api.reviews[TOKEN_REVIEWS] = of_audience
        world.put_pod(**pod)
        server = await world.server()

        status, answer = await world.review(server, body)
        assert (status, answer["error"]["reason"]) == (403, "TokenRefused")
        assert message in answer["error"]["message"]
        assert "relayed-1" not in str(answer)


async def test_only_who_rbac_lets_in_may_ask_whose_a_token_is() -> None:
    """A sidecar, which its label lets read the snapshot, may not; nor may a stranger."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        world.put_pod(policy="router")
        server = await world.server()

        status, answer = await world.review(server)
        assert (status, answer["error"]["reason"]) == (403, "Forbidden")
        assert (await world.review(server, headers={}))[0] == 401
        assert world.api.requests.count(("POST", TOKEN_REVIEWS)) == 1, "of the sidecar's own token only"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="no token"),
        pytest.param(b'{"token": 1}', id="no text"),
        pytest.param(b'{"token": "' + b"x" * 40_000 + b'"}', id="an endless one"),
        pytest.param(b"[" * 20_000, id="a deep one"),
    ],
)
async def test_a_body_without_a_token_is_refused(body: bytes) -> None:
    """Nobody is asked about it."""
    async with a_world() as world:
        server = await world.server()

        assert (await world.review(server, body))[0] == 400
        assert world.api.requests.count(("POST", TOKEN_REVIEWS)) == 1, "of the gateway's own token only"


async def test_a_review_waits_for_nobody_when_the_kubernetes_api_is_down() -> None:
    """A gateway that knows the token goes on with what it knows."""
    async with a_world() as world:
        server = await world.server()
        world.api.failures["POST", TOKEN_REVIEWS] = {"code": 500, "message": "broken"}

        assert (await world.review(server))[0] == 503
        assert (await world.review(server, path="/v1/tokens/Agents/router"))[0] == 404


async def test_a_gateway_has_the_experts_of_its_policy_woken() -> None:
    """By the permission that gives it the snapshot; the expert is looked at at once."""
    async with a_world() as world:
        server = await world.server()

        assert (await world.wake(server))[:2] == (202, "")
        assert server.experts_woken == [BRIDGED]


async def test_a_sidecar_has_the_experts_of_its_policy_woken() -> None:
    """By its pod's label, as it gets the snapshot."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        world.put_pod(policy="router")
        server = await world.server()

        assert (await world.wake(server))[0] == 202
        server.allows_sidecars = False
        assert (await world.wake(server))[0] == 403
        assert server.experts_woken == [BRIDGED]


@pytest.mark.parametrize(
    ("headers", "allowed", "path", "status", "message"),
    [
        pytest.param({}, True, WAKE, 401, "show a ServiceAccount token", id="no token"),
        pytest.param(BEARER, False, WAKE, 403, "neither RBAC nor the label", id="no permission"),
        pytest.param(
            BEARER, True, "/v1/wake/other/sql?policy=router", 403, "neither RBAC nor the label", id="another namespace"
        ),
        pytest.param(
            BEARER,
            True,
            "/v1/wake/agents/invoice?policy=router",
            403,
            "RoutingPolicy agents/router does not name Expert agents/invoice",
            id="another policy's expert",
        ),
        pytest.param(
            BEARER, True, "/v1/wake/agents/gone?policy=router", 404, "Expert agents/gone does not exist", id="no expert"
        ),
        pytest.param(BEARER, True, "/v1/wake/agents/sql", 404, "the path is", id="no policy"),
        pytest.param(BEARER, True, "/v1/wake/agents/..%2f..?policy=router", 404, "the path is", id="no expert's name"),
    ],
)
async def test_nobody_wakes_what_is_not_theirs(
    headers: dict[str, str], *, allowed: bool, path: str, status: int, message: str
) -> None:
    """A GPU costs money, so a wake takes the same right as the snapshot, and an expert that the policy names."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(), ACCESS_REVIEWS: {"allowed": allowed}}
        server = await world.server()

        answer = await world.wake(server, path, headers)
        assert (answer[0], server.experts_woken) == (status, [])
        assert message in answer[1]


async def test_wakes_of_one_expert_within_a_second_are_one() -> None:
    """However many routers ask: each is told that it was heard."""
    async with a_world() as world:
        server = await world.server()
        for _ in range(3):
            assert (await world.wake(server))[0] == 202
        assert server.experts_woken == [BRIDGED]
        await world.clock.advance(control_api.WAKE_SECONDS)

        assert (await world.wake(server))[0] == 202
        assert server.experts_woken == [BRIDGED, BRIDGED]


async def test_a_wake_says_whether_a_request_waits() -> None:
    """Such a one is not held back by one of another request, and a standby passes on what it says."""
    async with a_world() as world:
        leader, standby = await world.server(), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"
        for path in (WAKE, f"{WAKE}&waits=1", f"{WAKE}&waits=1"):
            assert (await world.wake(standby, path))[0] == 202

        assert leader.experts_woken == [BRIDGED, (EXPERT, True)]


async def test_a_standby_passes_a_wake_on_to_the_leader() -> None:
    """Whichever replica the Service picks, the leader looks at the expert; without a leader it is told to come back."""
    async with a_world() as world:
        leader, standby = await world.server(), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"

        assert (await world.wake(standby))[0] == 202
        assert (leader.experts_woken, standby.experts_woken) == ([BRIDGED], [])
        standby.leader = ""
        status, _, headers = await world.wake(standby)
        assert (status, headers["Retry-After"]) == (503, "1")


async def test_a_wake_that_the_kubernetes_api_cannot_admit_is_a_503() -> None:
    """The router repeats it."""
    async with a_world() as world:
        server = await world.server()
        world.api.failures["POST", TOKEN_REVIEWS] = {"code": 500, "message": "broken"}

        assert (await world.wake(server))[0] == 503
        assert server.experts_woken == []


async def test_reviews_are_cached_for_a_minute() -> None:
    """Polling costs the Kubernetes API two reviews a minute for each router, not two a poll."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        for _ in range(3):
            await world.call(server)
        reviews = [path for method, path in world.api.requests if method == "POST" and "review" in path]
        await world.clock.advance(61)
        world.api.reviews[ACCESS_REVIEWS] = {"allowed": False}

        assert sorted(reviews) == sorted([TOKEN_REVIEWS, ACCESS_REVIEWS])
        assert (await world.call(server))[0] == 403


async def test_a_refusal_is_forgotten_soon() -> None:
    """A Role that comes a moment after its pod is noticed."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        world.api.reviews[ACCESS_REVIEWS] = {"allowed": False}
        refused = await world.call(server)
        world.api.reviews[ACCESS_REVIEWS] = {"allowed": True}
        await world.clock.advance(6)

        assert refused[0] == 403
        assert (await world.call(server))[0] == 200


async def test_wrong_tokens_drive_no_right_one_out() -> None:
    """A flood of them costs the routers' reviews nothing."""
    async with a_world() as world:
        server = await world.server()
        server.registry.publish(KEY, A_SNAPSHOT)
        access = server.control._access  # pyright: ignore[reportPrivateUsage]
        await world.call(server)
        world.api.reviews[TOKEN_REVIEWS] = {"authenticated": False}
        for number in range(DENIALS_MAX + 1):
            await access.admit(f"Bearer wrong-{number}", "agents", "router")
        asked = world.api.requests.count(("POST", TOKEN_REVIEWS))
        right = await world.call(server)
        await access.admit(f"Bearer wrong-{DENIALS_MAX}", "agents", "router")
        known = world.api.requests.count(("POST", TOKEN_REVIEWS))
        await access.admit("Bearer wrong-0", "agents", "router")

        assert right[0] == 200
        assert known == asked
        assert world.api.requests.count(("POST", TOKEN_REVIEWS)) == asked + 1, "of wrong tokens only so many are kept"


async def test_a_router_waits_once() -> None:
    """A poll that its successor overtook ends, so that no pod can hold any number of them."""
    async with a_world() as world:
        server = await world.server(poll_seconds=600)
        server.registry.publish(KEY, A_SNAPSHOT)
        older = asyncio.create_task(world.call(server, {"digest": DIGEST}))
        await _until_connected(server)
        newer = asyncio.create_task(world.call(server, {"digest": DIGEST, "problem": "Other::anew"}))
        overtaken = await asyncio.wait_for(older, 10)
        server.registry.publish(KEY, ANOTHER)

        assert overtaken[0] == 204
        assert (await newer)[:2] == (200, ANOTHER.data)


async def test_a_replica_that_does_not_lead_publishes_nothing() -> None:
    """What a former leader had begun is not served when it leads again."""
    async with a_world() as world:
        server = await world.server()
        server.leading = False
        server.registry.publish(KEY, A_SNAPSHOT)
        server.leading = True

        assert not server.registry.published(KEY)


async def test_a_standby_passes_on_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest are told to come back, and nothing is kept of them."""
    monkeypatch.setattr(control_api, "PASSED_ON_MAX", 1)
    async with a_world() as world:
        leader, standby = await world.server(), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"
        leader.registry.publish(KEY, A_SNAPSHOT)
        first = asyncio.create_task(world.call(standby, {"digest": DIGEST}))
        await _until_connected(leader)
        status, _, headers = await world.call(standby, {"digest": DIGEST})

        assert (status, headers["Retry-After"]) == (503, "1")
        assert (await first)[0] == 204
        assert (await world.call(standby))[0] == 200


async def test_a_kubernetes_api_that_does_not_answer_is_a_503() -> None:
    """The router keeps what it serves and comes back."""
    async with a_world() as world:
        server = await world.server()
        world.api.failures["POST", TOKEN_REVIEWS] = {"code": 500, "message": "broken"}

        status, _, headers = await world.call(server)
        assert (status, headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        pytest.param(PATH, {"digest": "sha256:short"}, 400, id="a digest that is none"),
        pytest.param(PATH, {"rejected": "x"}, 400, id="a refused digest that is none"),
        pytest.param(PATH, {"error": "x" * 1025}, 400, id="an endless reason"),
        pytest.param(PATH, [("problem", "x")] * 17, 400, id="endless problems"),
        pytest.param("/v1/snapshots/Agents/router", {}, 404, id="no namespace's name"),
        pytest.param("/v1/snapshots/agents/..%2f..", {}, 404, id="no policy's name"),
        pytest.param("/v1/snapshots/agents", {}, 404, id="no policy"),
    ],
)
async def test_bad_requests_are_refused_before_anyone_is_asked(path: str, query: Any, expected: int) -> None:
    """Nothing of a bad request reaches the Kubernetes API."""
    async with a_world() as world:
        server = await world.server()

        assert (await world.call(server, query, path=path))[0] == expected
        assert not [path for method, path in world.api.requests if method == "POST" and "review" in path]


async def test_a_poll_at_all_its_bounds_is_answered() -> None:
    """Whatever alphabet a problem is told in, a router is never shut out for it."""
    async with a_world() as world:
        leader, standby = await world.server(), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"
        leader.registry.publish(KEY, A_SNAPSHOT)
        text = "\U0001f6a2" * TEXT_MAX_CHARACTERS
        query = [("digest", OTHER), ("rejected", OTHER), ("error", text), *[("problem", text)] * PROBLEMS_MAX]

        assert (await world.call(leader, query))[0] == 200
        assert (await world.call(standby, query))[0] == 200


async def test_a_standby_passes_the_poll_on_to_the_leader() -> None:
    """Whichever replica the Service picks, the leader answers and hears the acknowledgement."""
    async with a_world() as world:
        leader, standby = await world.server(), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"
        leader.registry.publish(KEY, A_SNAPSHOT)

        query = [("digest", OTHER), ("problem", "ApiKeys::no api-key & more")]
        status, body, headers = await world.call(standby, query)
        assert (status, body, headers[DIGEST_HEADER]) == (200, SNAPSHOT, DIGEST)
        (acknowledgement,) = leader.registry.acknowledgements(KEY)
        assert (acknowledgement.digest, acknowledgement.problems) == (
            OTHER,
            (Problem(ProblemKind.API_KEYS, "", "no api-key & more"),),
        )
        assert standby.registry.acknowledgements(KEY) == ()
        assert (await world.call(standby, {"digest": DIGEST}))[0] == 204


async def test_a_router_that_hangs_up_at_the_standby_is_noticed_by_the_leader() -> None:
    """The standby hangs up in turn."""
    async with a_world() as world:
        leader, standby = await world.server(poll_seconds=600), await world.server(leading=False)
        standby.leader = f"127.0.0.1:{leader.control.port}"
        leader.registry.publish(KEY, A_SNAPSHOT)
        poll = asyncio.create_task(world.call(standby, {"digest": DIGEST}))
        await _until_connected(leader)
        poll.cancel()
        async with asyncio.timeout(10):
            while leader.registry.acknowledgements(KEY):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)


async def test_two_standbys_do_not_pass_a_poll_to_and_fro() -> None:
    """While the Lease changes hands a poll is refused, not passed in a circle."""
    async with a_world() as world:
        first, second = await world.server(leading=False), await world.server(leading=False)
        first.leader = f"127.0.0.1:{second.control.port}"
        second.leader = f"127.0.0.1:{first.control.port}"

        status, body, headers = await world.call(first)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert b"does not hold the Lease" in body


@pytest.mark.parametrize("leader", ["", "127.0.0.1:1"], ids=["nobody leads", "the leader is dead"])
async def test_a_standby_without_a_leader_says_so(leader: str) -> None:
    """The router keeps what it serves and comes back."""
    async with a_world() as world:
        standby = await world.server(leading=False, leader=leader)

        assert (await world.call(standby))[0] == 503


async def test_metrics_time_acknowledgements_and_count_laggards() -> None:
    """How long a change takes to every router is measured, and who lags is shown."""
    async with a_world() as world:
        telemetry = Telemetry()
        server = await world.server()
        server.registry._telemetry = telemetry  # pyright: ignore[reportPrivateUsage]
        server.registry.publish(KEY, A_SNAPSHOT)
        await world.call(server)
        lagging = telemetry.exposition().decode()
        await world.clock.advance(0.2)
        await world.call(server, {"digest": DIGEST})
        after = telemetry.exposition().decode()
        server.registry.publish(KEY, None)
        await world.call(server, {"digest": DIGEST})
        async with asyncio.timeout(10):
            while server.registry.acknowledgements(KEY):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

        label = '{namespace="agents",policy="router"}'
        assert f"flotilla_operator_routers_lagging{label} 1.0" in lagging
        assert f"flotilla_operator_routers_lagging{label} 0.0" in after
        assert "flotilla_operator_router_acknowledgement_seconds_count 1.0" in after
        assert label not in telemetry.exposition().decode()


def test_the_cache_is_bounded() -> None:
    """Any number of tokens, right or wrong, fits."""
    cache: ExpiringCache[int] = ExpiringCache(lambda: 0.0, 100)
    for number in range(110):
        cache.put(number, number, 60)

    assert cache.get(0) is None
    assert cache.get(109) == 109


async def _until_connected(server: Server) -> None:
    async with asyncio.timeout(10):
        while not server.registry.acknowledgements(KEY):  # noqa: ASYNC110 - the registry has nothing else to wait for
            await asyncio.sleep(0.005)


async def test_an_artifact_is_handed_out_to_who_may_have_the_snapshot() -> None:
    """A gateway gets its own policy's, as a tar."""
    async with a_world() as world:
        server = await world.server()

        status, body, headers = await world.call(server, path=ARTIFACT)
        assert (status, body, headers["Content-Type"]) == (200, b"tar", "application/x-tar")
        assert ARTIFACT_PATH.format(namespace="agents", policy="router", digest=ARTIFACT_DIGEST) == ARTIFACT


async def test_an_artifact_is_handed_out_to_a_sidecar() -> None:
    """Its pod's label admits it, as to the snapshot."""
    async with a_world() as world:
        world.api.reviews = {TOKEN_REVIEWS: authenticated(**AGENT_USER), ACCESS_REVIEWS: {"allowed": False}}
        server = await world.server()
        world.put_pod(policy="router")

        assert (await world.call(server, path=ARTIFACT))[:2] == (200, b"tar")


@pytest.mark.parametrize(
    ("headers", "reviews", "status"),
    [
        pytest.param({}, {}, 401, id="no token"),
        pytest.param(BEARER, {TOKEN_REVIEWS: {"authenticated": False}}, 401, id="a wrong token"),
        pytest.param(BEARER, {ACCESS_REVIEWS: {"allowed": False}}, 403, id="another policy's router"),
    ],
)
async def test_an_artifact_is_handed_out_to_nobody_else(
    headers: Mapping[str, str], reviews: dict[str, Any], status: int
) -> None:
    """It holds what was learned from the prompts of a policy's users."""
    async with a_world() as world:
        world.api.reviews |= reviews
        server = await world.server()

        found, body, _ = await world.call(server, path=ARTIFACT, headers=headers)
        assert (found, b"tar" in body) == (status, False)


@pytest.mark.parametrize(
    ("missing", "status"),
    [
        pytest.param(Missing(Reason.ARTIFACT_NOT_FOUND, "there is none"), 404, id="no such ConfigMap"),
        pytest.param(Missing(Reason.ARTIFACT_DIGEST_MISMATCH, "it is another"), 409, id="another artifact"),
    ],
)
async def test_a_router_hears_why_there_is_no_artifact(missing: Missing, status: int) -> None:
    """The same words as in the policy's condition."""
    async with a_world() as world:
        server = await world.server(artifact=missing)

        found, body, _ = await world.call(server, path=ARTIFACT)
        assert found == status
        assert json.loads(body) == {"error": {"reason": missing.reason.value, "message": missing.message}}


@pytest.mark.parametrize("path", ["sha256:aa", "latest", ARTIFACT_DIGEST.upper(), f"{ARTIFACT_DIGEST}/weights.npz"])
async def test_an_artifact_is_asked_for_by_its_digest(path: str) -> None:
    """Nothing else is a path of one."""
    async with a_world() as world:
        server = await world.server()

        assert (await world.call(server, path=f"/v1/artifacts/agents/router/{path}"))[0] == 404


async def test_a_standby_passes_a_request_for_an_artifact_on() -> None:
    """The leader published the snapshot that names it, so the leader knows it."""
    async with a_world() as world:
        leader = await world.server(artifact=b"the leader's")
        address = f"127.0.0.1:{leader.control.port}"
        standby = await world.server(leading=False, leader=address)

        status, body, headers = await world.call(standby, path=ARTIFACT)
        assert (status, body, headers["Content-Type"]) == (200, b"the leader's", "application/x-tar")


async def test_an_artifact_waits_for_the_kubernetes_api() -> None:
    """A router is told to come back, not that there is none."""
    async with a_world() as world:
        del world.api.reviews[TOKEN_REVIEWS]
        world.api.failures[("POST", TOKEN_REVIEWS)] = {"code": 500, "reason": "InternalError", "message": "etcd"}
        server = await world.server()

        status, _, headers = await world.call(server, path=ARTIFACT)
        assert (status, headers["Retry-After"]) == (503, "1")
