"""Requests for experts at zero: bridged, held or rejected, and who is told to wake them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest
from relays import pair, write
from rig import (
    NAMESPACE,
    POLICY,
    ListLog,
    Peer,
    RawClient,
    Received,
    Rig,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_stream,
    client,
    expert,
    external_fallback,
    model_server,
    post,
    replies,
    response,
    router,
    served_fallback,
    streams,
    until,
)

from flotilla_api.snapshot import ColdStartConfig, RoutingSnapshot, Target
from flotilla_router.control import ControlError
from flotilla_router.exchange import Exchange
from flotilla_router.holds import Holds
from flotilla_router.telemetry import Telemetry
from flotilla_router.wakes import RETRY_SECONDS, Wake, Wakes

WAKE = f"/v1/wake/{NAMESPACE}/maths?policy={POLICY}"
LONG = 3600.0


class Operator:
    """A control API that takes wakes; polls for snapshots are never answered."""

    def __init__(self, *statuses: int) -> None:
        self.wakes: list[Received] = []
        self.statuses = [*statuses, 202]
        """Of the answers to wakes; the last one is given again and again."""

    async def __call__(self, received: Received, peer: Peer) -> None:
        if received.method != "POST":
            await peer.closed()
            return
        self.wakes.append(received)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        await peer.write(response(b"", status=status))


def sleeper(name: str, *addresses: str) -> Target:
    """An expert that is woken by a request while it has no address."""
    return expert(name, *addresses).model_copy(update={"wakes": True})


def a_policy(*targets: Target, mode: str = "Bridge", hold: float = LONG, **fields: Any) -> RoutingSnapshot:
    """A policy over these targets whose requests wait as long as that."""
    return a_snapshot(*targets, coldStart=ColdStartConfig(mode=mode, maxHoldSeconds=hold), **fields)  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def cold_router(
    folder: Path, snapshot: RoutingSnapshot, operator: Operator | None = None, **changes: Any
) -> AsyncGenerator[Rig]:
    """A router and its control API."""
    write(folder / "token" / "token", "control-token")
    async with (
        model_server(operator or Operator()) as control,
        router(folder, snapshot, control_url=f"http://{control.address}", **changes) as rig,
    ):
        yield rig


@asynccontextmanager
async def waiting(rig: Rig, body: Mapping[str, Any]) -> AsyncGenerator[RawClient]:
    """A client whose request waits."""
    count = len(rig.process.dispatcher.under_way)
    async with client(rig.port) as raw:
        await raw.send(post(body))
        await until(lambda: len(rig.process.dispatcher.under_way) == count + 1)
        yield raw


def never_look(rig: Rig) -> None:
    """No clock makes the requests that wait look whether they still have to."""
    for exchange in rig.process.dispatcher.under_way:
        assert isinstance(exchange, Exchange)
        assert exchange.hold is not None
        exchange.due = exchange.hold.due = inf


def escalations(rig: Rig, expert: str = "maths") -> float:
    """Those of cold starts."""
    labels = f'cause="ColdStart",expert="{expert}",group="policy",policy="{POLICY}"'
    return rig.metric(f"flotilla_router_escalations_total{{{labels}}}")


def demand(rig: Rig, expert: str = "maths") -> float:
    return rig.metric(f'flotilla_router_demand_total{{expert="{expert}",policy="{POLICY}"}}')


def held(rig: Rig) -> float:
    return rig.metric("flotilla_router_requests_held{")


def wakes(rig: Rig, result: str, expert: str = "maths") -> float:
    return rig.metric(f'flotilla_router_wakes_total{{expert="{expert}",policy="{POLICY}",result="{result}"}}')


# --- Bridge


async def test_a_fallback_bridges_at_once_and_the_expert_is_woken(tmp_path: Path) -> None:
    """Header, log and metrics say why, and the control API hears which expert of which policy is asked for."""
    operator = Operator()
    async with (
        model_server(replies(chat_answer("4"))) as big,
        cold_router(tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address)), operator) as rig,
    ):
        reply = await ask(rig.port, post(chat()))
        await until(lambda: wakes(rig, "ok") == 1)

        assert (reply.status, reply.headers["x-flotilla-model"]) == (200, "big")
        assert reply.headers["x-flotilla-reason"] == (await rig.request_line())["reason"] == "ColdStart"
        assert (escalations(rig), demand(rig)) == (1, 1)
        (wake,) = operator.wakes
        assert (wake.method, wake.path, wake.headers["authorization"]) == ("POST", WAKE, "Bearer control-token")
        assert wake.body == b""


async def test_a_sidecar_wakes_as_a_gateway_does(tmp_path: Path) -> None:
    """It has the same way to the control API."""
    operator = Operator()
    async with (
        model_server(replies(chat_answer("4"))) as big,
        cold_router(
            tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address)), operator, role="Sidecar"
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))
        await until(lambda: operator.wakes)

        assert reply.headers["x-flotilla-model"] == "big"


async def test_a_ready_expert_answers_what_wakes_another(tmp_path: Path) -> None:
    """The share of the one at zero counts as its demand, and nobody has left anybody."""
    operator = Operator()
    async with (
        model_server(replies(chat_answer("4"))) as law,
        cold_router(tmp_path, a_policy(expert("law", law.address), sleeper("maths")), operator) as rig,
    ):
        rig.process.dispatcher.draw = lambda: 0.9
        reply = await ask(rig.port, post(chat()))
        await until(lambda: operator.wakes)

        assert (reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == ("law", "Static")
        assert (demand(rig), demand(rig, "law"), escalations(rig)) == (1, 0, 0)


BROKEN = replies(b'{"error": {}}', status=500)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_request_whose_bridge_fails_waits_for_the_expert(tmp_path: Path, stream: bool) -> None:
    """No fallback is left, whatever `on` says of leaving an expert; the operator hears that somebody waits."""
    operator = Operator()
    async with (
        model_server(streams(*chat_stream("4")) if stream else replies(chat_answer("4"))) as maths,
        model_server(BROKEN) as big,
        cold_router(
            tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address), escalation={"on": ()}), operator
        ) as rig,
        waiting(rig, chat(stream=stream)) as raw,
    ):
        await until(lambda: f"{WAKE}&waits=1" in [wake.path for wake in operator.wakes])
        asked = len(big.received)
        rig.load(a_policy(sleeper("maths", maths.address), served_fallback("big", big.address), escalation={"on": ()}))
        reply = await raw.reply()
        line = await rig.request_line()

        assert (reply.status, reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == (
            (200, "maths", "Static")
        )
        assert (len(big.received), len(maths.received), line["held_ms"] <= line["duration_ms"]) == (asked, 1, True)
        assert (escalations(rig), demand(rig), held(rig), rig.process.telemetry.in_flight) == (1, 1, 0, 0)


async def test_a_bridge_that_fails_is_followed_by_the_next(tmp_path: Path) -> None:
    """`on` says for what an expert is left, and it has been left."""
    async with (
        model_server(BROKEN) as first,
        model_server(replies(chat_answer("5"))) as second,
        cold_router(
            tmp_path,
            a_policy(
                sleeper("maths"),
                served_fallback("big", first.address),
                served_fallback("large", second.address),
                escalation={"on": ()},
            ),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == (
            (200, "large", "ColdStart")
        )


async def test_a_request_whose_bridge_failed_is_told_when_to_come_back(tmp_path: Path) -> None:
    """The expert did not wake in time, and the fallback is not asked a second time."""
    async with (
        model_server(BROKEN) as big,
        cold_router(
            tmp_path, a_policy(sleeper("maths"), external_fallback("big", f"http://{big.address}"), hold=0.1)
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"], reply.headers["retry-after"]) == (
            503,
            "no_ready_replica",
            "10",
        )
        assert "being woken" in reply.json["error"]["message"]
        assert len(big.received) == len((await rig.request_line())["attempts"]) > 0


async def test_a_bridge_that_fails_too_late_ends_the_request(tmp_path: Path) -> None:
    """`escalation.deadline` is the latest moment at which somebody else is asked; the fallback's own error says why."""
    loop = asyncio.get_running_loop()

    async def late(received: Received, peer: Peer) -> None:
        asked = loop.time()
        await until(lambda: loop.time() > asked + 0.02)
        await BROKEN(received, peer)

    async with (
        model_server(late) as big,
        cold_router(
            tmp_path,
            a_policy(sleeper("maths"), served_fallback("big", big.address), escalation={"deadlineSeconds": 0.01}),
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, held(rig)) == (500, 0)


# --- Hold


@pytest.mark.parametrize(
    ("mode", "model"),
    [
        pytest.param("Hold", "auto", id="the policy holds"),
        pytest.param("Hold", "maths", id="pinned"),
        pytest.param("Bridge", "maths", id="pinned, where others are bridged"),
    ],
)
async def test_a_request_waits_for_the_expert_that_it_wakes(tmp_path: Path, mode: str, model: str) -> None:
    """It is sent as soon as a snapshot brings a replica; its log line says how long it waited."""
    operator = Operator()
    async with (
        model_server(replies(chat_answer("4"))) as maths,
        model_server(replies(chat_answer("5"))) as big,
        cold_router(
            tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address), mode=mode), operator
        ) as rig,
        waiting(rig, chat(model=model)) as raw,
    ):
        await until(lambda: operator.wakes)
        never_look(rig)
        rig.load(a_policy(sleeper("maths", maths.address), served_fallback("big", big.address), mode=mode))
        reply = await raw.reply()
        line = await rig.request_line()

        assert {wake.path for wake in operator.wakes} == {f"{WAKE}&waits=1"}

        assert (reply.status, reply.headers["x-flotilla-model"]) == (200, "maths")
        assert (len(maths.received), big.received, escalations(rig), demand(rig)) == (1, [], 0, 1)
        assert (line["snapshot"], line["held_ms"] > 0) == (rig.process.store.digest, True)


