"""Snapshots come and go, the control API too, and a router ends without losing a request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from certificates import Authority
from rig import (
    DONE,
    LAST_CHUNK,
    NAMESPACE,
    POLICY,
    STREAM_HEAD,
    ModelServer,
    Peer,
    Received,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chunk,
    client,
    expert,
    external_fallback,
    get,
    model_server,
    post,
    replies,
    router,
    until,
)

from flotilla_api.control import Problem, format_time
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_router.control import Answer, Poll, SnapshotSource

ANSWER = chat_answer("4")


def digest_of(snapshot: RoutingSnapshot) -> str:
    return RoutingSnapshot.digest_of(snapshot.to_json())


def query_of(received: Received) -> dict[str, list[str]]:
    return parse_qs(urlsplit(received.path).query, keep_blank_values=True)


async def test_a_running_request_keeps_the_snapshot_that_it_began_with(tmp_path: Path) -> None:
    """A reload changes where new requests go and nothing else."""
    go_on = asyncio.Event()

    async def slow(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(chat_event("so")))
        await go_on.wait()
        await peer.write(chunk(chat_event(finish="stop") + DONE) + LAST_CHUNK)

    async with (
        model_server(slow) as old,
        model_server(replies(ANSWER)) as new,
        router(tmp_path, a_snapshot(expert("maths", old.address))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(stream=True)))
        _, headers = await raw.head()
        rig.load(a_snapshot(expert("sums", new.address), generation=2))
        other = await ask(rig.port, post(chat()))
        go_on.set()
        body = await raw.body(headers)

        assert other.headers["x-flotilla-model"] == "sums"
        assert headers["x-flotilla-model"] == "maths"
        assert body.endswith(DONE)


async def test_replicas_that_stay_keep_their_connections_over_a_reload(tmp_path: Path) -> None:
    """A new snapshot does not mean new connections."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        await ask(rig.port, post(chat()))
        rig.load(a_snapshot(expert("maths", model.address), generation=2))
        await ask(rig.port, post(chat()))

        assert model.connections == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"not json", "JSON", id="not JSON"),
        pytest.param(b"{}", "schemaVersion", id="fields are missing"),
        pytest.param(a_snapshot(policy="other").to_json(), "it is for agents/other", id="of another policy"),
        pytest.param(
            a_snapshot(expert("maths", "here")).to_json(),
            "targets: Expert maths cannot be reached: 'here' is not host:port",
            id="no port",
        ),
        pytest.param(
            a_snapshot(external_fallback("big", "https://a:70000/v1")).to_json(),
            "targets: Fallback big cannot be reached: 'a:70000' is not host:port with a port from 1 to 65535",
            id="no such port",
        ),
    ],
)
async def test_a_bad_snapshot_leaves_the_last_good_one_in_use(tmp_path: Path, data: bytes, reason: str) -> None:
    """It is counted and logged; requests go on."""
    async with (
        model_server(replies(ANSWER)) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address))) as rig,
    ):
        error = rig.process.store.offer(data)

        assert error is not None
        assert reason in error
        assert rig.metric("flotilla_router_snapshots_rejected_total{") == 1
        assert (await ask(rig.port, post(chat()))).status == 200


