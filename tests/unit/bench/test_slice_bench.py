"""The parts of `make bench` that decide what its figures mean."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from slice_bench.canned import HELD_EVENTS, Answers, Canned, make_stream, make_whole
from slice_bench.figures import router_figures, save
from slice_bench.followers import Hearing
from slice_bench.load import make_request
from slice_bench.logged import SETTINGS, Spent, start_logged
from slice_bench.logged import figures_of as log_figures_of
from slice_bench.operator import is_acknowledged
from slice_bench.policies import API_KEYS, CREDENTIALS, pass_through_snapshot, quickstart_snapshot, write_files
from slice_bench.processes import CLIENT, SERVER, on_processor
from slice_bench.proxies import ENVOY, PASS_THROUGH, QUICKSTART, SPLICE, ours, ours_passing, router
from slice_bench.router import Cost, Starter, upstream
from slice_bench.sidecars import BesideFigures, ControlFigures, figures_of

EVENTS = 20


def _events(stream: bytes) -> list[Any]:
    lines = [line for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


@pytest.mark.parametrize("judged", [pytest.param(True, id="judged"), pytest.param(False, id="not judged")])
def test_canned_answers_have_logprobs_where_they_were_asked_for(*, judged: bool) -> None:
    """A router that judges must find as much to judge as vLLM sends: an entry a token, with usage in every event."""
    whole = json.loads(make_whole(judged=judged).partition(b"\r\n\r\n")[2])
    events = _events(b"".join(make_stream(EVENTS, judged=judged)))

    words = [event for event in events if event["choices"] and event["choices"][0]["delta"].get("content")]
    entries = [word["choices"][0]["logprobs"]["content"][0] for word in words] if judged else []
    assert len(words) == EVENTS
    assert [len(entry["top_logprobs"]) for entry in entries] == [5] * (EVENTS if judged else 0)
    assert all(("usage" in event) == judged for event in events)
    logprobs = whole["choices"][0]["logprobs"]
    assert logprobs is None or len(logprobs["content"]) == whole["usage"]["completion_tokens"]
    assert (logprobs is not None) == judged


@pytest.mark.parametrize(
    ("hold", "writes"),
    [
        pytest.param(
            False, 1 + len(make_stream(EVENTS, judged=False)) - 1, id="each event alone, the end with the last"
        ),
        pytest.param(True, 1, id="held: a few at once and no end"),
    ],
)
async def test_every_event_of_a_stream_is_a_write_of_its_own(hold: bool, writes: int) -> None:
    """What arrives together costs a proxy less than tokens that come one by one."""
    answers = Answers((b"", b""), (make_stream(EVENTS, judged=False), ()), 0.0, hold)
    server = Canned(answers, 1)
    transport = Recorded()
    server.connection_made(transport)

    server.data_received(make_request(stream=True))
    for _ in range(10 * EVENTS):
        await asyncio.sleep(0)

    assert len(transport.written) == writes
    assert b"".join(transport.written).endswith(b"0\r\n\r\n") != hold
    assert len(_events(b"".join(transport.written))) == (HELD_EVENTS if hold else EVENTS + 2)


class Recorded(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        """It stays open."""
        return False


def test_the_headline_policy_is_the_quickstarts(tmp_path: Path) -> None:
    """Its answers are judged, and it asks for a key: the files that this needs are written."""
    snapshot = quickstart_snapshot(8000)
    write_files(tmp_path, snapshot)

    experts = [target for target in snapshot.targets if target.kind == "Expert"]
    assert not snapshot.anonymous
    assert snapshot.route.fallbacks == ("big",)
    assert "LowConfidence" in snapshot.route.escalation.on
    assert {target.endpoints[0].address for target in experts} == {"127.0.0.1:8000"}
    assert b"Bearer " + (tmp_path / API_KEYS / "bench").read_bytes() in make_request(stream=False)
    assert [file.name for file in sorted((tmp_path / CREDENTIALS).glob("big-*/*"))] == ["api-key", "ca.crt"]


def test_the_other_policy_judges_nothing_and_asks_for_no_key(tmp_path: Path) -> None:
    """It is what a router costs that only passes requests on."""
    snapshot = pass_through_snapshot(8000)
    write_files(tmp_path, snapshot)

    assert snapshot.anonymous
    assert (snapshot.route.fallbacks, snapshot.route.escalation.on) == ((), ())
    assert not (tmp_path / API_KEYS).exists()


@pytest.mark.parametrize("start", [pytest.param(ours, id="quickstart"), pytest.param(ours_passing, id="pass-through")])
def test_a_router_that_is_measured_does_what_its_policy_says(start: Starter, tmp_path: Path) -> None:
    """Its first answer is judged, or is not: a router that misses a credential would be quick and judge nothing."""
    with upstream(tmp_path) as port, start(port, tmp_path) as proxy:
        assert proxy.name in {QUICKSTART, PASS_THROUGH}


def test_a_router_that_does_not_judge_is_not_measured(tmp_path: Path) -> None:
    """The measurement ends, and says what is wrong."""
    with (
        upstream(tmp_path) as port,
        pytest.raises(RuntimeError, match="an answer was not judged: 200"),
        router(QUICKSTART, pass_through_snapshot(port), tmp_path / "router", judges=True),
    ):
        pytest.fail("it was measured")


def _cost(cpu_seconds: float, seconds: float) -> Cost:
    return Cost(cpu_seconds, seconds, requests=1000, events=10_000, reads=10_000)


def test_headline_figures_are_of_the_quickstarts_policy() -> None:
    """Those of the other policy are under names of their own; ratios are to Envoy and to the bare splice."""
    costs = {
        QUICKSTART: [_cost(0.2, 0.4)],
        PASS_THROUGH: [_cost(0.1, 0.2)],
        ENVOY: [_cost(0.05, 0.1)],
        SPLICE: [_cost(0.02, 0.05)],
    }

    figures = router_figures(costs, costs, 7.25)

    assert figures["router_cpu_us_json"] == 200.0
    assert figures["router_cpu_ratio_envoy"] == 4.0
    assert figures["router_cpu_us_sse_event"] == 20.0
    assert figures["router_rps_ratio_envoy"] == 0.25
    assert figures["router_kb_per_stream"] == 7.2
    assert figures["router_cpu_us_json_passthrough"] == 100.0
    assert figures["router_cpu_ratio_splice_passthrough"] == 5.0


@pytest.mark.parametrize(
    ("keep", "saved"),
    [
        pytest.param(True, {"router_rps": 2.0, "policy_ack_seconds": 0.5}, id="a part of the figures"),
        pytest.param(False, {"router_rps": 2.0}, id="all figures"),
    ],
)
def test_figures_that_were_not_taken_again_are_kept_beside_those_that_were(
    tmp_path: Path, saved: dict[str, float], *, keep: bool
) -> None:
    """`--only router` does not lose the operator's figures; a whole run leaves nothing old."""
    file = tmp_path / "build" / "slice.json"
    save(file, {"router_rps": 1.0, "policy_ack_seconds": 0.5}, keep=keep)

    save(file, {"router_rps": 2.0}, keep=keep)

    assert json.loads(file.read_text()) == saved


