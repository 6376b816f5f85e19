"""One call of one request to one replica: reads the answer, judges it, and says what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Protocol, assert_never

import msgspec

from flotilla_api.causes import CAUSE_GROUPS, Cause, CauseGroup
from flotilla_api.snapshot import EscalationConfig, Target, TimeoutConfig

from .cascade import Commit, Escalate, Pending, StreamJudge, StreamMeter, Verdict, judge_whole
from .cost import call_cost_usd
from .heads import ResponseHead
from .logs import AttemptRecord
from .openai import Injection, ParsedRequest, Usage, usage_of
from .registry import Replica
from .responses import InnerError, cause_of_response, error_in_answer, error_in_event, is_ours_to_solve
from .settings import MAX_ANSWER_BYTES
from .sse import EventSplitter, EventTooLarge, is_comment
from .upstream import Call, Failure, Origin, Upstreams

QUALITY_CAUSES = frozenset(cause for cause, group in CAUSE_GROUPS.items() if group is CauseGroup.QUALITY)
_EVENT_STREAM = b"text/event-stream"


class State(Enum):
    """Where an attempt stands."""

    WAITING = 1
    """Nothing is decided; nothing of it has been sent on."""
    HELD = 2
    """Below the bar: paused, its answer kept."""
    PASSING = 3
    """It is the answer."""
    OVER = 4


class Owner(Protocol):
    """The request that the attempt is made for."""

    def committed(self, attempt: Attempt) -> None:
        """The attempt's stream is the answer; `passed_on` follows."""
        ...

    def passed_on(self, data: bytes) -> None:
        """Whole events of the committed stream."""
        ...

    def ended(self, attempt: Attempt, problem: str | None) -> None:
        """The committed stream is over; problem: why it is not whole."""
        ...

    def answered(self, attempt: Attempt) -> None:
        """A whole answer is there, in `attempt.head` and `attempt.body`."""
        ...

    def escalates(self, attempt: Attempt, cause: Cause) -> None:
        """The answer is below the bar: `hold` it or `release` it."""
        ...

    def failed(self, attempt: Attempt, cause: Cause, message: str) -> None:
        """There is no usable answer."""
        ...

    def broke(self) -> None:
        """The request itself could not be processed after its attempt was over."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One call. Its owner hears of at most one of committed, answered, escalates and failed before it acts."""

    owner: Owner
    target: Target
    replica: Replica
    request: ParsedRequest | None
    """Until it is no longer needed."""
    injection: Injection
    config: EscalationConfig | None
    """How the answer is judged; None: it is not."""
    loop: asyncio.AbstractEventLoop
    started: float
    """Monotonic seconds."""
    stream: bool
    relayed: bool
    """Whether it goes through the policy's gateway, where what it costs is counted."""
    record: AttemptRecord

    state: State = State.WAITING
    head: ResponseHead | None = None
    body: bytes = b""
    """Of a whole answer."""
    score: float | None = None
    failure: Failure | None = None
    error: InnerError | None = None
    """That came under status 200; a committed stream has passed it on."""
    _open: bool = False
    """Whether the replica is busy with it."""
    _call: Call | None = None
    _follower: StreamJudge | StreamMeter | None = None
    _splitter: EventSplitter | None = None
    _backlog: list[bytes] = field(default_factory=list[bytes])
    _chunks: list[bytes] = field(default_factory=list[bytes])
    _size: int = 0
    _timer: asyncio.TimerHandle | None = None
    _last: float = 0.0
    """When something last came, in monotonic seconds."""
    _first_token: float = 0.0
    """When it came; 0: it has not, inf: what follows it says nothing of the model server's pace."""
    _end: str | None = None
    """Why the response is not whole."""

    def send(self, upstreams: Upstreams, origin: Origin, parts: Sequence[bytes], connect_seconds: float) -> None:
        """Make the call."""
        self.replica.in_flight += 1
        self._open = True
        self._call = upstreams.call(origin, parts, self, connect_seconds=connect_seconds)

    # What the owner may do

    def due(self, timeouts: TimeoutConfig) -> float:
        """Monotonic seconds at which the stream has been silent for too long; whole answers have no such time."""
        if not self.stream or self.state is State.HELD:
            return inf
        follower = self._follower
        if follower is None or not follower.first_token_seen:
            return self.started + timeouts.firstTokenSeconds
        return self._last + timeouts.idleSeconds

    def hold(self) -> None:
        """Keep what is there and read no more for now."""
        self.state = State.HELD
        self._first_token = inf
        self._stop_timer()
        if self._call is not None:
            self._call.pause()

    def release(self) -> None:
        """The held answer is the answer after all."""
        self._last = self.loop.time()
        if self._follower is None:
            self.owner.answered(self)
            return
        self._commit(self.score)
        if self._call is not None:
            self._call.resume()

    def pause(self) -> None:
        """The client reads too slowly."""
        self._first_token = inf
        if self._call is not None:
            self._call.pause()

    def resume(self) -> None:
        """The client reads on."""
        self._last = self.loop.time()
        if self._call is not None:
            self._call.resume()

    def cancel(self) -> None:
        """End the call; the server sees its connection close."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._settle(self._usage)

    def timed_out(self) -> None:
        """The replica took too long."""
        self.replica.failed(self.loop.time())
        self.cancel()

    def close(self, result: str) -> AttemptRecord:
        """The record, complete; the attempt is over."""
        self.cancel()
        self._stop_timer()
        self.state = State.OVER
        self.request = None
        self.record.result = result
        self.record.score = self.score if self.score is None else round(self.score, 4)
        return self.record

    # upstream.Receiver

    def on_head(self, response: ResponseHead) -> None:
        """Decide how the body is read, and note how the replica does."""
        self.head = response
        now = self._last = self.loop.time()
        self.replica.began_to_answer(response.status, now, response.retry_after)
        if response.status == 200 and self.stream and response.content_type.startswith(_EVENT_STREAM):
            self._follow()

    def on_body(self, chunk: bytes) -> None:
        """Pass on, judge or keep."""
        if self._splitter is None:
            self._keep(chunk)
            return
        self._last = self.loop.time()
        try:
            events = self._splitter.feed(chunk)
        except EventTooLarge:
            self._break("the model server sent an event that is too large")
            return
        if self.state is State.PASSING:
            self._pass_on(events)
        elif self.state is State.HELD:
            self._hold_on(events)
        else:
            self._weigh(events)
        if not self._first_token and self._follower is not None and self._follower.first_token_seen:
            self._first_token = self._last

    def on_complete(self) -> None:
        """The response is whole."""
        self._call = None
        if self._follower is None:
            self._judge_whole()
            return
        self._note_end(self._follower)
        self._settle(self._usage)
        if self.state is State.PASSING:
            self._tell_end()
        elif self.state is State.WAITING:
            self._judge_end()

    def on_failed(self, failure: Failure) -> None:
        """The response is not whole, or there is none."""
        self._call = None
        self.failure = failure
        if failure is not Failure.BROKEN:
            self.replica.failed(self.loop.time(), refused=failure.before_sending)
        self._stop_timer()
        self._settle(self._usage)
        self._end = f"the model server failed: {failure.value}"
        if self.state is State.PASSING:
            self.owner.ended(self, self._end)
        elif self.state is State.WAITING:
            cause = Cause.TIMEOUT if failure is Failure.CONNECT_TIMEOUT else Cause.UPSTREAM_ERROR
            self.owner.failed(self, cause, self._end)
        elif self.state is State.OVER:
            self.owner.broke()

    # Streams

    def _note_end(self, follower: StreamJudge | StreamMeter) -> None:
        """Only now has the replica answered: those that hang or die within their streams begin them, too."""
        if self.error is not None:
            return
        if not follower.finished:
            self.replica.failed(self.loop.time())
        elif follower.first_token_seen:
            self.replica.succeeded()

    def _follow(self) -> None:
        """Read events. Their follower needs no body, which may be large and outlive its use."""
        assert self.request is not None
        request = msgspec.structs.replace(self.request, body=b"")
        self._first_token = 0.0 if request.choices == 1 else inf
        self._splitter = EventSplitter()
        if self.config is not None:
            self._follower = StreamJudge(request, self.config, self.injection)
        else:
            self._follower = StreamMeter(request, self.injection)

    def _weigh(self, events: list[bytes]) -> None:
        """Feed events until there is a verdict."""
        for index, event in enumerate(events):
            error = error_in_event(event)
            if error is not None:
                self._refuse(error)
                return
            if not isinstance(self._follower, StreamJudge):
                if not is_comment(event):
                    self._backlog = events[index:]
                    self._commit(None)
                    return
                continue
            verdict = self._follower.feed(event, self._last)
            if isinstance(verdict, Commit):
                self._backlog = events[index + 1 :]
            elif isinstance(verdict, Escalate):
                self._hold_on(events[index + 1 :])
            else:
                continue
            self._decide(verdict)
            return
        self._start_timer()

    def _hold_on(self, events: list[bytes]) -> None:
        """The judge holds what comes after its verdict, too."""
        if isinstance(self._follower, StreamJudge):
            for event in events:
                self._note_error_in(event)
                self._follower.feed(event, self._last)

    def _decide(self, verdict: Verdict) -> None:
        self._stop_timer()
        match verdict:
            case Pending():
                self._start_timer()
            case Commit(score):
                self._commit(score)
            case Escalate(cause, score):
                self.score = score
                self.owner.escalates(self, cause)
            case _:
                assert_never(verdict)

    def _commit(self, score: float | None) -> None:
        self.state = State.PASSING
        self.score = score
        self.request = None
        follower, backlog = self._follower, self._backlog
        assert follower is not None
        self._backlog = []
        held = follower.take_held() if isinstance(follower, StreamJudge) else []
        self.owner.committed(self)
        first = b"".join([*held, *map(self._stripped, backlog)])
        if first:
            self.owner.passed_on(first)
        if self.state is State.PASSING and (self._end is not None or self._call is None):
            self._tell_end()

    def _pass_on(self, events: list[bytes]) -> None:
        data = self._stripped(events[0]) if len(events) == 1 else b"".join(map(self._stripped, events))
        if data:
            self.owner.passed_on(data)

    def _stripped(self, event: bytes) -> bytes:
        """The event as the client gets it; an error in it is noted."""
        assert self._follower is not None
        if b'"error"' in event:
            self._note_error_in(event)
        return self._follower.pass_on(event)

    def _judge_end(self) -> None:
        """A stream has ended before its verdict."""
        follower = self._follower
        if isinstance(follower, StreamJudge) and follower.finished:
            verdict = follower.expire(inf)
            if not isinstance(verdict, Pending):
                self._decide(verdict)
                return
        self._end = "the model server ended its stream early"
        self.owner.failed(self, Cause.UPSTREAM_ERROR, self._end)

    def _tell_end(self) -> None:
        assert self._follower is not None
        if self._end is None and self.error is not None:
            self._end = "the model server ended its stream with an error"
        elif self._end is None and not self._follower.finished:
            self._end = "the model server ended its stream early"
        self.owner.ended(self, self._end)

    def _break(self, message: str) -> None:
        """The stream cannot be used any further."""
        passing = self.state is State.PASSING
        self.replica.failed(self.loop.time())
        self.cancel()
        self._end = message
        if passing:
            self.owner.ended(self, message)
        elif self.state is State.WAITING:
            self.owner.failed(self, Cause.UPSTREAM_ERROR, message)

    def _start_timer(self) -> None:
        judge = self._follower
        if self._timer is None and isinstance(judge, StreamJudge) and judge.deadline is not None:
            assert self._call is not None
            self._timer = self.loop.call_at(judge.deadline, self._call.guard, self, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self.state is State.WAITING and isinstance(self._follower, StreamJudge):
            self._decide(self._follower.expire(self.loop.time()))

    # Whole answers

    def _keep(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            self._break(f"the model server's answer is larger than {MAX_ANSWER_BYTES} bytes")
            return
        self._chunks.append(chunk)

    def _judge_whole(self) -> None:
        self.body = b"".join(self._chunks)
        self._chunks = []
        assert self.head is not None
        status = self.head.status
        if status >= 300:
            if status < 500 and status != 429:
                self.replica.succeeded()
            self._settle(None)
            self._judge_error(status)
        elif (error := error_in_answer(self.body)) is not None:
            self._refuse(error)
        elif self.config is None or self.request is None:
            self.replica.succeeded()
            self._settle(usage_of(self.body))
            self.owner.answered(self)
        else:
            self._judge_answer(self.request, self.config)

    def _judge_answer(self, request: ParsedRequest, config: EscalationConfig) -> None:
        judged = judge_whole(request, self.body, config, self.injection)
        verdict = judged.verdict
        self.body = judged.body
        self.score = verdict.score
        self._settle(judged.usage)
        if isinstance(verdict, Escalate) and verdict.cause not in QUALITY_CAUSES:
            self.replica.failed(self.loop.time())
            self.owner.failed(self, verdict.cause, "the model server's answer cannot be read")
            return
        self.replica.succeeded()
        if isinstance(verdict, Escalate):
            self.owner.escalates(self, verdict.cause)
        else:
            self.owner.answered(self)

    # Errors

    def _judge_error(self, status: int) -> None:
        cause = cause_of_response(status, self.body)
        if cause is None:
            self.owner.answered(self)
            return
        if is_ours_to_solve(status):
            self.body = b""
        self.owner.failed(self, cause, f"the model server answered with status {status}")

    def _refuse(self, error: InnerError) -> None:
        """An error that came under status 200 before the commit counts as if it had come under its own."""
        head = self.head
        assert head is not None
        self._note_error(error)
        self._stop_timer()
        self.cancel()
        head.become_error(error.status)
        self.body = error.body
        self.owner.failed(self, error.cause, "the model server answered with an error under status 200")

    def _note_error_in(self, event: bytes) -> None:
        """An error after the commit is passed on, and so is what follows; the outcome tells it."""
        if self.error is None and (error := error_in_event(event)) is not None:
            self._note_error(error)

    def _note_error(self, error: InnerError) -> None:
        self.error = error
        self.replica.erred(error.cause, self.loop.time(), self.head.retry_after if self.head is not None else None)

    # Accounts

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds for each token after the first, once the stream has ended; None: nobody knows."""
        tokens = self.record.output_tokens
        if tokens is None or tokens < 2 or not 0 < self._first_token < inf:
            return None
        return round((self._last - self._first_token) * 1000 / (tokens - 1), 2)

    @property
    def _usage(self) -> Usage | None:
        return self._follower.usage if self._follower is not None else None

    def _settle(self, usage: Usage | None) -> None:
        """The call is over: the replica is free and the price is known. Only the first time counts."""
        if not self._open:
            return
        self._open = False
        self.replica.in_flight -= 1
        seconds = self.loop.time() - self.started
        record = self.record
        record.ms = round(seconds * 1000, 1)
        if usage is not None:
            record.input_tokens = usage.prompt_tokens
            record.output_tokens = usage.completion_tokens
        record.usd = self._cost_usd(usage, seconds)

    def _cost_usd(self, usage: Usage | None, seconds: float) -> float | None:
        began = self._follower is not None and self._follower.first_token_seen
        head = self.head
        return call_cost_usd(
            self.target.price,
            usage,
            seconds=seconds,
            sent=self.failure is None or not self.failure.before_sending,
            refused=head is not None and (head.status >= 400 or (self.error is not None and not began)),
        )