async def test_the_mounted_file_is_the_start_and_is_followed(tmp_path: Path) -> None:
    """Without a control API the file alone decides, also when it changes."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "snapshot.json").write_bytes(a_snapshot(models=("one",)).to_json())
    async with router(tmp_path, None) as rig:
        assert (await ask(rig.port, get("/readyz"))).status == 200
        (folder / "new").write_bytes(a_snapshot(models=("two",)).to_json())
        (folder / "new").rename(folder / "snapshot.json")
        await until(lambda: rig.process.registry.live and rig.process.registry.live.snapshot.models == ("two",))


# The control API


class Control:
    """A control API: answers a poll at once if it names another digest than the current one, else when told."""

    def __init__(self, snapshot: RoutingSnapshot) -> None:
        self.data = snapshot.to_json()
        self.published_at = at(0)
        self.changed = asyncio.Event()
        self.status = 200

    def publish(self, data: bytes, published_at: str = "") -> None:
        self.data = data
        self.published_at = published_at or self.published_at
        self.changed.set()
        self.changed = asyncio.Event()

    async def __call__(self, received: Received, peer: Peer) -> None:
        if self.status != 200:
            await replies(b"{}", status=self.status)(received, peer)
            return
        if query_of(received)["digest" if "rejected" not in query_of(received) else "rejected"] == [
            RoutingSnapshot.digest_of(self.data)
        ]:
            await self.changed.wait()
        await replies(self.data, extra=f"Snapshot-Published-At: {self.published_at}\r\n")(received, peer)


def at(seconds: int) -> str:
    """A moment as the operator writes it."""
    return format_time(datetime(2026, 11, 23, 12, 0, seconds, tzinfo=UTC))


def mount(folder: Path, snapshot: RoutingSnapshot, published_at: str) -> None:
    """The kubelet has brought the ConfigMap."""
    (folder / "snapshot").mkdir(exist_ok=True)
    (folder / "snapshot" / "published-at").write_text(published_at)
    (folder / "snapshot" / "snapshot.json").write_bytes(snapshot.to_json())


def with_token(folder: Path, token: str = "t-1") -> Path:
    (folder / "token").mkdir(exist_ok=True)
    (folder / "token" / "token").write_text(token)
    return folder


def polls(server: ModelServer) -> list[dict[str, list[str]]]:
    return [query_of(received) for received in server.received]


async def test_snapshots_come_from_the_control_api_and_are_acknowledged_at_once(tmp_path: Path) -> None:
    """The first poll names nothing, the next one the digest that is in use; a change arrives without delay."""
    first, second = a_snapshot(models=("one",)), a_snapshot(models=("two",))
    control = Control(first)
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}") as rig,
    ):
        await until(lambda: len(server.received) == 2)
        control.publish(second.to_json())
        await until(lambda: len(server.received) == 3)

        assert urlsplit(server.received[0].path).path == f"/v1/snapshots/{NAMESPACE}/{POLICY}"
        assert server.received[0].headers["authorization"] == "Bearer t-1"
        assert [poll.get("digest") for poll in polls(server)] == [[""], [digest_of(first)], [digest_of(second)]]
        assert rig.metric("flotilla_router_control_connected{") == 1
        assert rig.metric(f'flotilla_router_snapshot_info{{digest="{digest_of(second)}"') == 1


async def test_a_refused_snapshot_is_reported(tmp_path: Path) -> None:
    """The next poll names the digest in use, the one that was refused, and why."""
    good = a_snapshot()
    control = Control(good)
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}"),
    ):
        await until(lambda: len(server.received) == 2)
        control.publish(b"{}")
        await until(lambda: len(server.received) == 3)

        poll = polls(server)[2]
        assert poll["digest"] == [digest_of(good)]
        assert poll["rejected"] == [RoutingSnapshot.digest_of(b"{}")]
        assert "schemaVersion" in poll["error"][0]


async def test_problems_are_reported(tmp_path: Path) -> None:
    """What keeps this router from doing its work reaches the operator."""
    control = Control(a_snapshot(external_fallback("big", "https://example.com/v1", hasCredentials=True)))
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}"),
    ):
        await until(lambda: len(server.received) == 2)

        assert polls(server)[1]["problem"] == ["Credential:big:Fallback big: its API key is not mounted"]


async def test_a_problem_that_ended_is_reported_at_once(tmp_path: Path) -> None:
    """A poll that waits for news is given up when what it said is no longer so."""
    control = Control(a_snapshot(external_fallback("big", "https://example.com/v1", hasCredentials=True)))
    folder = tmp_path / "credentials" / "big"
    folder.mkdir(parents=True)
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}") as rig,
    ):
        await until(lambda: len(server.received) == 2)
        (folder / "api-key").write_text("sk-provider")

        await until(lambda: len(server.received) == 3)
        assert "problem" not in polls(server)[2]
        assert polls(server)[2]["digest"] == polls(server)[1]["digest"]
        assert rig.log.of("control API lost") == []


async def test_the_file_serves_while_the_control_api_does_not(tmp_path: Path) -> None:
    """An operator that is away changes nothing; when it is back, its token is read again."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "snapshot.json").write_bytes(a_snapshot(models=("file",)).to_json())
    control = Control(a_snapshot(models=("api",)))
    control.status = 503
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}") as rig,
    ):

        def models() -> tuple[str, ...]:
            assert rig.process.registry.live is not None
            return rig.process.registry.live.snapshot.models

        await until(lambda: len(server.received) == 2)
        assert models() == ("file",)
        assert len(rig.log.of("control API lost")) == 1
        with_token(tmp_path, "t-2")
        control.status = 200
        await until(lambda: models() == ("api",))
        assert server.received[-1].headers["authorization"] == "Bearer t-2"


