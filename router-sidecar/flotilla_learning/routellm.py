"""RouteLLM's published answers (github.com/lm-sys/RouteLLM, Apache-2.0): right or wrong, per model and question.

Their tables have a column `prompt` and, under each model's name, one of True and False. What an answer cost they do
not say.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from .datasets import Broken, Example, Outcome, Reading

WEAK = "mistralai/Mixtral-8x7B-Instruct-v0.1"
STRONG = "gpt-4-1106-preview"
_LONGEST_FIELD = 1 << 20
_TRUTH = {"True": 1.0, "False": 0.0}


def read_routellm(path: Path, *, contaminated: Collection[str] = ()) -> Reading:
    """The rows of a table of theirs, gzipped or not, without the prompts that a model may have been trained on."""
    csv.field_size_limit(_LONGEST_FIELD)
    return _parse(csv.DictReader(io.StringIO(_text(path), newline="")), contaminated)


def read_contaminated(path: Path) -> frozenset[str]:
    """The prompts that RouteLLM found among what a model was trained on."""
    return frozenset(json.loads(line)["eval_prompt"] for line in _text(path).splitlines() if line.strip())


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _parse(rows: Iterable[Mapping[str, str | None]], contaminated: Collection[str]) -> Reading:
    examples: list[Example] = []
    broken: list[Broken] = []
    for number, row in enumerate(rows, start=2):
        prompt = row.get("prompt")
        outcomes = {name: Outcome(_TRUTH[value]) for name, value in row.items() if value in _TRUTH}
        if not prompt or not outcomes:
            broken.append(Broken(number, "no prompt, or no model's column is True or False"))
        elif prompt not in contaminated:
            examples.append(Example(str(number), prompt, outcomes))
    return Reading(tuple(examples), tuple(broken))
