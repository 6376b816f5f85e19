"""Hashed n-grams: buckets of words, pairs of neighbours and runs of characters. There is nothing to ship or to fit.

A run of characters c hashes to c0 + c1 B + c2 B^2 + ... modulo 2^32 (Karp and Rabin, 1987). That is a difference of
running sums, divided by a power of B: so all words and runs of a text are hashed in few operations on whole arrays.
Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, arXiv 0902.2206, without the signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flotilla_router.text import CLIP_CHARACTERS

from .tokens import Tokens

Hashes = NDArray[np.uint32]

BASE = 0xC2B2AE35
"""Odd, so that it has an inverse modulo 2^32."""
_MOST_SMALL_LETTERS = 3 * 2 * CLIP_CHARACTERS
"""Of a clipped text: one character has at most three small ones."""
_MOST_BYTES = _MOST_SMALL_LETTERS * 6
"""Of those in UTF-8, each between two spaces."""
_MOST_HASHES = _MOST_BYTES + 4 * _MOST_SMALL_LETTERS
"""Words and pairs, and runs of four lengths."""
_POWERS = np.full(_MOST_BYTES, BASE, np.uint32).cumprod(dtype=np.uint32) * np.uint32(pow(BASE, -1, 2**32))
_INVERSE_POWERS = np.full(_MOST_BYTES + 1, pow(BASE, -1, 2**32), np.uint32).cumprod(dtype=np.uint32) * np.uint32(BASE)
_LOG_COUNTS = (1 + np.log(np.arange(1, _MOST_HASHES + 1))).astype(np.float32)
_MULTIPLIER = np.uint32(0x9E3779B1)
"""2^32 over the golden ratio: Knuth's multiplicative hash, whose upper bits are well mixed."""
_WORD = np.uint32(0x27D4EB2F)
_PAIR = np.uint32(0x85EBCA6B)


@dataclass(frozen=True, slots=True)
class HashedGrams:
    """2^bits buckets; `grams` are the lengths of runs of characters, none where it is empty."""

    bits: int
    pairs: bool
    grams: tuple[int, ...]

    def embed(self, tokens: Tokens) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Buckets that occur, in rising order, and their 1 + ln(count), of Euclidean norm 1; both empty without any."""
        hashes = self._hashes(tokens)
        if not hashes.size:
            return hashes.astype(np.intp), np.zeros(0, np.float32)
        hashes *= _MULTIPLIER
        hashes >>= np.uint32(32 - self.bits)
        hashes.sort()
        ends = np.flatnonzero(_is_last(hashes))
        counts_less_one = ends.copy()
        counts_less_one[1:] -= ends[:-1] + 1
        values = _LOG_COUNTS[counts_less_one]
        values /= np.sqrt(values @ values)
        return hashes[ends].astype(np.intp), values

    def _hashes(self, tokens: Tokens) -> Hashes:
        sums = _running_sums(tokens.codes)
        word_sums = sums if tokens.aligned else _running_sums(np.frombuffer(tokens.spaced, np.uint8))
        starts, ends = tokens.edges[::2], tokens.edges[1::2]
        words = (word_sums[ends] - word_sums[starts]) * _INVERSE_POWERS[starts]
        parts = [words * _WORD]
        if self.pairs:
            parts.append(words[:-1] * _PAIR + words[1:])
        for length in self.grams:
            count = tokens.codes.size + 1 - length
            if count > 0:
                parts.append((sums[length:] - sums[:count]) * _INVERSE_POWERS[:count])
        return np.concatenate(parts)


def _is_last(values: Hashes) -> NDArray[np.bool_]:
    """Where a value of a sorted array occurs for the last time."""
    last = np.empty(values.size, np.bool_)
    np.not_equal(values[1:], values[:-1], out=last[:-1])
    last[-1] = True
    return last


def _running_sums(codes: NDArray[np.integer]) -> Hashes:
    """0, c0, c0 + c1 B, ..."""
    sums = np.zeros(codes.size + 1, np.uint32)
    np.cumsum(codes * _POWERS[: codes.size], dtype=np.uint32, out=sums[1:])
    return sums
