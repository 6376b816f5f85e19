"""The admission webhook over TLS: what becomes of a pod, and that no pod ever waits or is refused."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import jsonpatch  # pyright: ignore[reportMissingTypeStubs]
import pytest
from test_certificates import CurrentClock

from builders import NAMESPACE, SETTINGS, a_policy
from fakes.apiserver import FakeApiServer, running_api_server
from flotilla_api import names
from flotilla_operator.adapters import webhook as module
from flotilla_operator.adapters.certificates import Certificates
from flotilla_operator.adapters.client import Client, Connection
from flotilla_operator.adapters.kinds import KINDS
from flotilla_operator.adapters.reviews import OBJECTS_MAX
from flotilla_operator.adapters.store import Store
from flotilla_operator.adapters.webhook import BODY_MAX_BYTES, HELD_MAX_BYTES, INJECT_PATH, Webhook
from flotilla_operator.reconcile.dispatch import references
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.resources.specs import parse_policy
from flotilla_operator.telemetry import Telemetry

Json = dict[str, Any]
POLICY_PATH = KINDS["RoutingPolicy"].path(NAMESPACE, "billing")
READ = ("GET", POLICY_PATH)


def an_agent(policy: str = "billing", *, labels: Json | None = None, **spec: Any) -> Json:
    """A pod as the API server sends it while it is created: a ReplicaSet's has no name and no namespace yet."""
    metadata = {
        "generateName": "agent-",
        "creationTimestamp": None,
        "labels": {names.POLICY_LABEL: policy, **(labels or {})},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "agent", "image": "python:3.13", "resources": {}}], **spec},
        "status": {},
    }


def a_review(pod: Json | None, **request: Any) -> Json:
    """An AdmissionReview of a pod's creation; `request` replaces its fields."""
    base: Json = {
        "uid": "review-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": NAMESPACE,
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**base, **request}}


def applied(response: Json, pod: Json) -> Json:
    """The pod as the API server goes on with it."""
    if "patch" not in response:
        return pod
    assert response["patchType"] == "JSONPatch"
    return jsonpatch.JsonPatch(json.loads(base64.b64decode(response["patch"]))).apply(pod)  # pyright: ignore


def injected(pod: Json) -> Json:
    """By the pure function itself."""
    return inject_sidecar(pod, SidecarInputs(NAMESPACE, "billing", parse_policy(a_policy()), SETTINGS)).pod


