"""Answers as the cascade reads them: chunks of a stream, whole answers, and the log probabilities in both."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from .sse import data_offset
from .wire import ABSENT, DECODE_ERRORS

_NOTHING = (b"", b"null", b'""', b"[]")
IMPOSSIBLE_LOGPROB = -1000.0
"""At or below it an alternative was masked by a grammar (vLLM writes -9999)."""


def is_present(part: Raw) -> bool:
    """Whether a part is there and not null."""
    return part is not ABSENT and bytes(part) != b"null"


def is_filled(part: Raw) -> bool:
    """Whether a part is there and says something: not null, not "", not []."""
    return part is not ABSENT and bytes(part) not in _NOTHING


class Message(msgspec.Struct, gc=False):
    """A delta or a message: what an answer is made of."""

    content: Raw = ABSENT
    tool_calls: Raw = ABSENT
    function_call: Raw = ABSENT
    refusal: Raw = ABSENT
    reasoning: Raw = ABSENT
    reasoning_content: Raw = ABSENT

    @property
    def calls_tool(self) -> bool:
        """Whether it holds a tool call, or a piece of one."""
        return is_filled(self.tool_calls) or is_filled(self.function_call)

    @property
    def answers(self) -> bool:
        """Whether it holds text or a tool call, or a piece of one; reasoning is not an answer."""
        return is_filled(self.content) or self.calls_tool or is_filled(self.refusal)

    @property
    def reasons(self) -> bool:
        """Whether it holds reasoning."""
        return is_filled(self.reasoning) or is_filled(self.reasoning_content)


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk (`delta`), of a whole chat answer (`message`) or of a completion (`text`)."""

    index: int = 0
    delta: Raw = ABSENT
    message: Raw = ABSENT
    text: Raw = ABSENT
    logprobs: Raw = ABSENT
    finish_reason: Raw = ABSENT
    token_ids: Raw = ABSENT

    @property
    def finished(self) -> bool:
        """Whether this is the choice's last chunk."""
        return is_present(self.finish_reason)

    @property
    def hollow(self) -> bool:
        """Whether it is there for its logprobs only: without them vLLM would not have sent it."""
        return bytes(self.delta) == b"{}" and not self.finished and not is_present(self.token_ids)

    def read_message(self) -> Message:
        """Its delta, message or text."""
        part = self.message if self.delta is ABSENT else self.delta
        return _decode_message(part) if is_present(part) else Message(content=self.text)


class Answer(msgspec.Struct, gc=False):
    """A chunk, or a whole answer."""

    choices: list[Choice] = []
    usage: Raw = ABSENT


class _Entry(msgspec.Struct, gc=False):
    logprob: float


class _Logprobs(msgspec.Struct, gc=False):
    """Chat has `content`; completions have a list."""

    content: list[_Entry] | None = None
    token_logprobs: list[float | None] | None = None


class _RankedEntry(msgspec.Struct, gc=False):
    logprob: float
    top_logprobs: list[_Entry] = []


class _RankedLogprobs(msgspec.Struct, gc=False):
    """The same with each token's alternatives; those of completions collapse tokens of equal text."""

    content: list[_RankedEntry] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


_decode_message = msgspec.json.Decoder(Message).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs).decode
_decode_ranked = msgspec.json.Decoder(_RankedLogprobs).decode
decode_answer = msgspec.json.Decoder(Answer).decode


class Tokens(msgspec.Struct, gc=False):
    """Tokens of one choice that were seen: all of them, and those that count for the score."""

    seen: int = 0
    judged: int = 0
    total_logprob: float = 0.0

    def add(self, logprobs: Raw, *, constrained: bool) -> bool:
        """Count a chunk's entries; whether one of them was not forced by a grammar.

        A forced entry has probability 1 and no possible alternative. constrained: a grammar is at work, so that
        probability 1 alone tells it where no alternatives were asked for.
        """
        if not is_present(logprobs):
            return False
        read = _decode_logprobs(logprobs)
        values = [entry.logprob for entry in read.content or ()]
        values = values or [value for value in read.token_logprobs or () if value is not None]
        if not values:
            return False
        before = self.judged
        if max(values) < 0.0:  # as in most answers: nothing was forced, so nobody asks for alternatives
            self.seen += len(values)
            self.judged += len(values)
            self.total_logprob += sum(values)
        else:
            self._add_ranked(_decode_ranked(logprobs), constrained)
        return self.judged > before

    def _add_ranked(self, read: _RankedLogprobs, constrained: bool) -> None:
        if read.content:
            for entry in read.content:
                self._add(entry.logprob, [each.logprob for each in entry.top_logprobs], constrained)
        elif read.token_logprobs:
            tops = read.top_logprobs or [None] * len(read.token_logprobs)
            for logprob, top in zip(read.token_logprobs, tops, strict=False):
                if logprob is not None:
                    self._add(logprob, list(top.values()) if top else [], constrained)

    def _add(self, logprob: float, alternatives: list[float], constrained: bool) -> None:
        self.seen += 1
        if logprob >= 0.0 and _is_forced(alternatives, constrained):
            return
        self.judged += 1
        self.total_logprob += logprob


def _is_forced(alternatives: list[float], constrained: bool) -> bool:
    """Whether a token of probability 1 had no possible alternative; the list holds the token itself."""
    if len(alternatives) < 2:
        return constrained
    return sum(logprob > IMPOSSIBLE_LOGPROB for logprob in alternatives) <= 1


class Event(msgspec.Struct, gc=False):
    """A stream's event, and the chunk in it."""

    raw: bytes
    payload: bytes
    offset: int
    """Where the payload begins in `raw`."""
    answer: Answer


def read_event(raw: bytes) -> Event | None:
    """The chunk of an event; None where it holds none: a comment, [DONE], or what is not ours to understand."""
    offset = data_offset(raw)
    if offset < 0:
        return None
    payload = raw[offset:]
    try:
        return Event(raw, payload, offset, decode_answer(payload))
    except DECODE_ERRORS:
        return None
