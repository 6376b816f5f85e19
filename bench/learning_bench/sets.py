"""The published data sets, without contaminated prompts, near duplicates grouped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flotilla_learning.datasets import Example
from flotilla_learning.grouping import group_near_duplicates
from flotilla_learning.llmrouter import Price, read_llmrouter, read_prices
from flotilla_learning.routellm import read_contaminated, read_routellm
from flotilla_learning.splits import split_groups

DATA = Path(__file__).parents[1] / "data"
ROUTELLM, LLMROUTER = DATA / "routellm", DATA / "llmrouter"
WORD_VECTORS = DATA / "minilm" / "words.npz"


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, choices included, and what is looked at once, by what came out of it."""

    train: list[Example]
    test: list[Example]


def mmlu() -> tuple[Example, ...]:
    """GPT-4 and Mixtral on MMLU."""
    return _routellm("mmlu.csv.gz", "mmlu_contaminated_prompts.jsonl")


def gsm8k() -> tuple[Example, ...]:
    """The same two on GSM8K."""
    return _routellm("gsm8k_responses.csv.gz", "gsm8k_contaminated_prompts.jsonl")


def _routellm(table: str, contaminated: str) -> tuple[Example, ...]:
    reading = read_routellm(ROUTELLM / table, contaminated=read_contaminated(ROUTELLM / contaminated))
    return group_near_duplicates(reading.examples)


def prices() -> Mapping[str, Price]:
    """Of LLMRouter's models."""
    return read_prices(LLMROUTER / "default_llm.json")


def fleet() -> tuple[Example, ...]:
    """LLMRouter's nine models on all its questions: 119 are in both of its parts."""
    parts = [read_llmrouter(LLMROUTER / name, prices()).examples for name in ("train.json.gz", "test.json.gz")]
    return group_near_duplicates([*parts[0], *parts[1]])


def parted(examples: Sequence[Example], *, share: float, seed: int) -> Split:
    """A split by group."""
    train, test = split_groups(examples, share=share, seed=seed)
    return Split([examples[row] for row in train], [examples[row] for row in test])


def sample(examples: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """So many of the rows."""
    rows = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[row] for row in sorted(rows.tolist())]
