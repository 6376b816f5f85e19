"""What a shadow's artifact would have chosen, beside what was chosen, from an exported request log. PURE."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from .datasets import Example, RowError, parse_example

_COMPARED = ("id", "prompt", "outcomes")
_Z = 1.96
"""Of a 95 % interval."""


@dataclass(slots=True)
class ShadowLog:
    """Requests that one shadow's artifact scored."""

    artifact: str
    """Its digest."""
    rows: list[Example] = field(default_factory=list[Example])
    live: list[str] = field(default_factory=list[str])
    """Who was asked first, of each row."""
    shadow: list[str] = field(default_factory=list[str])
    """Whom the shadow would have asked."""
    last: float = -math.inf
    """Unix seconds of the last of them."""


@dataclass(slots=True)
class ShadowReading:
    """What a log says of a policy's shadows."""

    requests: int = 0
    """All rows of the policy."""
    logs: dict[str, ShadowLog] = field(default_factory=dict[str, ShadowLog])
    """By the artifact's digest."""
    costs: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Dollars of every answer, by model."""
    unused: Counter[str] = field(default_factory=Counter[str])
    """Rows that say nothing, by reason."""


def read_shadow(lines: Iterable[bytes], policy: str) -> ShadowReading:
    """The rows of a policy, labelled or not, by the shadow's artifact; broken lines are counted."""
    reading = ShadowReading()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _add(reading, _object(json.loads(line)), policy, number)
        except RowError as error:
            reading.unused[str(error)] += 1
        except (ValueError, RecursionError) as error:
            reading.unused[f"no JSON: {error}"] += 1
    return reading


def mean_costs(reading: ShadowReading) -> dict[str, float]:
    """What an answer of each model cost on average, in all of the policy's requests."""
    return {model: sum(each) / len(each) for model, each in reading.costs.items()}


def agreement(agreed: int, rows: int) -> tuple[float, float, float]:
    """The share of rows with its 95 % interval. Source: Wilson, 1927."""
    share = agreed / rows
    centre = share + _Z**2 / (2 * rows)
    half = _Z * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    scale = 1 + _Z**2 / rows
    return share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _add(reading: ShadowReading, fields: Mapping[str, Any], policy: str, number: int) -> None:
    if str(fields.get("policy")).rpartition("/")[2] != policy:
        return
    reading.requests += 1
    _add_costs(reading.costs, fields)
    shadow = fields.get("shadow")
    if shadow is None:
        return
    artifact, model = _object(shadow).get("artifact"), _object(shadow).get("model")
    live, time = fields.get("choice"), fields.get("time")
    if model is None:
        raise RowError("the shadow has no threshold or alpha to choose by")
    if not (isinstance(artifact, str) and isinstance(model, str) and isinstance(live, str)):
        raise RowError("its choice or its shadow cannot be read")
    row = _example(fields, number)
    log = reading.logs.setdefault(artifact, ShadowLog(artifact))
    log.rows.append(row)
    log.live.append(live)
    log.shadow.append(model)
    log.last = max(log.last, float(time)) if isinstance(time, int | float) else log.last


def _example(fields: Mapping[str, Any], number: int) -> Example:
    """The row for comparisons, also where the log holds no text."""
    known = {name: fields[name] for name in _COMPARED if name in fields}
    line = json.dumps({"prompt": "", "outcomes": {}, **known})
    return parse_example(line.encode(), default_id=str(number))


def _add_costs(costs: dict[str, list[float]], fields: Mapping[str, Any]) -> None:
    attempts = fields.get("attempts", [])
    for each in cast("list[Any]", attempts) if isinstance(attempts, list) else []:
        attempt = _object(each)
        target, usd = attempt.get("target"), attempt.get("usd")
        if attempt.get("result") == "ok" and isinstance(target, str) and isinstance(usd, int | float):
            costs.setdefault(target, []).append(float(usd))


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RowError("the line, or its shadow, is no object")
    return cast("Mapping[str, Any]", value)