@pytest.mark.parametrize(
    ("published_at", "used"),
    [
        pytest.param(at(1), False, id="published before what the API brought, and never seen"),
        pytest.param(at(2), False, id="published at the same time"),
        pytest.param("", False, id="by an operator that does not say when"),
        pytest.param(at(3), True, id="published after the API was lost"),
    ],
)
async def test_a_file_replaces_what_the_control_api_brought_only_if_it_is_newer(
    tmp_path: Path, published_at: str, *, used: bool
) -> None:
    """The kubelet brings the file late; a lost connection must not bring the past back, nor stop the future."""
    brought, mounted = a_snapshot(models=("api",)), a_snapshot(models=("file",))
    control = Control(a_snapshot())
    async with (
        model_server(control) as server,
        router(with_token(tmp_path), None, control_url=f"http://{server.address}") as rig,
    ):
        await until(lambda: len(server.received) == 2)
        control.publish(brought.to_json(), at(2))
        await until(lambda: len(server.received) == 3)
        control.status = 503
        control.publish(brought.to_json())
        await until(lambda: rig.log.of("control API lost"))
        mount(tmp_path, mounted, published_at)
        rig.process.source.read_file()

        assert rig.process.store.digest == digest_of(mounted if used else brought)


class MemoryStore:
    """A `control.Store` that takes everything."""

    def __init__(self) -> None:
        self.digest = ""
        self.errors: list[str | None] = []

    def offer(self, data: bytes) -> str | None:
        self.digest = RoutingSnapshot.digest_of(data)
        return None

    def problems(self) -> list[Problem]:
        return []

    def connected(self, error: str | None) -> None:
        self.errors.append(error)


class Enough(BaseException):
    """The test has seen enough."""


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_an_early_answer_without_news_is_followed_by_a_pause(tmp_path: Path, status: int) -> None:
    """A control API that answers at once, for whatever reason, is not asked thousands of times a second."""
    pauses: list[float] = []

    async def fetch(poll: Poll) -> Answer:
        return Answer(status, b"{}")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    source = SnapshotSource(
        MemoryStore(), fetch, tmp_path, with_token(tmp_path) / "token", now=lambda: 0.0, sleep=sleep
    )
    with pytest.raises(Enough):
        await source.follow("http://control", NAMESPACE, POLICY, lambda: 0.5)

    assert pauses == [1.5, 1.5, 1.5]


async def test_a_late_answer_without_news_is_followed_by_a_poll_at_once(tmp_path: Path) -> None:
    """Between two long polls nothing is missed."""
    clock = iter(range(0, 1000, 30))
    polls: list[Poll] = []

    async def fetch(poll: Poll) -> Answer:
        polls.append(poll)
        if len(polls) == 3:
            raise Enough
        return Answer(204, b"")

    async def sleep(_: float) -> None:
        raise AssertionError("there was a pause")

    source = SnapshotSource(
        MemoryStore(), fetch, tmp_path, with_token(tmp_path) / "token", now=lambda: float(next(clock)), sleep=sleep
    )
    with pytest.raises(Enough):
        await source.follow("http://control", NAMESPACE, POLICY, lambda: 0.5)

    assert len(polls) == 3


