"""What a router learns from: prompts with what each model's answer was worth and cost.

A file of ours holds one JSON object a line: `{"id", "prompt", "outcomes": {model: {"quality", "usd"}}}` and, where the
row comes from live traffic, `"logged": {"model", "propensity", "scores", "quality", "usd", "candidates", "status"}`.
`usd` may be absent: not known is not zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model's answer was worth, in [0, 1], and what it cost (None: not known)."""

    quality: float
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """What a router chose for this prompt: the model, the probability it had of being chosen, and the scores then."""

    model: str
    propensity: float
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    outcome: Outcome | None = None
    """What the client got, and what all attempts cost: an escalated answer is not the model's own. None: not judged."""
    candidates: tuple[str, ...] = ()
    """Who might have answered; (): not known."""
    status: int | None = None
    """What the client was told; None: not known."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt; `group` is shared by rows that must never be parted by a split (near duplicates)."""

    id: str
    prompt: str
    outcomes: Mapping[str, Outcome]
    group: str = ""
    logged: Logged | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that holds no row, counted from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows of a file in its order, and the lines that were skipped."""

    examples: tuple[Example, ...]
    broken: tuple[Broken, ...] = ()


def data_digest(examples: Iterable[Example]) -> str:
    """`sha256:` and the digest of the rows, in their order."""
    state = sha256()
    for example in examples:
        state.update(format_example(example).encode("utf-8", "surrogatepass") + b"\n")
    return "sha256:" + state.hexdigest()


class RowError(ValueError):
    """A row that cannot be read, with the reason in words."""


def read_examples(path: Path) -> Reading:
    """The rows of a JSON lines file; broken lines are listed, never an error."""
    with path.open("rb") as lines:
        return parse_examples(lines)


def parse_examples(lines: Iterable[bytes]) -> Reading:
    """The rows of JSON lines: `read_examples` of what is no file."""
    examples: list[Example] = []
    broken: list[Broken] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(parse_example(line, default_id=str(number)))
        except RowError as error:
            broken.append(Broken(number, str(error)))
    return Reading(tuple(examples), tuple(broken))


def parse_example(line: bytes, *, default_id: str) -> Example:
    """One row of our own format.

    Raises:
        RowError: it is no such row.
    """
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RowError(f"no JSON: {error}") from error
    return parse_fields(_object(row, "the line"), default_id=default_id)


def parse_fields(fields: Mapping[str, object], *, default_id: str) -> Example:
    """The same of a row that is decoded already.

    Raises:
        RowError: it is no such row.
    """
    prompt = fields.get("prompt")
    if not isinstance(prompt, str):
        raise RowError("prompt is no string")
    outcomes = {
        name: _outcome(f"outcomes.{name}", value) for name, value in _object(fields.get("outcomes"), "outcomes").items()
    }
    logged = fields.get("logged")
    return Example(
        id=str(fields.get("id", default_id)),
        prompt=prompt,
        outcomes=outcomes,
        logged=None if logged is None else _logged(_object(logged, "logged")),
    )


def format_example(example: Example) -> str:
    """The row as a line of our own format, without its end; `parse_example` reads it back, its group aside."""
    row: dict[str, Any] = {
        "id": example.id,
        "prompt": example.prompt,
        "outcomes": {name: _format_outcome(outcome) for name, outcome in example.outcomes.items()},
    }
    if example.logged is not None:
        logged = example.logged
        row["logged"] = {"model": logged.model, "propensity": logged.propensity, "scores": dict(logged.scores)}
        row["logged"] |= {} if logged.outcome is None else _format_outcome(logged.outcome)
        row["logged"] |= {"candidates": list(logged.candidates)} if logged.candidates else {}
        row["logged"] |= {} if logged.status is None else {"status": logged.status}
    return json.dumps(row, ensure_ascii=False)


def _format_outcome(outcome: Outcome) -> dict[str, float]:
    return {"quality": outcome.quality} | ({} if outcome.usd is None else {"usd": outcome.usd})


def _object(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RowError(f"{name} is no object")
    return cast("Mapping[str, object]", value)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"{name} is no finite number")
    return float(value)


def _outcome(name: str, value: object) -> Outcome:
    fields = _object(value, name)
    quality = _number(fields.get("quality"), f"{name}.quality")
    if not 0 <= quality <= 1:
        raise RowError(f"{name}.quality is {quality:g}, not within 0 and 1")
    usd = fields.get("usd")
    if usd is None:
        return Outcome(quality)
    price = _number(usd, f"{name}.usd")
    if price < 0:
        raise RowError(f"{name}.usd is negative")
    return Outcome(quality, price)


def _logged(fields: Mapping[str, object]) -> Logged:
    model = fields.get("model")
    if not isinstance(model, str):
        raise RowError("logged.model is no string")
    propensity = _number(fields.get("propensity"), "logged.propensity")
    if not 0 < propensity <= 1:
        raise RowError(f"logged.propensity is {propensity:g}, not above 0 and at most 1")
    scores = _object(fields.get("scores", {}), "logged.scores")
    outcome = None if fields.get("quality") is None else _outcome("logged", fields)
    return Logged(
        model,
        propensity,
        {name: _number(each, f"logged.scores.{name}") for name, each in scores.items()},
        outcome,
        _names(fields.get("candidates", []), "logged.candidates"),
        None if fields.get("status") is None else int(_number(fields["status"], "logged.status")),
    )


def _names(value: object, name: str) -> tuple[str, ...]:
    names = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(each, str) for each in names):
        raise RowError(f"{name} is no list of names")
    return tuple(str(each) for each in names)