async def test_a_request_that_nobody_may_bridge_waits(tmp_path: Path) -> None:
    """Its boundary leaves no fallback, so it goes where it may, as soon as that is there."""
    local_only = ["x-flotilla-boundary: LocalOnly"]
    async with (
        model_server(replies(chat_answer("4"))) as maths,
        model_server(replies(chat_answer("5"))) as big,
        cold_router(tmp_path, a_policy(sleeper("maths"), external_fallback("big", f"http://{big.address}"))) as rig,
        client(rig.port) as raw,
    ):
        await raw.send(post(chat(), headers=local_only))
        await until(lambda: rig.process.dispatcher.under_way)
        rig.load(a_policy(sleeper("maths", maths.address), external_fallback("big", f"http://{big.address}")))
        reply = await raw.reply()

        assert (reply.headers["x-flotilla-model"], big.received) == ("maths", [])


async def test_a_request_waits_no_longer_for_an_expert_that_fails(tmp_path: Path) -> None:
    """Its replica crashed: the operator says so, and the fallback answers, for a cause of capacity."""
    async with (
        model_server(replies(chat_answer("5"))) as big,
        cold_router(tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address), mode="Hold")) as rig,
        waiting(rig, chat()) as raw,
    ):
        never_look(rig)
        rig.load(a_policy(expert("maths"), served_fallback("big", big.address), mode="Hold"))
        reply = await raw.reply()

        assert (reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == ("big", "NoReadyReplica")
        assert escalations(rig) == 0


async def test_a_request_that_has_waited_long_enough_falls_back(tmp_path: Path) -> None:
    """That is a cold start, too."""
    async with (
        model_server(replies(chat_answer("5"))) as big,
        cold_router(
            tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address), mode="Hold", hold=0.15)
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == ("big", "ColdStart")
        assert (escalations(rig), demand(rig)) == (1, 1)
        assert (await rig.request_line())["held_ms"] >= 150


@pytest.mark.parametrize(
    ("mode", "hold", "body", "code"),
    [
        pytest.param("Hold", 0.1, chat(), "no_ready_replica", id="nobody to fall back to"),
        pytest.param("Bridge", 0.1, chat(), "no_ready_replica", id="nobody to bridge"),
        pytest.param("Bridge", 0.1, chat(model="maths"), "no_ready_replica", id="pinned"),
        pytest.param("Reject", LONG, chat(), "cold_start", id="rejected"),
        pytest.param("Reject", LONG, chat(model="maths"), "cold_start", id="pinned and rejected"),
    ],
)
async def test_a_request_without_an_answer_is_told_when_to_come_back(
    tmp_path: Path, mode: str, hold: float, body: dict[str, Any], code: str
) -> None:
    """It has woken the expert, and it counts as demand for it."""
    operator = Operator()
    async with cold_router(tmp_path, a_policy(sleeper("maths"), mode=mode, hold=hold), operator) as rig:
        reply = await ask(rig.port, post(body))
        await until(lambda: operator.wakes)

        assert operator.wakes[0].path == f"{WAKE}&waits=1"
        assert (reply.status, reply.json["error"]["code"], reply.headers["retry-after"]) == (503, code, "10")
        assert "being woken" in reply.json["error"]["message"]
        assert (demand(rig), rig.process.telemetry.in_flight) == (1, 0)


async def test_a_stream_that_waits_is_kept_alive(tmp_path: Path) -> None:
    """Comments come after keepAliveAfter, and then the answer in the same stream."""
    timeouts = {"keepAliveAfterSeconds": 0.1}
    async with (
        model_server(streams(*chat_stream("4"))) as maths,
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold", timeouts=timeouts)) as rig,
        waiting(rig, chat(stream=True)) as raw,
    ):
        status, headers = await raw.head()
        first = await raw.chunk()
        rig.load(a_policy(sleeper("maths", maths.address), mode="Hold", timeouts=timeouts))
        rest = await raw.body(headers)

        assert (status, first[:1]) == (200, b":")
        assert rest.endswith(b"".join(chat_stream("4")))


async def test_a_stream_that_has_waited_in_vain_ends_with_an_error_in_band(tmp_path: Path) -> None:
    """Its status is out already."""
    timeouts = {"keepAliveAfterSeconds": 0.1}
    async with (
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold", hold=0.4, timeouts=timeouts)) as rig,
        waiting(rig, chat(stream=True)) as raw,
    ):
        _, headers = await raw.head()
        events = (await raw.body(headers)).split(b"\n\n")
        (error,) = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]

        assert error["error"]["code"] == "no_ready_replica"


