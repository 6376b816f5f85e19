"""Commit or escalate: an expert's answer is judged by its first tokens, or whole, before a byte of it is sent on.

| the answer                                 | judged at                                                    |
|--------------------------------------------|--------------------------------------------------------------|
| plain text, streamed                       | commit.tokens entries, finish or commit.maxWait              |
| a tool call or constrained JSON, streamed  | finish, structured.maxWait or structured.maxBytes            |
| not streamed                               | whole                                                        |
| without logprobs, or LowConfidence is off  | first content: noSignal decides, or it is accepted           |

A token is a logprobs entry, not a delta; entries that a grammar forced are not judged. Where tools are offered but not
demanded, the answer is a tool call once one appears, and plain text until then. Reasoning counts as content, because
sending it on commits; an answer that ends with nothing but reasoning is empty all the same. Of several choices each is
judged at its own point: the first below the bar escalates, the lowest score is the answer's.

Errors are none of this module's business: whoever feeds it takes them out first (responses.py).

When an escalation may still start (escalation.deadline) and what follows a failed fallback (onFallbackFailure) is the
caller's to decide: after an Escalate the held events stay here, and `take_held` gives them back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec import Raw

from flotilla_api.causes import Cause
from flotilla_api.snapshot import EscalationConfig

from .chunks import Answer, Choice, Event, Tokens, decode_answer, read_event
from .openai import Injection, ParsedRequest, Usage, decode_usage
from .splice import replace_spans
from .sse import is_done
from .strip import StreamStripper, null_logprobs
from .wire import ABSENT, DECODE_ERRORS

__all__ = [
    "PENDING",
    "Commit",
    "Escalate",
    "Pending",
    "StreamJudge",
    "StreamMeter",
    "Verdict",
    "WholeJudgement",
    "judge_whole",
]


@dataclass(frozen=True, slots=True)
class Pending:
    """Not enough has been seen."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer is sent on. score: exp(mean logprob) of the judged tokens; None without a signal."""

    score: float | None


@dataclass(frozen=True, slots=True)
class Escalate:
    """The answer is held back for `cause`: one of the policy's, or UpstreamError where there is no answer at all."""

    cause: Cause
    score: float | None


Verdict = Pending | Commit | Escalate
PENDING = Pending()


def _constrained(request: ParsedRequest) -> bool:
    """Whether a grammar shapes the answer from its first token."""
    return request.json_schema or request.tools_forced


class _ChoiceState:
    """What is known of one choice of a stream."""

    __slots__ = ("answered", "calls_tool", "finished", "started", "tokens")

    def __init__(self) -> None:
        self.tokens = Tokens()
        self.started = False
        """The first content token has come."""
        self.answered = False
        """There is text or a tool call, also if a grammar forced it."""
        self.calls_tool = False
        self.finished = False

    def add(self, choice: Choice, logprobs: Raw, *, constrained: bool) -> None:
        """Take in a chunk."""
        seen = self.tokens.seen
        message = choice.read_message()
        self.calls_tool = self.calls_tool or message.calls_tool
        free = self.tokens.add(logprobs, constrained=constrained or self.calls_tool)
        answers = self.calls_tool or message.answers
        if answers or message.reasons:
            self.answered = self.answered or answers
            forced = self.tokens.seen > seen and not free
            self.started = self.started or not forced
        self.finished = self.finished or choice.finished


class _Bar:
    """The policy's bar: turns tokens into a verdict."""

    __slots__ = ("_config", "scores")

    def __init__(self, config: EscalationConfig) -> None:
        self._config = config
        self.scores = Cause.LOW_CONFIDENCE in config.on
        """Whether the tokens matter at all."""

    def judge(self, tokens: Tokens) -> Commit | Escalate:
        """Verdict on a choice that is judged now."""
        if not tokens.judged:
            unsure = self.scores and self._config.noSignal == "Escalate"
            return Escalate(Cause.LOW_CONFIDENCE, None) if unsure else Commit(None)
        score = math.exp(min(0.0, tokens.total_logprob / tokens.judged))
        if self.scores and score < self._config.minConfidence:
            return Escalate(Cause.LOW_CONFIDENCE, score)
        return Commit(score)

    def escalate(self, cause: Cause) -> Commit | Escalate:
        """Escalate for a cause that needs no score, where the policy does."""
        return Escalate(cause, None) if cause in self._config.on else Commit(None)