async def test_a_poll_that_crashes_is_not_the_last(tmp_path: Path) -> None:
    """A mistake of ours is logged with its trace, and the next poll goes out after the usual wait."""
    crashes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: crashes.append(context.get("exception")))
    store, pauses = MemoryStore(), list[float]()

    async def fetch(poll: Poll) -> Answer:
        raise RuntimeError("a defect")

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    source = SnapshotSource(store, fetch, tmp_path, with_token(tmp_path) / "token", sleep=sleep)
    with pytest.raises(Enough):
        await source.follow("http://control", NAMESPACE, POLICY, lambda: 0.0)

    assert pauses == [0.125, 0.25, 0.5]
    assert [str(crash) for crash in crashes] == ["a defect"] * 3
    assert store.errors[0] is not None
    assert "a defect" in store.errors[0]


async def test_the_control_api_is_verified(tmp_path: Path) -> None:
    """Its certificate must be of the mounted authority, which may be renewed while the router runs."""
    wrong, right = Authority.make("wrong"), Authority.make("right")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "control-ca.crt").write_bytes(wrong.pem)
    control = Control(a_snapshot())
    async with model_server(control, tls=right.server_context(tmp_path / "server")) as server:
        url = f"https://localhost:{server.address.rsplit(':', 1)[1]}"
        async with router(with_token(tmp_path), None, control_url=url) as rig:
            await until(lambda: rig.log.of("control API lost"))
            assert server.received == []
            (folder / "control-ca.crt").write_bytes(right.pem)
            await until(lambda: rig.process.store.digest)


# The end


async def finishes_when(go_on: asyncio.Event, received: Received, peer: Peer) -> None:
    await peer.write(STREAM_HEAD + chunk(chat_event("so")))
    await go_on.wait()
    await peer.write(chunk(chat_event(finish="stop") + DONE) + LAST_CHUNK)


async def test_a_drain_finishes_what_is_under_way(tmp_path: Path) -> None:
    """Not ready at once, requests still served while settling, then no new connection, and the stream ends whole."""
    go_on = asyncio.Event()

    async def slow(received: Received, peer: Peer) -> None:
        if received.json["stream"]:
            await finishes_when(go_on, received, peer)
        else:
            await replies(ANSWER)(received, peer)

    async with (
        model_server(slow) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address)), settle_seconds=2) as rig,
        client(rig.port) as raw,
        client(rig.port) as idle,
    ):
        await raw.send(post(chat(stream=True)))
        _, headers = await raw.head()
        draining = asyncio.create_task(rig.process.drain())
        await until(lambda: rig.process.router.draining)

        assert (await ask(rig.ports.admin, get("/readyz"))).status == 503
        late = await ask(rig.port, post(chat()))
        assert (late.status, late.headers["connection"]) == (200, "close")
        assert await idle.ended()
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the kernel likes
            await ask(rig.port, get("/healthz"))
        go_on.set()
        assert (await raw.body(headers)).endswith(DONE)
        await draining


async def test_what_outlives_the_grace_ends_in_an_error(tmp_path: Path) -> None:
    """A stream ends with an event, a whole answer with a 503; nobody is left hanging."""
    never = asyncio.Event()

    async def slow(received: Received, peer: Peer) -> None:
        if received.json["stream"]:
            await finishes_when(never, received, peer)
        else:
            await never.wait()

    async with (
        model_server(slow) as model,
        router(tmp_path, a_snapshot(expert("maths", model.address)), drain_seconds=0.2) as rig,
        client(rig.port) as stream,
        client(rig.port) as whole,
    ):
        await stream.send(post(chat(stream=True)))
        _, headers = await stream.head()
        await whole.send(post(chat()))
        await until(lambda: len(model.received) == 2)
        await rig.process.drain()

        assert b'data: {"error":' in await stream.body(headers)
        assert (await whole.reply()).status == 503