async def test_no_request_outlives_timeouts_total(tmp_path: Path) -> None:
    """However long it may be held."""
    async with cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold", timeouts={"totalSeconds": 0.2})) as rig:
        reply = await ask(rig.port, post(chat()))

        assert (reply.status, reply.json["error"]["code"]) == (504, "Timeout")


async def test_the_wait_ends_with_the_client(tmp_path: Path) -> None:
    """Nothing is sent for somebody who has left."""
    async with (
        model_server(replies(chat_answer("4"))) as maths,
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold")) as rig,
    ):
        async with waiting(rig, chat()):
            pass
        line = await rig.request_line()
        rig.load(a_policy(sleeper("maths", maths.address), mode="Hold"))
        reply = await ask(rig.port, post(chat()))

        assert (line["status"], line["client_gone"], line["attempts"]) == (499, True, [])
        assert (reply.status, len(maths.received)) == (200, 1)


async def test_a_router_that_ends_lets_nobody_wait(tmp_path: Path) -> None:
    """Who waits is told, at the end of the grace at the latest."""
    async with (
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold"), drain_seconds=0.1) as rig,
        waiting(rig, chat()) as raw,
    ):
        await rig.process.drain()
        reply = await raw.reply()

        assert (reply.status, reply.json["error"]["code"]) == (503, "service_unavailable")


