"""What a real Prometheus (2.42) answered about two engines and a gateway under load, read and reduced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fakes
from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.answers import Vector, read_vector
from flotilla_operator.scaling.fleet import Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert
from flotilla_operator.scaling.readings import Answer, Reading, Scope
from flotilla_operator.scaling.reduce import reduce_signals
from flotilla_operator.scaling.signals import Known, Signal

RECORDING = Path(fakes.__file__).parent / "recordings" / "prometheus" / "busy.json"
RECORDED: dict[str, Any] = json.loads(RECORDING.read_text())
SMALL, ASSIST = NamespacedName("agents", "small"), NamespacedName("agents", "assist")


def vector(reading: Reading) -> Vector:
    found = read_vector(reading, json.dumps(RECORDED[reading.name]).encode())
    assert isinstance(found, Vector)
    return found


def pods(reading: Reading) -> list[str]:
    index = reading.by.index("pod")
    return sorted({labels[index] for labels in vector(reading).rows})


def known(signal: Signal) -> float:
    assert isinstance(signal, Known), signal
    return signal.value


@pytest.mark.parametrize("reading", r.READINGS, ids=lambda reading: reading.name)
def test_every_reading_was_answered_at_one_moment(reading: Reading) -> None:
    """With rows, except where nothing of the kind had happened."""
    rows = vector(reading).rows

    assert rows or reading in (r.LOSSES, r.USD, r.UNPRICED)
    assert all(value >= 0 for value in rows.values())


def test_recorded_answers_are_signals() -> None:
    """A busy expert with two engines: demand, work and tokens agree with each other."""
    answers: dict[Reading, Answer] = {reading: vector(reading).rows for reading in r.READINGS}
    engines = tuple(MeasuredPod(name, "", 0.0) for name in pods(r.RUNNING))
    gateways = tuple(MeasuredPod(name, "", 0.0) for name in pods(r.ROUTERS))
    fleet = Fleet({SMALL: ServedExpert(engines, frozenset({ASSIST.name}))}, {ASSIST: Routers(gateways)})

    signals = reduce_signals(fleet, answers, 1e9, Scope(1.0))
    small = signals.experts[SMALL]

    assert signals.problems == ()
    assert len(small.pods) == 2
    assert known(small.arrivals) == pytest.approx(known(small.finished), rel=0.5)
    assert 0.05 < known(small.slot_seconds) / known(small.finished) < 0.5
    assert known(small.tokens_per_request) > 10
    assert known(small.kv_tokens) > 1000
    assert known(small.late(0.0)) == pytest.approx(known(small.arrivals), rel=0.5)
    assert known(small.lost("capacity")) == 0
    assert {pod.sleep for pod in small.pods} == {"Awake"}