def _lowest(verdicts: list[Commit | Escalate]) -> Commit | Escalate:
    """Of several choices' verdicts: an escalation if there is one, else the lowest score."""
    for verdict in verdicts:
        if isinstance(verdict, Escalate):
            return verdict
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return Commit(min(scores) if scores else None)


class StreamJudge:
    """Judges one streamed attempt; holds its events until the verdict."""

    __slots__ = (
        "_bar",
        "_choices",
        "_config",
        "_constrained",
        "_first_token_at",
        "_held",
        "_held_bytes",
        "_request",
        "_stripper",
        "_verdict",
        "deadline",
        "finished",
        "first_token_seen",
    )

    def __init__(self, request: ParsedRequest, config: EscalationConfig, injection: Injection) -> None:
        self._request = request
        self._constrained = _constrained(request)
        self._config = config
        self._bar = _Bar(config)
        self._stripper = StreamStripper(request, injection)
        self._choices: dict[int, _ChoiceState] = {}
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._verdict: Verdict = PENDING
        self._first_token_at = 0.0
        self.deadline: float | None = None
        """Monotonic seconds when `expire` is due; None before the first content token and after the verdict."""
        self.first_token_seen = False
        self.finished = False

    @property
    def usage(self) -> Usage | None:
        """Latest count of the engine."""
        return self._stripper.usage

    def feed(self, event: bytes, now: float) -> Verdict:
        """Hold an event and judge; after the verdict: hold on and repeat it. now: monotonic seconds."""
        if not isinstance(self._verdict, Pending):
            self._hold(self.pass_on(event))
            return self._verdict
        read = read_event(event)
        if read is None:
            self._hold(event)
            return self._end() if is_done(event) else PENDING
        self._hold(self._stripper.strip_read(read))
        self._take_in(read.answer, now)
        return self._judge()

    def expire(self, now: float) -> Verdict:
        """Judge by what is there, once `deadline` has passed."""
        if self.deadline is None or now < self.deadline:
            return self._verdict
        return self._judge_now()

    def take_held(self) -> list[bytes]:
        """The held events to send on, stripped; they are held no longer."""
        held, self._held = self._held, []
        self._held_bytes = 0
        return held

    def pass_on(self, event: bytes) -> bytes:
        """The event without its injected parts; b"" when nothing of it is left."""
        if not self.finished:
            self.finished = is_done(event) or (self._request.choices == 1 and b'"finish_reason":"' in event)
        return self._stripper.strip(event)

    def _hold(self, stripped: bytes) -> None:
        if stripped:
            self._held.append(stripped)
            self._held_bytes += len(stripped)

    def _take_in(self, answer: Answer, now: float) -> None:
        for choice in answer.choices:
            state = self._choices.get(choice.index)
            if state is None:
                state = self._choices[choice.index] = _ChoiceState()
            try:
                state.add(choice, ABSENT if self._request.echo else choice.logprobs, constrained=self._constrained)
            except DECODE_ERRORS:  # a shape that we do not know: it is sent on as content without a signal
                state.started = state.answered = True
            if state.started and not self.first_token_seen:
                self.first_token_seen = True
                self._first_token_at = now
        states = self._choices.values()
        self.finished = len(states) >= self._request.choices and all(state.finished for state in states)
        if self.first_token_seen:
            wait = self._config.structuredMaxWaitSeconds if self._structured() else self._config.commitMaxWaitSeconds
            self.deadline = self._first_token_at + wait

    def _structured(self) -> bool:
        """Whether a choice is judged whole."""
        return self._constrained or any(state.calls_tool for state in self._choices.values())

    def _judge(self) -> Verdict:
        """Judge the choices that have reached their point."""
        verdicts = [self._judge_choice(state) for state in self._choices.values() if self._at_point(state)]
        if len(verdicts) >= self._request.choices or any(isinstance(verdict, Escalate) for verdict in verdicts):
            return self._decide(_lowest(verdicts))
        if self._held_bytes > self._config.structuredMaxBytes and self._structured():
            return self._judge_now()
        return PENDING

    def _at_point(self, state: _ChoiceState) -> bool:
        """Whether nothing that may still come could change the verdict on a choice."""
        if state.finished:
            return True
        if not state.started:
            return False
        if not state.tokens.seen or not self._bar.scores:
            return True
        whole = self._constrained or state.calls_tool
        return not whole and state.tokens.judged >= self._config.commitTokens

    def _judge_choice(self, state: _ChoiceState) -> Commit | Escalate:
        if state.finished and not state.answered:
            return self._bar.escalate(Cause.EMPTY_ANSWER)
        return self._bar.judge(state.tokens)

    def _judge_now(self) -> Verdict:
        """Judge the choices that have begun; without any the answer is sent on."""
        begun = [state for state in self._choices.values() if state.started or state.finished]
        return self._decide(_lowest([self._judge_choice(state) for state in begun]))

    def _end(self) -> Verdict:
        """[DONE]: every choice has finished, also those that never said so; none at all is an empty answer."""
        self.finished = True
        for state in self._choices.values():
            state.finished = True
        if not self._choices:
            return self._decide(self._bar.escalate(Cause.EMPTY_ANSWER))
        return self._judge_now()

    def _decide(self, verdict: Commit | Escalate) -> Verdict:
        self._verdict = verdict
        self.deadline = None
        return verdict


