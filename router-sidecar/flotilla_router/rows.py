"""Rows of a request log: what was asked, who might have answered, who was chosen, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from flotilla_api.strategy import LoggedPrompts

from .chunks import decode_answer
from .decisions import Decision
from .logs import AttemptRecord, RequestRecord, ShadowRecord
from .redaction import redact, redact_halves
from .text import CLIP_CHARACTERS
from .wire import DECODE_ERRORS, Api

ANSWER_CHARACTERS = 4096
"""Of an answer that are kept."""
FEATURE_BITS = 16
"""A row without text holds hashed words and pairs of neighbours, in 2^16 buckets: n-grams of characters would make it
ten times as large, and easier to turn back into text."""

_PIECES: dict[Api, re.Pattern[bytes]] = {
    "chat": re.compile(rb'"content":\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"'),
    "completions": re.compile(rb'"text":\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"'),
}
"""A piece of an answer in a stream's events, still in JSON's notation. A quote within a text has a backslash before it,
so no text can pass for a field."""
_decode_text = msgspec.json.Decoder(str).decode


class Features(msgspec.Struct, frozen=True):
    """What a prompt is to a linear scorer: 2^bits buckets of hashed words and pairs, and their values of norm 1."""

    bits: int
    indices: list[int]
    values: list[float]


class RequestRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request. What a field's absence means is its default."""

    id: str
    """The request's id, which its client may have chosen."""
    time: float
    """Unix seconds of its end."""
    policy: str
    alias: str
    api: str
    rule: str | None = None
    reason: str | None
    """Why `choice` was asked first, or why another one answered."""
    candidates: Sequence[str]
    """Who might have answered when the request came."""
    prompt: str | None = None
    """Text: the first and the last 512 characters. Redacted: the same without what looks private."""
    features: Features | None = None
    """Features: in place of the prompt."""
    choice: str
    """Who was asked first."""
    propensity: float | None
    """Probability with which `choice` was chosen; null: it was asked for by name."""
    artifact: str | None = None
    """Digest of the artifact that led to `choice`."""
    score: float | None = None
    """By the strategy's artifact: of a pair how hard the prompt is, of Cluster the best utility."""
    scores: Mapping[str, float] = {}
    """The same: of a pair the strong model's, of Cluster every model's utility."""
    shadow: ShadowRecord | None = None
    """What the shadow's artifact says, if it was asked."""
    model: str | None
    """Who answered."""
    status: int
    client_gone: bool = False
    cause: str | None = None
    """Why `choice` did not answer, or was escalated from: as in metrics and headers."""
    confidence: float | None = None
    """Of the answer of `choice`, where it was judged."""
    attempts: list[AttemptRecord]
    usd: float | None
    """Of all attempts; null: the price of one is unknown."""
    answer: str | None = None
    """What `model` said, its first 4,096 characters; only beside a prompt."""
    snapshot: str


def make_row(
    record: RequestRecord, decision: Decision, candidates: Sequence[str], scores: Mapping[str, float] | None
) -> RequestRow:
    """The row of a finished request, without what was said."""
    choice = decision.first.name
    own = [attempt for attempt in record.attempts if attempt.target == choice]
    last = own[-1] if own else None
    prices = [attempt.usd for attempt in record.attempts]
    return RequestRow(
        id=record.request_id,
        time=record.time,
        policy=record.policy,
        alias=record.alias,
        api=record.api,
        rule=record.rule,
        reason=record.reason,
        candidates=candidates,
        choice=choice,
        propensity=decision.propensity,
        artifact=record.artifact,
        score=record.score,
        scores={} if scores is None else {name: round(score, 6) for name, score in scores.items()},
        shadow=record.shadow,
        model=record.model,
        status=record.status,
        client_gone=record.client_gone,
        cause=None if last is None or last.result == "ok" else last.result,
        confidence=None if last is None else last.score,
        attempts=record.attempts,
        usd=None if None in prices else record.cost_usd,
        snapshot=record.snapshot,
    )


def add_texts(row: RequestRow, prompts: LoggedPrompts, prompt: str, answer: str | None) -> None:
    """The row holds what it may of a clipped prompt and of an answer."""
    match prompts:
        case "Features":
            row.features = make_features(prompt)
        case "Text":
            row.prompt = prompt
            row.answer = None if answer is None else answer[:ANSWER_CHARACTERS]
        case "Redacted":
            row.prompt = _redacted(prompt)
            row.answer = None if answer is None else _redacted_answer(answer)


def make_features(prompt: str) -> Features:
    """The hashed n-grams of a prompt."""
    # A router that keeps no features does without numpy.
    from .embedders.hashed import HashedGrams  # noqa: PLC0415
    from .embedders.tokens import tokens_of  # noqa: PLC0415

    indices, values = HashedGrams(FEATURE_BITS, pairs=True, grams=()).embed(tokens_of(prompt))
    return Features(FEATURE_BITS, indices.tolist(), values.astype(float).round(5).tolist())


def _redacted(prompt: str) -> str:
    if len(prompt) < 2 * CLIP_CHARACTERS:
        return redact(prompt)
    return redact_halves(prompt[:CLIP_CHARACTERS], prompt[CLIP_CHARACTERS:])


def _redacted_answer(answer: str) -> str:
    if len(answer) <= ANSWER_CHARACTERS:
        return redact(answer)
    return redact_halves(answer[:ANSWER_CHARACTERS], "")


def whole_answer(body: bytes) -> str | None:
    """The text of the first choice of a whole answer; None: it has none, such as one that only calls tools."""
    try:
        choices = decode_answer(body).choices
        return _decode_text(choices[0].read_message().content) if choices else None
    except DECODE_ERRORS:
        return None


def streamed_pieces(api: Api, events: bytes) -> bytes:
    """The text of whole events of a stream of one choice, in JSON's notation, without quotes: pieces can be joined."""
    return b"".join(_PIECES[api].findall(events))


def streamed_answer(pieces: bytes) -> str | None:
    """The text of joined pieces; None: there is none."""
    try:
        return _decode_text(b'"%b"' % pieces) or None
    except DECODE_ERRORS:
        return None