@dataclass
class World:
    """A replica's webhook, and the API server that calls it."""

    api: FakeApiServer
    store: Store
    webhook: Webhook
    telemetry: Telemetry
    http: aiohttp.ClientSession

    def know(self, policy: Json) -> None:
        """The store has heard of the policy."""
        self.store.apply(self.api.put(POLICY_PATH, policy))

    async def post(self, body: bytes, path: str = INJECT_PATH) -> tuple[int, bytes]:
        """Status and body of an answer."""
        headers = {"Content-Type": "application/json"}
        url = f"https://127.0.0.1:{self.webhook.port}{path}?timeout=2s"
        async with self.http.post(url, data=io.BytesIO(body), headers=headers) as response:
            return response.status, await response.read()

    async def review(self, pod: Json | None, **request: Any) -> Json:
        """The response to a review, in which every pod is allowed."""
        status, body = await self.post(json.dumps(a_review(pod, **request)).encode())
        assert status == 200, body
        answer = json.loads(body)
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        assert answer["response"]["uid"] == "review-1"
        assert answer["response"]["allowed"] is True
        return answer["response"]

    def count(self, result: str) -> float:
        """Pods with this result."""
        name, labels = "flotilla_operator_injections_total", {"result": result}
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def a_world(*, answer_seconds: float = 30.0) -> AsyncGenerator[World]:
    """The store knows the policy `billing`."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api_server())
        telemetry, store = Telemetry(), Store(references)
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        client = await stack.enter_async_context(Client(connection, telemetry))
        certificates = Certificates(
            client, CurrentClock(), namespace="system", names=["control"], address="127.0.0.1", changed=lambda: None
        )
        await certificates.load()
        webhook = Webhook(
            store,
            client,
            certificates=certificates,
            settings=SETTINGS,
            telemetry=telemetry,
            answer_seconds=answer_seconds,
        )
        await webhook.start("127.0.0.1", 0)
        stack.push_async_callback(webhook.stop)
        connector = aiohttp.TCPConnector(ssl=certificates.client_context, limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        world = World(api, store, webhook, telemetry, http)
        world.know(a_policy())
        api.requests.clear()
        yield world


async def test_a_labelled_pod_gets_the_sidecar() -> None:
    """By a JSON patch, with no call to the Kubernetes API."""
    async with a_world() as world:
        pod = an_agent()
        response = await world.review(pod)

        assert applied(response, pod) == injected(an_agent())
        assert "warnings" not in response
        assert world.count("injected") == 1
        assert world.api.requests == []


async def test_asked_again_it_changes_nothing() -> None:
    """The API server asks again when another webhook changed the pod after us."""
    async with a_world() as world:
        response = await world.review(injected(an_agent()))

        assert "patch" not in response
        assert world.count("unchanged") == 1


async def test_what_another_webhook_added_meanwhile_finds_the_sidecar_too() -> None:
    """A container that came after us is an agent like the others."""
    async with a_world() as world:
        pod = injected(an_agent())
        pod["spec"]["containers"].append({"name": "late", "image": "i"})
        response = await world.review(pod)

        late = applied(response, pod)["spec"]["containers"][1]
        assert [each["name"] for each in late["env"]] == ["OPENAI_BASE_URL", "OPENAI_API_KEY"]
        assert len(json.loads(base64.b64decode(response["patch"]))) == 1


async def test_what_the_pod_sets_itself_is_a_warning() -> None:
    """Whoever creates the pod sees it in the answer."""
    async with a_world() as world:
        own = [{"name": "OPENAI_BASE_URL", "value": "https://api.example.com/v1"}]
        response = await world.review(an_agent(containers=[{"name": "agent", "image": "i", "env": own}]))

        (warning,) = response["warnings"]
        assert "OPENAI_BASE_URL" in warning


async def test_a_policy_that_is_a_moment_old_is_read_live() -> None:
    """The store has not heard of it yet: applied in one go with the Deployment that names it."""
    async with a_world() as world:
        world.store.remove(world.api.objects[POLICY_PATH])
        pod = an_agent()
        response = await world.review(pod)

        assert applied(response, pod) == injected(an_agent())
        assert world.api.requests == [READ]


@pytest.mark.parametrize(
    ("policy", "result", "said"),
    [
        pytest.param(None, "not_found", "RoutingPolicy agents/billing does not exist", id="absent"),
        pytest.param(
            a_policy(placement={"sidecar": {"enabled": False}}),
            "disabled",
            "placement.sidecar.enabled: false",
            id="off",
        ),
        pytest.param(a_policy(experts="none"), "refused", "apply it again", id="of another schema"),
        pytest.param(
            a_policy(placement={"sidecar": {"port": names.SIDECAR_ADMIN_PORT}}), "refused", "adminPort", id="refused"
        ),
    ],
)
async def test_a_pod_that_gets_no_sidecar_starts_without_one(policy: Json | None, result: str, said: str) -> None:
    """It is allowed as it is, and whoever creates it is told why."""
    async with a_world() as world:
        world.store.remove(world.api.objects.pop(POLICY_PATH))
        if policy:
            world.know(policy)
        response = await world.review(an_agent())

        assert "patch" not in response
        (warning,) = response["warnings"]
        assert warning.startswith("no sidecar: ")
        assert said in warning
        assert world.count(result) == 1


@pytest.mark.parametrize(
    ("pod", "request_fields"),
    [
        pytest.param(an_agent(labels={names.KIND_LABEL: "RoutingPolicy"}), {}, id="our own child"),
        pytest.param(an_agent(""), {}, id="no name"),
        pytest.param({**an_agent(), "metadata": {"labels": None}}, {}, id="no labels"),
        pytest.param(an_agent(), {"operation": "UPDATE"}, id="an update: containers cannot be added any more"),
        pytest.param(an_agent(), {"subResource": "ephemeralcontainers"}, id="a subresource"),
        pytest.param(None, {"operation": "DELETE"}, id="a deletion"),
        pytest.param({"spec": {}}, {"kind": {"group": "apps", "kind": "Deployment"}}, id="another kind"),
    ],
)
async def test_who_asks_for_nothing_gets_nothing(pod: Json | None, request_fields: Json) -> None:
    """Whatever the configuration sends."""
    async with a_world() as world:
        response = await world.review(pod, **request_fields)

        assert response == {"uid": "review-1", "allowed": True}
        assert world.count("unchanged") == 1


async def test_an_api_server_that_does_not_answer_delays_no_pod() -> None:
    """The pod is allowed while the read is still under way."""
    async with a_world(answer_seconds=0.2) as world:
        world.store.remove(world.api.objects[POLICY_PATH])
        world.api.holds[READ] = asyncio.Event()
        response = await world.review(an_agent())

        assert "patch" not in response
        assert "could not be read" in response["warnings"][0]
        assert world.count("unavailable") == 1


async def test_an_api_server_that_fails_delays_no_pod() -> None:
    """As above."""
    async with a_world() as world:
        world.store.remove(world.api.objects[POLICY_PATH])
        world.api.failures[READ] = {"code": 503, "reason": "ServiceUnavailable", "message": "overload"}
        response = await world.review(an_agent())

        assert "could not be read" in response["warnings"][0]


async def test_a_flood_of_reads_leaves_the_others_alone() -> None:
    """Pods of a policy that the store knows are injected while reads for absent ones hang."""
    async with a_world() as world:
        hold = world.api.holds[("GET", KINDS["RoutingPolicy"].path(NAMESPACE, "absent"))] = asyncio.Event()
        flood = [asyncio.create_task(world.review(an_agent("absent"))) for _ in range(128)]
        async with asyncio.timeout(10):
            while len(world.api.held) < module.READS_AT_A_TIME:  # noqa: ASYNC110 - the fake has nothing to wait for
                await asyncio.sleep(0.001)
        response = await world.review(an_agent())
        reading = len(world.api.held)
        hold.set()
        await asyncio.gather(*flood)

        assert "patch" in response
        assert reading == module.READS_AT_A_TIME


@pytest.mark.parametrize("name", ["../../../../api/v1/secrets", "Billing", "a%2Fb", "billing\n"])
async def test_a_name_that_no_policy_can_have_reads_nothing(name: str) -> None:
    """Nobody has the operator read another path for them."""
    async with a_world() as world:
        response = await world.review(an_agent(name))

        assert "does not exist" in response["warnings"][0]
        assert world.api.requests == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"{}", id="no review"),
        pytest.param(json.dumps({**a_review(an_agent()), "apiVersion": "admission.k8s.io/v1beta1"}).encode(), id="old"),
        pytest.param(json.dumps(a_review(None)).encode(), id="no pod"),
        pytest.param(json.dumps(a_review(an_agent(), uid="")).encode(), id="no uid"),
        pytest.param(json.dumps(a_review({"metadata": {}, "spec": {"containers": None}})).encode(), id="no containers"),
        pytest.param(json.dumps(a_review(an_agent(containers=[{}]))).encode(), id="a container without a name"),
        pytest.param(json.dumps(a_review(an_agent(labels={"a": 1}))).encode(), id="a label that is a number"),
        pytest.param(json.dumps(a_review(an_agent(volumes={"a": 1}))).encode(), id="volumes that are no list"),
    ],
)
async def test_what_is_no_review_of_a_pod_is_a_bad_request(body: bytes) -> None:
    """With a sentence, and the next review is answered."""
    async with a_world() as world:
        status, text = await world.post(body)

        assert (status, text[:22]) == (400, b"not a review of a pod:")
        assert "patch" in await world.review(an_agent())


async def test_a_flood_holds_no_more_than_a_few_bodies() -> None:
    """Sixty-four callers send as much as they may: what is held of it is bounded, and pods are injected afterwards."""
    async with a_world() as world:
        flood = b'{"object":[' + b"[]," * (BODY_MAX_BYTES // 3 - 10) + b"0]}"
        answers = await asyncio.gather(*(refused(world, flood) for _ in range(64)))

        assert {status for status, _ in answers} <= {0, 400, 503}
        assert world.webhook.held_bytes == 0
        assert "patch" in await world.review(an_agent())


async def refused(world: World, body: bytes) -> tuple[int, bytes]:
    """Status and body; 0: the connection was closed before all was sent."""
    try:
        return await world.post(body)
    except aiohttp.ClientError:
        return 0, b""


async def test_what_arrived_of_unfinished_reviews_is_bounded() -> None:
    """Those that come on top are refused at once, while the others are still waited for."""
    async with a_world() as world, asyncio.TaskGroup() as senders:

        async def unfinished() -> AsyncGenerator[bytes]:
            yield b" " * (BODY_MAX_BYTES - 1000)
            await asyncio.Event().wait()

        url = f"https://127.0.0.1:{world.webhook.port}{INJECT_PATH}"
        slow = [senders.create_task(world.http.post(url, data=unfinished()).__aenter__()) for _ in range(2)]
        async with asyncio.timeout(20):
            while world.webhook.held_bytes < 2 * (BODY_MAX_BYTES - 1000):  # noqa: ASYNC110 - bytes that arrive
                await asyncio.sleep(0.001)
        status, text = await world.post(b" " * 2001)
        fits = await world.review(an_agent())
        for task in slow:
            task.cancel()

        assert (status, text) == (503, b"too many reviews at a time")
        assert HELD_MAX_BYTES - 2000 == 2 * (BODY_MAX_BYTES - 1000)
        assert "patch" in fits


async def test_more_objects_than_any_pod_has_are_not_decoded() -> None:
    """Empty ones take a hundred times the memory that they take in the body."""
    async with a_world() as world:
        status, text = await world.post(b"[" + b"{}," * OBJECTS_MAX + b"{}]")

        assert (status, text[:42]) == (400, b"not a review of a pod: more than 20000 obj")


async def test_a_compressed_body_is_not_unpacked() -> None:
    """A few of its bytes may stand for gigabytes."""
    async with a_world() as world:
        url = f"https://127.0.0.1:{world.webhook.port}{INJECT_PATH}"
        packed = gzip.compress(json.dumps(a_review(an_agent())).encode())
        async with world.http.post(url, data=packed, headers={"Content-Encoding": "gzip"}) as response:
            assert response.status == 400


async def test_a_policy_that_is_absent_is_read_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A moment later nothing is asked or logged again, whatever the number of pods, until the store has heard of it."""
    monkeypatch.setattr(module, "ABSENT_SECONDS", 600.0)
    monkeypatch.setattr(module, "LOG_SECONDS", 600.0)
    caplog.set_level("INFO")
    async with a_world() as world:
        world.store.remove(world.api.objects.pop(POLICY_PATH))
        for _ in range(3):
            await world.review(an_agent())
        asked = list(world.api.requests)
        world.know(a_policy())
        found = await world.review(an_agent())

        assert asked == [READ]
        assert world.count("not_found") == 3
        assert "patch" in found
    assert [each.message for each in caplog.records].count("pod reviewed") == 2