class StreamMeter:
    """Follows a stream that is not judged: strips what was injected, counts usage, notices the first token."""

    __slots__ = ("_one_choice", "_stripper", "finished", "first_token_seen")

    def __init__(self, request: ParsedRequest, injection: Injection) -> None:
        self._one_choice = request.choices == 1
        self._stripper = StreamStripper(request, injection)
        self.first_token_seen = False
        self.finished = False

    @property
    def usage(self) -> Usage | None:
        """Latest count of the engine."""
        return self._stripper.usage

    def pass_on(self, event: bytes) -> bytes:
        """The event without its injected parts; b"" when nothing of it is left."""
        if not self.finished:
            self.finished = is_done(event) or (self._one_choice and b'"finish_reason":"' in event)
        if self.first_token_seen:
            return self._stripper.strip(event)
        read = read_event(event)
        if read is None:
            return event
        self.first_token_seen = _has_content(read)
        return self._stripper.strip_read(read)


def _has_content(event: Event) -> bool:
    try:
        messages = [choice.read_message() for choice in event.answer.choices]
    except DECODE_ERRORS:
        return True
    return any(message.answers or message.reasons for message in messages)


@dataclass(frozen=True, slots=True)
class WholeJudgement:
    """A whole answer, judged and stripped."""

    verdict: Commit | Escalate
    body: bytes
    usage: Usage | None


def judge_whole(request: ParsedRequest, body: bytes, config: EscalationConfig, injection: Injection) -> WholeJudgement:
    """Judge a whole answer (status 200, no error); one that cannot be read is an UpstreamError, whatever the policy."""
    bar = _Bar(config)
    try:
        answer = decode_answer(body)
        verdict = _lowest([_judge_whole_choice(request, choice, bar) for choice in answer.choices])
    except DECODE_ERRORS:
        return WholeJudgement(Escalate(Cause.UPSTREAM_ERROR, None), body, None)
    if not answer.choices:
        verdict = bar.escalate(Cause.EMPTY_ANSWER)
    if injection.top_logprobs is not None:
        body = b"".join(replace_spans(body, null_logprobs(body, answer)))
    return WholeJudgement(verdict, body, decode_usage(answer.usage))


def _judge_whole_choice(request: ParsedRequest, choice: Choice, bar: _Bar) -> Commit | Escalate:
    message = choice.read_message()
    if not message.answers:
        return bar.escalate(Cause.EMPTY_ANSWER)
    tokens = Tokens()
    logprobs = ABSENT if request.echo else choice.logprobs
    tokens.add(logprobs, constrained=_constrained(request) or message.calls_tool)
    return bar.judge(tokens)