async def test_only_so_many_wait_for_one_expert(tmp_path: Path) -> None:
    """The next one falls back at once, and takes no place; one that leaves makes room."""
    async with (
        model_server(replies(chat_answer("5"))) as big,
        cold_router(tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address), mode="Hold")) as rig,
    ):
        rig.process.dispatcher.holds = rig.process.telemetry.held = Holds(most=1)
        async with waiting(rig, chat()):
            for _ in range(2):
                assert (await ask(rig.port, post(chat()))).headers["x-flotilla-model"] == "big"
            assert held(rig) == 1
        await until(lambda: not held(rig))
        async with waiting(rig, chat()) as raw:
            assert held(rig) == 1
            rig.load(a_policy(served_fallback("big", big.address)))
            assert (await raw.reply()).headers["x-flotilla-model"] == "big"
        assert held(rig) == 0


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param(a_policy(sleeper("maths"), mode="Reject"), 503, "cold_start", id="no request waits any more"),
        pytest.param(a_policy(sleeper("maths"), models=("other",)), 404, "model_not_found", id="the alias is gone"),
    ],
)
async def test_a_request_that_waits_goes_on_by_the_policy_of_now(
    tmp_path: Path, change: RoutingSnapshot, status: int, code: str
) -> None:
    """It is looked at anew with every generation."""
    async with (
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold")) as rig,
        waiting(rig, chat()) as raw,
    ):
        never_look(rig)
        rig.load(change.model_copy(update={"generation": 2}))
        reply = await raw.reply()

        assert (reply.status, reply.json["error"]["code"]) == (status, code)


