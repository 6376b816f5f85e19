"""Traces: what is read, what is refused, and what is sampled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flotilla_simulation.traces import (
    CONVERSATION,
    WINDOW_SECONDS,
    Client,
    TraceError,
    Window,
    read_azure,
    read_client,
    read_request_log,
)

TRACES = Path(__file__).parents[3] / "bench" / "data" / "traces"


def test_azure_hour_is_read_with_times_from_its_first_request() -> None:
    """8,819 requests of the code trace, ascending."""
    load = read_azure(TRACES / "azure2023_code.csv.gz")

    assert len(load) == 8819
    assert load.arrivals[0] == 0.0
    assert bool(np.all(np.diff(load.arrivals) >= 0))
    assert (load.prompt_tokens[0], load.output_tokens[0]) == (4808, 10)


def test_lengths_are_those_of_the_conversation_trace() -> None:
    """Lognormal: the sampled means are within 15 % of the measured ones, and nothing is longer than the longest."""
    load = read_azure(TRACES / "azure2023_conv.csv.gz")
    prompts, outputs = CONVERSATION.sample(50_000, np.random.default_rng(1))

    assert float(prompts.mean()) == pytest.approx(float(load.prompt_tokens.mean()), rel=0.15)
    assert float(outputs.mean()) == pytest.approx(float(load.output_tokens.mean()), rel=0.15)
    assert prompts.max() <= load.prompt_tokens.max()


@pytest.mark.parametrize(
    ("kind", "shape", "variation"),
    [
        pytest.param("Gamma", 0.25, 2.0, id="gamma: 1 / sqrt(shape)"),
        pytest.param("Weibull", 1.0, 1.0, id="weibull of shape 1 is exponential"),
        pytest.param("", 0.0, 1.0, id="no distribution is Poisson"),
    ],
)
def test_gaps_keep_their_window_s_mean_and_variation(kind: str, shape: float, variation: float) -> None:
    """So that rates can be multiplied while bursts stay bursts."""
    gaps = Window(0.0, 1.0, kind, shape).gaps(200_000, np.random.default_rng(3))

    assert float(gaps.mean()) == pytest.approx(1.0, rel=0.03)
    assert float(gaps.std() / gaps.mean()) == pytest.approx(variation, rel=0.05)


def test_client_s_windows_are_sampled_at_their_rates_times_the_factor() -> None:
    """Each window has its own, and one without requests has none."""
    client = Client((Window(0.0, 2.0, "", 0.0), Window(600.0, 0.0, "", 0.0), Window(1200.0, 8.0, "Gamma", 1.0)))
    load = client.sample(0.0, 1800.0, rate_factor=0.5, lengths=CONVERSATION, seed=4)
    counts, _ = np.histogram(load.arrivals, bins=3, range=(0.0, 1800.0))

    assert counts[0] == pytest.approx(600, rel=0.15)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(2400, rel=0.15)
    assert load.seconds == 3 * WINDOW_SECONDS


def test_same_seed_gives_the_same_requests_and_another_one_others() -> None:
    """A figure can be taken again."""
    client = read_client(TRACES / "servegen" / "m-small-chunk-14.csv.gz")
    first, again, other = (
        client.sample(0.0, 3600.0, rate_factor=0.1, lengths=CONVERSATION, seed=seed) for seed in (1, 1, 2)
    )

    assert np.array_equal(first.arrivals, again.arrivals)
    assert not np.array_equal(first.arrivals[:50], other.arrivals[:50])
    assert client.seconds == 14 * 86_400


def test_request_log_gives_arrivals_and_the_tokens_of_who_answered(tmp_path: Path) -> None:
    """Arrival is the end less the duration; other events, relayed requests and uncounted attempts are passed over."""
    attempts: list[dict[str, object]] = [
        {"target": "invoice", "output_tokens": None},
        {"target": "big", "input_tokens": 30, "output_tokens": 9},
    ]
    lines: list[dict[str, object]] = [
        {"event": "started", "time": 90.0},
        {"event": "request", "time": 102.0, "duration_ms": 2000.0, "attempts": attempts},
        {"event": "request", "time": 104.0, "duration_ms": 1000.0, "attempts": attempts, "relayed": True},
        {"event": "request", "time": 105.0, "duration_ms": 500.0, "attempts": attempts},
        {"event": "request", "time": 106.0, "duration_ms": 500.0, "attempts": list[object]()},
    ]
    log = tmp_path / "router.log"
    log.write_text("\n".join(map(json.dumps, lines)))
    load = read_request_log(log)

    assert load.arrivals.tolist() == [0.0, 4.5]
    assert load.output_tokens.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("a.csv", "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,x\n", r"a\.csv:2", id="azure column"),
        pytest.param("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no request", id="azure empty"),
    ],
)
def test_azure_file_that_is_none_is_refused_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The message names file, line and what was expected."""
    (tmp_path / name).write_text(text)

    with pytest.raises(TraceError, match=message):
        read_azure(tmp_path / name)


def test_client_and_log_that_are_none_are_refused(tmp_path: Path) -> None:
    """With the line."""
    (tmp_path / "c.csv").write_text("0,1,1,Gamma,1,1\n600,1\n")
    (tmp_path / "l.log").write_text('{"event": "request", "time": 1.0, "attempts": []}\nnot json\n')

    with pytest.raises(TraceError, match=r"c\.csv:2: expected start,rate"):
        read_client(tmp_path / "c.csv")
    with pytest.raises(TraceError, match=r"l\.log:2"):
        read_request_log(tmp_path / "l.log")
    with pytest.raises(TraceError, match="No such file"):
        read_client(tmp_path / "missing.csv")
