"""Log-probabilities of an answer's tokens, in the two shapes of the API.

A confident token has p of about 0.97, an unsure one about 0.25 with alternatives close behind, so exp(mean) parts the
two clearly. A grammar-forced token has probability 1 and alternatives at -9999, as vLLM shows masked ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict
from zlib import crc32

from fakes.engine.answers import Answer, Token

MASKED = -9999.0

_MASKED_TEXTS = ("<|im_start|>", "<|pad|>", "<unk>", "<|endoftext|>", "!", '"', "#", "$", "%", "&")
_OTHER_TEXTS = (" the", " a", " is", "\n", " not", "1", " and", ",", " to", " of", "It", " we", "?", " in", "0", "The")


class TopEntry(TypedDict):
    """One alternative at a position."""

    token: str
    logprob: float
    bytes: list[int]


class Entry(TopEntry):
    """A position: the token that was chosen, and the most likely ones."""

    top_logprobs: list[TopEntry]


class CompletionLogprobs(TypedDict):
    """The shape of /v1/completions: parallel lists, alternatives keyed by text."""

    text_offset: list[int]
    token_logprobs: list[float]
    tokens: list[str]
    top_logprobs: list[dict[str, float]]


def make_entries(answer: Answer, start: int, stop: int, top: int) -> list[Entry]:
    """Return the chat entries of tokens `start` to `stop`, each with `top` alternatives."""
    entries: list[Entry] = []
    for index in range(start, stop):
        token = answer.tokens[index]
        ranked = _ranked(token, index, confident=answer.confident, top=top)
        tops = [_top(text, value) for text, value in ranked[:top]]
        text, value = ranked[0]
        entries.append({"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": tops})
    return entries


def make_completion(answer: Answer, start: int, stop: int, top: int, offset: int) -> CompletionLogprobs:
    """Return the completion shape of the same; `offset` is the length of the text before `start`."""
    found: CompletionLogprobs = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    for index in range(start, stop):
        token = answer.tokens[index]
        ranked = _ranked(token, index, confident=answer.confident, top=top)
        found["text_offset"].append(offset)
        found["token_logprobs"].append(ranked[0][1])
        found["tokens"].append(token.text)
        found["top_logprobs"].append(_by_text(ranked[: max(1, top)]))
        offset += len(token.text)
    return found


def _by_text(ranked: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Key alternatives by text; where two have the same text the last one stays, as in vLLM."""
    table: Mapping[str, float] = dict(ranked)
    return dict(table)


def _ranked(token: Token, index: int, *, confident: bool, top: int) -> list[tuple[str, float]]:
    """Return the chosen token and at least `top` - 1 alternatives, most likely first."""
    if token.forced:
        return [(token.text, 0.0), *((text, MASKED) for text in _MASKED_TEXTS[: max(0, top - 1)])]
    noise = crc32(token.text.encode(), index) % 1000 / 1000
    chosen = 0.945 + 0.05 * noise if confident else 0.18 + 0.14 * noise
    ranked = [(token.text, math.log(chosen))]
    rest = 1 - chosen
    for rank in range(top - 1):
        share = rest * 0.5 ** (rank + 1) if confident else min(rest * 0.18 * 0.8**rank, chosen * 0.97 ** (rank + 1))
        ranked.append((_OTHER_TEXTS[(index + rank * 3) % len(_OTHER_TEXTS)], math.log(share)))
    return ranked


def _top(text: str, value: float) -> TopEntry:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}