async def test_a_replica_elsewhere_frees_nobody(tmp_path: Path) -> None:
    """Requests wait for an expert that may answer them."""
    async with (
        model_server(replies(chat_answer("4"))) as law,
        cold_router(tmp_path, a_policy(sleeper("maths"), sleeper("law"), mode="Hold")) as rig,
        waiting(rig, chat(model="maths")) as raw,
        waiting(rig, chat(model="law")) as other,
    ):
        rig.load(a_policy(sleeper("maths"), sleeper("law", law.address), mode="Hold"))
        reply = await other.reply()
        held = len(rig.process.dispatcher.under_way)
        rig.load(a_policy(sleeper("maths", law.address), sleeper("law", law.address), mode="Hold"))

        assert (reply.headers["x-flotilla-model"], held) == ("law", 1)
        assert (await raw.reply()).headers["x-flotilla-model"] == "maths"


async def test_an_explanation_wakes_nobody(tmp_path: Path) -> None:
    """It says that a request would wait, and for whom."""
    operator = Operator()
    async with cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold"), operator) as rig:
        reply = await ask(rig.port, post(chat(), path="/v1/route:explain"))

        assert (reply.json["model"], reply.json["waits"]) == ("maths", True)
        assert (demand(rig), operator.wakes) == (0, [])


# --- Wakes


async def test_a_wake_that_is_not_taken_is_repeated_while_somebody_waits(tmp_path: Path) -> None:
    """Failures are counted, and logged once with their end."""
    operator = Operator(503)
    async with (
        cold_router(tmp_path, a_policy(sleeper("maths"), mode="Hold"), operator) as rig,
        waiting(rig, chat()),
    ):
        await until(lambda: wakes(rig, "ok") == 1)

        assert wakes(rig, "failed") == 1
        (failed,), (taken,) = rig.log.of("wake failed"), rig.log.of("wakes are taken again")
        assert (failed["expert"], taken["expert"]) == ("maths", "maths")
        assert "status 503" in failed["error"]


async def test_a_router_without_a_control_api_bridges_all_the_same(tmp_path: Path) -> None:
    """What cannot be sent is a failure, not silence."""
    async with (
        model_server(replies(chat_answer("4"))) as big,
        router(tmp_path, a_policy(sleeper("maths"), served_fallback("big", big.address))) as rig,
    ):
        reply = await ask(rig.port, post(chat()))
        await until(lambda: wakes(rig, "failed") == 1)

        assert reply.headers["x-flotilla-model"] == "big"
        assert "FLOTILLA_CONTROL_URL" in rig.log.of("wake failed")[0]["error"]


class Calls:
    """What the control API is asked, and how it answers."""

    def __init__(self) -> None:
        self.wakes: list[Wake] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.time = 100.0

    @property
    def names(self) -> list[str]:
        return [wake.expert for wake in self.wakes]

    async def __call__(self, wake: Wake, seconds: float) -> None:
        self.wakes.append(wake)
        await self.answers.wait()
        if self.error is not None:
            raise self.error


def make_wakes(calls: Calls) -> tuple[Wakes, Callable[[str], float], ListLog]:
    """Wakes in virtual time, how often a result was counted, and the log."""
    log = ListLog()
    telemetry = Telemetry(NAMESPACE, POLICY, log)
    wakes = Wakes(asyncio.get_running_loop(), calls, telemetry, now=lambda: calls.time)

    def counted(result: str) -> float:
        lines = [line for line in telemetry.exposition().decode().splitlines() if "wakes_total{" in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'result="{result}"' in line)

    return wakes, counted, log


