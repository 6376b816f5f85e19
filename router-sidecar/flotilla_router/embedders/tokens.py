"""Words of a prompt: runs of letters and digits in small letters; in scripts without spaces each character is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ASCII = bytes(code if chr(code).isalnum() or code >= 128 else 32 for code in range(256)).lower()
"""What becomes of a byte of UTF-8: an ASCII letter its small one, other ASCII than letters and digits a space."""
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


def words_of(text: str) -> list[bytes]:
    """The words in order, in UTF-8; a text of any script has some, unless it is nothing but marks of ASCII."""
    if not text.isascii():
        text = _spaced(text.lower())
    return text.encode("utf-8", "surrogatepass").translate(_ASCII).split()


def _spaced(text: str) -> str:
    """The text with a space for punctuation beyond ASCII, and spaces around characters that are words by themselves."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _KINDS[codes >> _BLOCK_BITS]
    codes = np.where(kinds == _PUNCTUATION, np.uint32(32), codes)
    widths = np.where(kinds == _ALONE, 3, 1)
    ends = np.cumsum(widths)
    spread = np.full(int(ends[-1]), 32, np.uint32)
    spread[ends - 1 - (widths == 3)] = codes
    return spread.tobytes().decode("utf-32-le", "surrogatepass")
