"""A deterministic tokenizer: a token is up to four letters with the blank before them, up to three digits, or one sign.

English text comes to about four bytes a token, as with real vocabularies. A character of k UTF-8 bytes takes k - 1
tokens (at least one); all but the last of them have no text yet, as in byte-level vocabularies, so streams show empty
entries.
"""

from __future__ import annotations

import re

END_OF_TURN = "<|im_end|>"
"""The token that ends an answer; it is counted in usage and listed in logprobs, but is never text."""

MESSAGE_OVERHEAD_TOKENS = 4
"""Role and delimiters of one chat message."""

GENERATION_PROMPT_TOKENS = 3
"""What the chat template adds after the last message."""

BYTES_PER_BLOCK = 64
"""Prompt bytes that share one prefix-cache block of `TOKENS_PER_BLOCK` tokens."""

TOKENS_PER_BLOCK = 16

_PIECE = re.compile(r" ?[A-Za-z]{1,4}|[0-9]{1,3}|[\x00-\x7f]|[^\x00-\x7f]")


def split(text: str) -> list[str]:
    """Return the text of each token; joined they are `text`, and tokens inside a wide character are empty."""
    pieces: list[str] = _PIECE.findall(text)
    if text.isascii():
        return pieces
    tokens: list[str] = []
    for piece in pieces:
        tokens += [""] * _hidden_tokens(piece)
        tokens.append(piece)
    return tokens


def count(text: str) -> int:
    """Return how many tokens `text` takes."""
    pieces = _PIECE.findall(text)
    if text.isascii():
        return len(pieces)
    return len(pieces) + sum(map(_hidden_tokens, pieces))


def encode(text: str) -> list[int]:
    """Return one id a token; `decode` gives `text` back."""
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        data = piece.encode("utf-8", "replace")
        hidden = _hidden_tokens(piece)
        ids += data[:hidden]
        ids.append(int.from_bytes(data[hidden:], "big"))
    return ids


def decode(ids: list[int]) -> str:
    """Return the text of the token ids; bytes that are not UTF-8 become U+FFFD."""
    data = b"".join(token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big") for token in ids)
    return data.decode("utf-8", "replace")


def _hidden_tokens(piece: str) -> int:
    return 0 if piece.isascii() else max(0, len(piece.encode("utf-8", "replace")) - 2)
