"""What a text looks like, apart from its words: how long it is and what kinds of characters it has."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

DIMS = 10
_MOST_BYTES = 4096
"""Of a clipped text in UTF-8."""
_UPPER, _LOWER, _DIGIT, _BLANK, _LINE, _SIGN, _MARK, _OTHER = range(8)


def _kind(code: int) -> int:
    character = chr(code)
    if code >= 128:
        return _OTHER
    if character.isalpha():
        return _UPPER if character.isupper() else _LOWER
    if character.isdigit():
        return _DIGIT
    if character.isspace():
        return _LINE if character == "\n" else _BLANK
    return _SIGN if character in "+-*/=<>^%$\\_{}[]()|" else _MARK


_KINDS = bytes(_kind(code) for code in range(256))


def embed(text: str, word_count: int) -> NDArray[np.float32]:
    """Ten numbers in [0, 1]: the logarithms of its bytes and words, and the shares of eight kinds of bytes.

    The kinds are large letters, small ones, digits, blanks, line feeds, signs of formulas and code, other marks of
    ASCII, and all that is not ASCII.
    """
    data = text.encode("utf-8", "surrogatepass")
    counts = np.bincount(np.frombuffer(data.translate(_KINDS), np.uint8), minlength=8)
    most = math.log1p(_MOST_BYTES)
    features = np.empty(DIMS, np.float32)
    features[0] = math.log1p(len(data)) / most
    features[1] = math.log1p(word_count) / most
    features[2:] = counts / max(len(data), 1)
    return features