@pytest.mark.parametrize(
    ("status", "observed_generation", "acknowledged"),
    [
        pytest.param("True", 3, True, id="of this generation"),
        pytest.param("True", 2, False, id="of the one before"),
        pytest.param("False", 3, False, id="not yet"),
    ],
)
def test_an_edit_is_acknowledged_when_the_policys_status_says_so(
    status: str, observed_generation: int, *, acknowledged: bool
) -> None:
    """That is what a user can see; a condition of an older generation says nothing about the edit."""
    condition = {"type": "ConfigPropagated", "status": status, "observedGeneration": observed_generation}

    assert is_acknowledged({"status": {"conditions": [condition]}}, 3) == acknowledged
    assert not is_acknowledged({}, 3)


def test_processors_are_those_that_this_process_may_use() -> None:
    """A container may be given any of a machine's processors; afterwards this process has all of its own again."""
    allowed = os.sched_getaffinity(0)

    with on_processor(CLIENT):
        inside = os.sched_getaffinity(0)

    assert {SERVER, CLIENT} <= allowed
    assert inside == {CLIENT}
    assert os.sched_getaffinity(0) == allowed


def test_figures_of_sidecars_say_what_one_adds_and_what_200_cost() -> None:
    """Ratios are taken round by round; the operator's memory is that of its larger replica."""
    one = BesideFigures({"gateway": [_cost(0.2, 0.4)] * 2, "sidecar": [_cost(0.1, 0.4)] * 2}, 30 * 2**20, 40 * 2**20)
    many = ControlFigures(150.04, 5.0, 90 * 2**20, 140 * 2**20, [0.2, 0.61])

    figures = figures_of(one, many)

    assert figures["sidecar_added_us_json"] == 100.0
    assert figures["sidecar_cpu_ratio_gateway"] == 0.5
    assert figures["sidecar_rss_mb"] == 40.0
    assert figures["control_api_cpu_ms_per_edit_200"] == 150.0
    assert figures["control_api_rss_added_mb_200"] == 50.0
    assert figures["policy_edit_to_last_of_200_seconds"] == 0.61


def test_followers_say_when_all_of_them_have_a_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    """Once for each, with the times of the first and the last."""
    hearing = Hearing(2)

    hearing.heard("one")
    assert not capsys.readouterr().out
    hearing.heard("one")

    said = json.loads(capsys.readouterr().out)
    assert said["digest"] == "one"
    assert said["first"] <= said["last"]


def test_a_request_log_costs_what_it_adds() -> None:
    """Differences of the medians to a router without one, on the loop and in all."""
    costs = {"off": [Spent(50, 50), Spent(54, 60), Spent(70, 70)], "Text": [Spent(60, 90), Spent(61, 81)]}

    assert log_figures_of(costs) == {"request_log_loop_us_text": 6.5, "request_log_process_us_text": 25.5}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_routers_of_the_log_benchmark_keep_what_they_say(name: str, tmp_path: Path) -> None:
    """A router that kept nothing would be quick."""
    with upstream(tmp_path) as port, start_logged(name, port, tmp_path):
        pass  # it has answered one request before the block begins, and its rows are written when it ends

    kept = [path for path in (tmp_path / f"log-{name}" / "requests").rglob("*.jsonl") if path.stat().st_size]
    assert [path.parent.name for path in kept] == ([] if name == "off" else [name.lower()])