async def test_a_body_is_bounded() -> None:
    """Larger than any object that the API server takes."""
    async with a_world() as world:
        assert (await world.post(b" " * (BODY_MAX_BYTES + 1)))[0] == 413
        assert (await world.post(b"{}", "/v1/else"))[0] == 404


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """Whoever sends a head and then nothing holds nothing."""
    async with a_world(answer_seconds=0.2) as world:

        async def never() -> AsyncGenerator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        url = f"https://127.0.0.1:{world.webhook.port}{INJECT_PATH}"
        async with world.http.post(url, data=never()) as response:
            assert response.status == 503


async def test_a_mistake_of_ours_refuses_no_pod(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pod is allowed, and the log has the traceback."""

    def fail(_: Json) -> None:
        raise RuntimeError("provoked")

    async with a_world() as world:
        monkeypatch.setattr(module, "parse_policy", fail)
        response = await world.review(an_agent())

        assert "patch" not in response
        assert world.count("failed") == 1
    assert "RuntimeError: provoked" in caplog.text


async def test_a_replica_that_ends_answers_and_sends_callers_elsewhere() -> None:
    """The API server keeps connections: it is told to close them before they would break under a review."""
    async with a_world() as world:
        url = f"https://127.0.0.1:{world.webhook.port}{INJECT_PATH}"
        async with world.http.post(url, json=a_review(an_agent())) as response:
            before = response.headers.get("Connection")
        await world.webhook.settle(0)
        async with world.http.post(url, json=a_review(an_agent())) as response:
            assert (before, response.headers["Connection"]) == (None, "close")
            assert "patch" in (await response.json())["response"]


async def test_long_warnings_are_cut() -> None:
    """At what the API server passes on."""
    async with a_world() as world:
        world.store.remove(world.api.objects.pop(POLICY_PATH))
        response = await world.review(an_agent("x" * 400))

        assert len(response["warnings"][0]) == module.WARNING_MAX_CHARACTERS
