"""LLMRouter's published scores (github.com/ulab-uiuc/LLMRouter, MIT): what nine models' answers were worth.

Their files are JSON lists of `{"question", "scores": {model: quality}}`, their prices dollars per million tokens by
model. Neither says how long an answer was, so a request's cost is that of its prompt, by bytes, and of an answer of 256
tokens: a ratio of costs is then one of prices.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from .datasets import Broken, Example, Outcome, Reading, RowError, parse_fields

ANSWER_TOKENS = 256
BYTES_PER_TOKEN = 4
Price = tuple[float, float]
"""Dollars per million tokens of input and of output."""


def read_prices(path: Path) -> Mapping[str, Price]:
    """Of each model in their table of models."""
    table = cast("dict[str, dict[str, float]]", json.loads(_data(path)))
    return {name: (float(row["input_price"]), float(row["output_price"])) for name, row in table.items()}


def read_llmrouter(path: Path, prices: Mapping[str, Price]) -> Reading:
    """The rows of a file of theirs, gzipped or not; what a model without a price cost is not known."""
    examples: list[Example] = []
    broken: list[Broken] = []
    rows = cast("list[object]", json.loads(_data(path)))
    for number, row in enumerate(rows, start=1):
        try:
            examples.append(_example(str(number), row, prices))
        except RowError as error:
            broken.append(Broken(number, str(error)))
    return Reading(tuple(examples), tuple(broken))


def _data(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _example(number: str, row: object, prices: Mapping[str, Price]) -> Example:
    theirs = cast("dict[str, object]", row) if isinstance(row, dict) else {}
    scores = theirs.get("scores")
    outcomes = (
        {name: {"quality": score} for name, score in cast("dict[str, object]", scores).items()}
        if isinstance(scores, dict)
        else None
    )
    example = parse_fields({"id": number, "prompt": theirs.get("question"), "outcomes": outcomes}, default_id=number)
    priced = {
        name: Outcome(outcome.quality, request_usd(example.prompt, prices[name]) if name in prices else None)
        for name, outcome in example.outcomes.items()
    }
    return Example(example.id, example.prompt, priced)


def request_usd(prompt: str, price: Price) -> float:
    """What one request costs, by the rule above."""
    tokens = len(prompt.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN
    return (tokens * price[0] + ANSWER_TOKENS * price[1]) / 1e6
