"""Hashed n-grams: buckets of words, pairs of neighbours and character n-grams. There is nothing to ship or to fit.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, arXiv 0902.2206, without the signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

MAX_BITS = 20
MAX_GRAM = 8
_MULTIPLIER = np.uint32(0x9E3779B1)
"""2^32 over the golden ratio: Knuth's multiplicative hash, whose upper bits are well mixed."""
_PAIR = np.uint32(0x85EBCA6B)
_CHARACTER = np.uint32(0x01000193)
_SEED = np.uint32(0x27D4EB2F)


@dataclass(frozen=True, slots=True)
class HashedGrams:
    """2^bits buckets; `grams` are the lengths of character n-grams, none where it is empty."""

    bits: int
    pairs: bool
    grams: tuple[int, ...]

    def embed(self, text: str, words: Sequence[bytes]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Buckets that occur, in rising order, and their 1 + ln(count), of Euclidean norm 1; both empty without any."""
        hashes = self._hashes(text, words)
        if not hashes.size:
            return hashes.astype(np.intp), np.zeros(0, np.float32)
        hashes *= _MULTIPLIER
        hashes >>= np.uint32(32 - self.bits)
        hashes.sort()
        begins = np.empty(hashes.size, np.bool_)
        begins[0] = True
        np.not_equal(hashes[1:], hashes[:-1], out=begins[1:])
        starts = np.flatnonzero(begins)
        counts = np.empty(starts.size, np.float32)
        np.subtract(starts[1:], starts[:-1], out=counts[:-1], casting="unsafe")
        counts[-1] = hashes.size - starts[-1]
        values = np.log(counts, out=counts)
        values += 1
        values /= np.sqrt(values @ values)
        return hashes[starts].astype(np.intp), values

    def _hashes(self, text: str, words: Sequence[bytes]) -> NDArray[np.uint32]:
        single = np.fromiter(map(crc32, words), np.uint32, len(words))
        parts = [single]
        if self.pairs and len(words) > 1:
            parts.append(single[:-1] * _PAIR + single[1:])
        if self.grams:
            parts += _character_grams(text, self.grams)
        return np.concatenate(parts)


def _character_grams(text: str, lengths: Sequence[int]) -> list[NDArray[np.uint32]]:
    """A polynomial hash of each run of so many characters, in lower case."""
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    parts: list[NDArray[np.uint32]] = []
    rolled = codes
    for length in range(1, min(max(lengths), codes.size) + 1):
        if length > 1:
            rolled = rolled[:-1] * _CHARACTER
            rolled += codes[length - 1 :]
        if length in lengths:
            parts.append((rolled ^ _SEED) * _PAIR + np.uint32(length))
    return parts
