"""What a Prometheus server's JSON says, checked: rows, or why nothing is known. PURE.

Nothing in an answer is trusted: its form, its size, its moment and its numbers are looked at before they count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from .readings import Labels, Reading, Rows, believable
from .signals import Unknown

ROWS_MAX = 200_000
"""Of one answer: ten times what a fleet of 1,000 experts needs."""
_MESSAGE_MAX_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Vector:
    """The answer to an instant query."""

    rows: Rows
    """What was answered and is no measurement is NaN."""
    at: float | None
    """When it was evaluated, by the server's clock, in seconds since the epoch; None: it is empty, so it does not
    say."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """The answer to a range query: for each row (when, value), oldest first."""

    rows: dict[Labels, tuple[tuple[float, float], ...]]


class _MalformedError(Exception):
    """The answer has not the form that it should have."""


def read_vector(reading: Reading, body: bytes) -> Vector | Unknown:
    """What an instant query's answer says."""
    found = _result(body, "vector")
    if isinstance(found, Unknown):
        return found
    try:
        return _vector(reading, found)
    except (_MalformedError, KeyError, TypeError, ValueError, IndexError) as error:
        return _malformed(error)


def read_matrix(reading: Reading, body: bytes) -> Matrix | Unknown:
    """What a range query's answer says; points that are no measurement are left out."""
    found = _result(body, "matrix")
    if isinstance(found, Unknown):
        return found
    try:
        return Matrix({_labels(reading, entry): _points(reading, entry["values"]) for entry in found})
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return _malformed(error)


def read_error(body: bytes) -> str:
    """What an answer that is no success says of it; '' when that cannot be read."""
    try:
        return _shorten(str(json.loads(body)["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _result(body: bytes, kind: str) -> Sequence[dict[str, Any]] | Unknown:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Unknown(f"Prometheus answered no JSON: {_shorten(str(error))}")
    if not isinstance(answer, dict):
        return Unknown("Prometheus answered JSON that is no object")
    return _checked(cast("dict[str, Any]", answer), kind)


def _checked(answer: dict[str, Any], kind: str) -> Sequence[dict[str, Any]] | Unknown:
    if answer.get("status") != "success":
        return Unknown(f"Prometheus refused the query: {_shorten(str(answer.get('error', 'no reason given')))}")
    if partial := _warnings(answer.get("warnings")):
        return Unknown(f"Prometheus answered only in part: {partial}")
    data = answer.get("data")
    if not isinstance(data, dict) or cast("dict[str, Any]", data).get("resultType") != kind:
        return Unknown(f"Prometheus answered no {kind}")
    result = cast("dict[str, Any]", data).get("result")
    if not isinstance(result, list):
        return Unknown(f"Prometheus answered a {kind} without a list")
    rows = cast("list[dict[str, Any]]", result)
    return Unknown(f"Prometheus answered {len(rows)} series, more than {ROWS_MAX}") if len(rows) > ROWS_MAX else rows


def _warnings(given: object) -> str:
    """Those that mean a partial answer; remarks about the query itself, which begin with PromQL, do not."""
    warnings = cast("list[object]", given) if isinstance(given, list) else []
    return _shorten("; ".join(str(each) for each in warnings if not str(each).startswith("PromQL")))


def _vector(reading: Reading, result: Sequence[dict[str, Any]]) -> Vector:
    rows: dict[Labels, float] = {}
    moments: set[float] = set()
    for entry in result:
        at, text = entry["value"]
        moments.add(at)
        rows[_labels(reading, entry)] = believable(reading, float(text))
    if len(rows) < len(result):
        raise _MalformedError("the same series twice")
    if len(moments) > 1:
        raise _MalformedError("more than one moment")
    at = float(moments.pop()) if moments else None
    if at is not None and not math.isfinite(at):
        raise _MalformedError("no moment")
    return Vector(rows, at)


def _labels(reading: Reading, entry: dict[str, Any]) -> Labels:
    metric: dict[str, str] = entry["metric"]
    return tuple([metric.get(name, "") for name in reading.by])


def _points(reading: Reading, values: Sequence[Sequence[Any]]) -> tuple[tuple[float, float], ...]:
    points = ((float(at), float(text)) for at, text in values)
    return tuple((at, value) for at, value in points if math.isfinite(at) and 0 <= value <= reading.most)


def _malformed(error: Exception) -> Unknown:
    return Unknown(f"Prometheus' answer cannot be read: {_shorten(str(error) or type(error).__name__)}")


def _shorten(text: str) -> str:
    return text if len(text) <= _MESSAGE_MAX_CHARACTERS else f"{text[:_MESSAGE_MAX_CHARACTERS]}..."
