"""Commit or escalate: an expert's answer is judged by its first tokens, or whole, before a byte of it is sent on.

| the answer                                          | judged at                                          |
|-----------------------------------------------------|----------------------------------------------------|
| plain text, streamed                                | commit.tokens entries, finish or commit.maxWait    |
| a tool call or JSON by a grammar, streamed          | finish, structured.maxWait or structured.maxBytes  |
| not streamed                                        | whole                                              |
| without logprobs                                    | first content: commit.noSignal decides             |

When an escalation may still start (escalation.deadline) and what follows a failed fallback (onFallbackFailure) is the
caller's to decide; after an Escalate the held events stay here, and `take_held` gives them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flotilla_api.policy import Cause
from flotilla_api.snapshot import EscalationConfig

from .openai import Injection, ParsedRequest, Usage


@dataclass(frozen=True, slots=True)
class Pending:
    """Not enough has been seen."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer is sent on. score: exp(mean logprob) of the judged tokens; None without a signal."""

    score: float | None


@dataclass(frozen=True, slots=True)
class Escalate:
    """The answer is held back for `cause`, which is one of the policy's."""

    cause: Cause
    score: float | None


Verdict = Pending | Commit | Escalate
PENDING = Pending()


class StreamFollower(Protocol):
    """What the server needs of a stream once its events are sent on: StreamJudge and StreamMeter alike."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def first_token_seen(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    def pass_on(self, event: bytes) -> bytes: ...


class StreamJudge:
    """Judges one streamed attempt; holds its events until the verdict."""

    deadline: float | None
    """Monotonic seconds when `expire` is due; None before the first content token and after the verdict."""
    first_token_seen: bool
    finished: bool
    """[DONE] was seen, or every choice's finish."""

    def __init__(self, request: ParsedRequest, config: EscalationConfig, injection: Injection) -> None:
        raise NotImplementedError

    def feed(self, event: bytes, now: float) -> Verdict:
        """Hold an event and judge; after the verdict: hold on and repeat it. now: monotonic seconds."""
        raise NotImplementedError

    def expire(self, now: float) -> Verdict:
        """Judge by what is there, once `deadline` has passed."""
        raise NotImplementedError

    def take_held(self) -> list[bytes]:
        """The held events to send on, stripped; they are held no longer."""
        raise NotImplementedError

    def pass_on(self, event: bytes) -> bytes:
        """The event without its injected parts; b"" when nothing of it is left."""
        raise NotImplementedError

    @property
    def usage(self) -> Usage | None:
        """Latest count of the engine."""
        raise NotImplementedError


class StreamMeter:
    """Follows a stream that is not judged: strips what was injected, counts usage, notices the first token."""

    first_token_seen: bool
    finished: bool

    def __init__(self, request: ParsedRequest, injection: Injection) -> None:
        raise NotImplementedError

    def pass_on(self, event: bytes) -> bytes:
        """The event without its injected parts; b"" when nothing of it is left."""
        raise NotImplementedError

    @property
    def usage(self) -> Usage | None:
        """Latest count of the engine."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class WholeJudgement:
    """A whole answer, judged and stripped."""

    verdict: Commit | Escalate
    body: bytes
    usage: Usage | None


def judge_whole(request: ParsedRequest, body: bytes, config: EscalationConfig, injection: Injection) -> WholeJudgement:
    """Judge a whole answer (status 200)."""
    raise NotImplementedError


def cause_of_response(status: int, body: bytes) -> Cause | None:
    """Cause of an answer with status >= 400; None: the client's own mistake, which passes verbatim."""
    raise NotImplementedError
