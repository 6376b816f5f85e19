"""Takes out of a text what looks like personal data or a secret. Names and addresses in plain words stay.

| what                                                   | becomes   |
|--------------------------------------------------------|-----------|
| URLs, with or without a scheme                         | `<url>`   |
| e-mail addresses                                       | `<email>` |
| 20 letters, digits and `+ / = _ -` or more in one word | `<token>` |
| every other digit, of any script                       | `#`       |

Each pattern takes time in proportion to the text, whatever is in it.
"""

from __future__ import annotations

import re

_URL = re.compile(r"(?:(?<![a-z0-9+.-])[a-z0-9+.-]++://|(?<![a-z0-9])www\.)[^\s<>\"']+", re.IGNORECASE | re.ASCII)
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]++@[\w-]+(?:\.[\w-]+)*+")
_TOKEN = re.compile(r"(?<![\w+/=-])[\w+/=-]{20,}", re.ASCII)
_DIGIT = re.compile(r"\d")
_CUT_AT_END = re.compile(r"(?<![!-~])[!-~]++\Z")
_CUT_AT_START = re.compile(r"\A[!-~]+")


def redact(text: str) -> str:
    """The text without what the table names."""
    if "://" in text or "www." in text.lower():
        text = _URL.sub("<url>", text)
    if "@" in text:
        text = _EMAIL.sub("<email>", text)
    text = _TOKEN.sub("<token>", text)
    return _DIGIT.sub("#", text)


def redact_halves(first: str, last: str) -> str:
    """The beginning and the end of a longer text, redacted; a word that was parted is left out."""
    return redact(_CUT_AT_END.sub("", first)) + redact(_CUT_AT_START.sub("", last))