async def test_wakes_of_one_expert_are_one() -> None:
    """However many requests ask: one is under way, and the next is seconds later; another expert has its own."""
    calls = Calls()
    calls.answers.clear()
    wakes, counted, _ = make_wakes(calls)
    for _ in range(5):
        wakes.wake("maths", waits=False)
    wakes.wake("law", waits=False)
    await until(lambda: len(calls.names) == 2)
    calls.time += 60
    wakes.wake("maths", waits=False)
    calls.answers.set()
    await until(lambda: counted("ok") == 2)
    calls.time += 1.5
    wakes.wake("maths", waits=False)
    calls.time += 1.5
    wakes.wake("maths", waits=False)
    await until(lambda: counted("ok") == 3)

    assert calls.names == ["maths", "law", "maths"]


async def test_a_wake_of_a_request_that_waits_is_not_held_back_by_another() -> None:
    """Each kind is repeated by itself: the operator may have had reasons not to do what the first one asked."""
    calls = Calls()
    wakes, counted, _ = make_wakes(calls)
    for waits in (False, True, False, True):
        wakes.wake("maths", waits=waits)
    await until(lambda: counted("ok") == 2)

    assert calls.wakes == [Wake("maths", waits=False), Wake("maths", waits=True)]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(ControlError("status 404"), "status 404", id="it says no"),
        pytest.param(OSError("connection refused"), "connection refused", id="nobody is there"),
        pytest.param(TimeoutError(), "does not answer in time", id="it hangs"),
    ],
)
async def test_a_wake_that_fails_is_tried_again_a_second_later(error: Exception, text: str) -> None:
    """Each failure is counted, and the first one logged."""
    calls = Calls()
    calls.error = error
    wakes, counted, log = make_wakes(calls)
    wakes.wake("maths", waits=False)
    await until(lambda: counted("failed") == 1)
    wakes.wake("maths", waits=False)
    calls.time += RETRY_SECONDS
    wakes.wake("maths", waits=False)
    await until(lambda: counted("failed") == 2)

    assert calls.names == ["maths", "maths"]
    (line,) = log.of("wake failed")
    assert text in line["error"]


async def test_a_mistake_of_our_own_is_one_failed_wake() -> None:
    """It is reported, and the next one is tried."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    calls = Calls()
    calls.error = ValueError("a defect")
    wakes, counted, _ = make_wakes(calls)
    wakes.wake("maths", waits=False)
    await until(lambda: counted("failed") == 1)

    assert [str(context["exception"]) for context in told] == ["a defect"]


async def test_wakes_end_with_the_router() -> None:
    """Nothing is left under way, and nothing is counted for it."""
    calls = Calls()
    calls.answers.clear()
    wakes, counted, _ = make_wakes(calls)
    wakes.wake("maths", waits=False)
    await until(lambda: calls.names)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    wakes.close()
    await asyncio.wait(tasks)

    assert all(task.cancelled() for task in tasks)
    assert (counted("ok"), counted("failed")) == (0, 0)


# --- Demand


async def test_an_expert_that_nobody_has_asked_for_has_a_demand_of_zero(tmp_path: Path) -> None:
    """So a scaler can tell zero from unknown, and the first request is an increase."""
    async with router(tmp_path, a_policy(expert("maths"), served_fallback("big"))) as rig:
        lines = [
            line for line in rig.process.telemetry.exposition().decode().splitlines() if "router_demand_total{" in line
        ]

        assert lines == [f'flotilla_router_demand_total{{expert="maths",policy="{POLICY}"}} 0.0']


async def test_demand_is_counted_once_however_often_a_request_is_tried(tmp_path: Path) -> None:
    """Two replicas fail and the fallback answers: one request."""
    async with (
        model_server(replies(b"{}", status=500)) as first,
        model_server(replies(b"{}", status=500)) as second,
        model_server(replies(chat_answer("4"))) as big,
        router(
            tmp_path, a_policy(expert("maths", first.address, second.address), served_fallback("big", big.address))
        ) as rig,
    ):
        reply = await ask(rig.port, post(chat()))

        assert (reply.headers["x-flotilla-model"], demand(rig)) == ("big", 1)


async def test_a_relayed_request_is_demand_where_it_began(tmp_path: Path) -> None:
    """A sidecar's escalation is none of its gateway's."""
    async with (
        model_server(replies(chat_answer("4"))) as big,
        pair(tmp_path, a_policy(expert("maths"), external_fallback("big", f"http://{big.address}"))) as (inner, outer),
    ):
        reply = await ask(inner.port, post(chat()))

        assert (reply.headers["x-flotilla-model"], demand(inner), demand(outer)) == ("big", 1, 0)
