"""How fast an engine is: measured in what the step model would log, and estimated from its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.engine.model import Limits, Scheduler, Work
from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import ExpertSpec
from flotilla_operator.resources.specs import Served
from flotilla_simulation.speeds import LEAST_STREAMS, estimate_speeds, measure_speeds
from flotilla_simulation.traces import TraceError
from flotilla_simulation.workload import Workload
from unit.simulation.simulated import poisson

PREFILL, BATCH, ALONE, SLOTS = 8000.0, 512.0, 40.0, 16


def logged(path: Path, load: Workload, *, hold_tokens: int = 0) -> Path:
    """The request log of one engine that served these, by the step model."""
    limits = Limits(max_num_seqs=SLOTS, prefill_rate=PREFILL, decode_rate=BATCH, sequence_rate=ALONE)
    scheduler = Scheduler(limits)
    done: list[Work] = []
    for at, prompt, output in zip(load.arrivals, load.prompt_tokens, load.output_tokens, strict=True):
        done += [each.work for each in scheduler.advance(float(at)) if each.finished]
        scheduler.add(Work(int(prompt), int(output)), float(at))
        scheduler.advance(float(at))
    done += [each.work for each in scheduler.advance(load.seconds + 3600.0) if each.finished]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in (_record(each, hold_tokens) for each in done)))
    return path


def _record(work: Work, hold_tokens: int) -> dict[str, Any]:
    first, last = work.first_token_at, work.last_token_at
    assert first is not None
    assert last is not None
    tpot = (last - first) / max(1, work.output_tokens - 1)
    attempt = {
        "target": "invoice", "endpoint": "invoice-1", "result": "ok",
        "input_tokens": work.prompt_tokens, "output_tokens": work.output_tokens,
    }  # fmt: skip
    return {
        "event": "request",
        "time": last,
        "duration_ms": (last - work.arrived_at) * 1000,
        "ttft_ms": (first - work.arrived_at + min(hold_tokens * tpot, 0.2)) * 1000
        if hold_tokens
        else (first - work.arrived_at) * 1000,
        "tpot_ms": tpot * 1000 or None,
        "attempts": [attempt],
    }


def test_speeds_are_found_in_a_log(tmp_path: Path) -> None:
    """Of an engine that is sometimes full and sometimes idle."""
    load = poisson(2.6, 600.0, seed=3).after(poisson(0.3, 900.0, seed=4))
    speeds = measure_speeds(logged(tmp_path / "log", load), "invoice", slots=SLOTS)

    assert speeds.sequence_rate == pytest.approx(ALONE, rel=0.1)
    assert speeds.prefill_rate == pytest.approx(PREFILL, rel=0.25)
    assert speeds.decode_rate == pytest.approx(BATCH, rel=0.2)


def test_what_a_policy_holds_back_is_not_taken_for_prefill(tmp_path: Path) -> None:
    """The first tokens reach the client together, at most 200 ms later."""
    load = poisson(0.3, 1800.0, seed=4)
    speeds = measure_speeds(
        logged(tmp_path / "log", load, hold_tokens=12), "invoice", slots=SLOTS, hold_tokens=12, hold_seconds=0.2
    )

    assert speeds.prefill_rate == pytest.approx(PREFILL, rel=0.25)


def test_log_without_enough_streams_is_an_error(tmp_path: Path) -> None:
    """Also where they are another Expert's."""
    path = logged(tmp_path / "log", poisson(1.0, 120.0))

    with pytest.raises(TraceError, match=f"0 streams of Expert other .*{LEAST_STREAMS} are needed"):
        measure_speeds(path, "other", slots=SLOTS)


def _served(**model: Any) -> Served:
    spec = ExpertSpec.model_validate(
        {"model": {"uri": "hf://acme/small"} | model, "accelerator": {"profile": "pool"}, "engine": {"maxNumSeqs": 32}}
    )
    return Served({"kind": "Expert", "metadata": {"name": "invoice", "namespace": "agents"}}, spec, None)


def _profile(product: str) -> AcceleratorProfileSpec:
    return AcceleratorProfileSpec.model_validate(
        {"resource": "nvidia.com/gpu", "memoryGiB": 22, "nodeSelector": {"nvidia.com/gpu.product": product}}
    )


def test_estimate_reads_all_weights_for_a_token() -> None:
    """1.5 billion weights of two bytes at 60 % of 300 GB/s are 60 a second; a full batch's step takes twice as long."""
    found = estimate_speeds(_served(parameters="1.5B"), _profile("NVIDIA-L4"), 32)

    assert found is not None
    assert found.sequence_rate == pytest.approx(60.0)
    assert found.decode_rate == pytest.approx(32 * 60 / 2)
    assert found.prefill_rate == pytest.approx(0.4 * 121e12 / 3e9)
    assert found.kv_tokens is not None
    assert found.kv_tokens > 200_000


@pytest.mark.parametrize(
    ("model", "profile"),
    [
        pytest.param({}, _profile("NVIDIA-L4"), id="weights unknown"),
        pytest.param({"parameters": "1.5B"}, _profile("Gaudi-3"), id="accelerator unknown"),
        pytest.param({"parameters": "1.5B"}, None, id="no profile"),
    ],
)
def test_nothing_is_estimated_from_what_is_not_known(
    model: dict[str, str], profile: AcceleratorProfileSpec | None
) -> None:
    """Somebody has to say it then."""
    assert estimate_speeds(_served(**model), profile, 32) is None
