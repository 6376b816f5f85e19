"""Words of a prompt: runs of letters and digits in small letters; in scripts without spaces each character is one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flotilla_router.text import clip

_ASCII = bytes(code if chr(code).isalnum() or code >= 128 else 32 for code in range(256)).lower()
"""What becomes of a byte of UTF-8: an ASCII letter its small one, other ASCII than letters and digits a space."""
_SPACE = 32
_PUNCTUATION, _ALONE = 1, 2
_BLOCK_BITS = 4
_PUNCTUATION_RANGES = ((0xA0, 0xBF), (0x2000, 0x206F), (0x3000, 0x303F), (0xFF00, 0xFF0F))
_ALONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def _kinds() -> NDArray[np.uint8]:
    """Of each block of sixteen code points."""
    kinds = np.zeros(0x110000 >> _BLOCK_BITS, np.uint8)
    for kind, ranges in ((_PUNCTUATION, _PUNCTUATION_RANGES), (_ALONE, _ALONE_RANGES)):
        for first, last in ranges:
            kinds[first >> _BLOCK_BITS : (last >> _BLOCK_BITS) + 1] = kind
    return kinds


_KINDS = _kinds()


class Tokens(NamedTuple):
    """A text in the forms that embedders look at, made once."""

    spaced: bytes
    """Its words in order, in UTF-8 and small letters, with one or more spaces between two."""
    edges: NDArray[np.intp]
    """Where in `spaced` each word begins, and where it ends, in turn."""
    codes: NDArray[np.integer]
    """Its characters, in small letters."""
    aligned: bool
    """Whether a word has the same codes at the same places in `spaced`: the text is ASCII."""

    @property
    def word_count(self) -> int:
        """Of words."""
        return len(self.edges) // 2


def tokens_of(text: str) -> Tokens:
    """Of a text, clipped; in any script it has words, unless it is nothing but marks."""
    text = clip(text)
    if text.isascii():
        data = text.encode().lower()
        spaced, codes, aligned = data.translate(_ASCII), np.frombuffer(data, np.uint8), True
    else:
        small = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
        spaced, codes, aligned = _apart(small).encode("utf-8", "surrogatepass").translate(_ASCII), small, False
    inside = np.zeros(len(spaced) + 2, np.bool_)
    np.not_equal(np.frombuffer(spaced, np.uint8), _SPACE, out=inside[1:-1])
    return Tokens(spaced, np.flatnonzero(inside[1:] != inside[:-1]), codes, aligned)


def words_of(text: str) -> list[bytes]:
    """The words in order."""
    return tokens_of(text).spaced.split()


def _apart(codes: NDArray[np.uint32]) -> str:
    """The text, a space for each mark beyond ASCII, and spaces around characters that are words by themselves."""
    kinds = _KINDS[codes >> _BLOCK_BITS]
    codes = np.where(kinds == _PUNCTUATION, np.uint32(_SPACE), codes)
    widths = np.where(kinds == _ALONE, 3, 1)
    ends = np.cumsum(widths)
    spread = np.full(int(ends[-1]), _SPACE, np.uint32)
    spread[ends - 1 - (widths == 3)] = codes
    return spread.tobytes().decode("utf-32-le", "surrogatepass")
