"""Near-duplicate prompts share a group, so that no split has one of them on either side.

Two prompts are near duplicates when their sets of three-word runs overlap by at least 0.8 (Jaccard). Candidates come
from MinHash signatures in bands. Source: Broder, On the resemblance and containment of documents, 1997; Leskovec et
al., Mining of Massive Datasets, section 3.4.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .datasets import Example

SIMILARITY = 0.8
_RUN_WORDS = 3
_BANDS, _ROWS = 20, 4
"""Of two prompts at 0.8 a band agrees with 0.8^4 = 0.41: all 20 differ once in 40,000 pairs."""
_PRIME = (1 << 31) - 1
_WORD = re.compile(r"\w+")


def group_near_duplicates(examples: Sequence[Example]) -> tuple[Example, ...]:
    """The same rows, in the same order, each with its group: the id of the first row in it, as a position."""
    shingles = [_shingles(example.prompt) for example in examples]
    parents = list(range(len(examples)))
    for first, second in _candidates(shingles):
        left, right = _root(parents, first), _root(parents, second)
        if left != right and _similarity(shingles[first], shingles[second]) >= SIMILARITY:
            parents[max(left, right)] = min(left, right)
    return tuple(replace(example, group=str(_root(parents, position))) for position, example in enumerate(examples))


def _shingles(prompt: str) -> frozenset[int]:
    """Hashes of the runs of three words; of all words together where there are fewer."""
    words = _WORD.findall(prompt.lower())
    runs = [" ".join(words[start : start + _RUN_WORDS]) for start in range(max(len(words) - _RUN_WORDS + 1, 1))]
    return frozenset(zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs)


def _similarity(first: frozenset[int], second: frozenset[int]) -> float:
    return len(first & second) / len(first | second)


def _candidates(shingles: Sequence[frozenset[int]]) -> Iterator[tuple[int, int]]:
    """Pairs whose signatures agree in a whole band; of many that do, each with the one before it."""
    signatures = np.array([_signature(each) for each in shingles], np.int64).reshape(-1, _BANDS, _ROWS)
    for band in range(_BANDS):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for position in range(len(shingles)):
            buckets[signatures[position, band].tobytes()].append(position)
        for members in buckets.values():
            yield from pairwise(members)


def _signature(shingles: frozenset[int]) -> NDArray[np.int64]:
    hashes = np.fromiter(shingles, np.int64, len(shingles)) % _PRIME
    return ((hashes[:, None] * _FACTORS + _OFFSETS) % _PRIME).min(axis=0)


_DRAW = np.random.default_rng(20_261_123)
_FACTORS = _DRAW.integers(1, _PRIME, _BANDS * _ROWS)
_OFFSETS = _DRAW.integers(0, _PRIME, _BANDS * _ROWS)


def _root(parents: list[int], position: int) -> int:
    while parents[position] != position:
        parents[position] = parents[parents[position]]
        position = parents[position]
    return position
