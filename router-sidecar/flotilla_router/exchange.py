"""One request's life: attempts, the cascade between them, what the client is sent, and the outcome.

    (hold ->)? attempt -> (another replica)* -> commit -> pass on -> finished
                  |                     ^
                  +- bridge failed: hold -> attempt -> ...
                  +- escalate: the expert is paused, its answer kept -> fallbacks, in order
                                        |                                   |
                                        +-- UseExpert <-- all failed -> the error

Everything runs in callbacks of connections and of one clock: a request has no task of its own. Until `committed`
nothing but keep-alive comments is sent; after it a failure can only end the stream with an in-band error event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from flotilla_api.causes import Cause
from flotilla_api.snapshot import EscalationConfig, Target

from .attempt import QUALITY_CAUSES, Attempt
from .credentials import Missing
from .decisions import Decision, Refusal
from .dispatch import Dispatcher
from .holds import Decide, Hold
from .logs import CLIENT_GONE, AttemptRecord, RequestRecord
from .openai import BadRequest, ParsedRequest, plan_injection
from .registry import Live, Replica
from .replies import Reply, answer_lines, cost_line, retry_line
from .requestlog import Entry
from .responses import STATUS_OF
from .tries import Tries

CLIENT_GONE_STATUS = 499


@dataclass(slots=True, kw_only=True, eq=False)
class Exchange:
    """One request that has been routed, until its last byte."""

    dispatcher: Dispatcher
    reply: Reply
    live: Live
    request: ParsedRequest | None
    """Until the answer is committed."""
    decision: Decision
    passed_headers: bytes
    """The client's header lines that go upstream."""
    record: RequestRecord
    arrived: float
    """Monotonic seconds."""
    stream: bool
    hold: Hold | None = None
    """While it waits for a sleeping expert: `decision` is of no use until then."""
    decide_unbridged: Decide | None = None
    """While a fallback bridges: decides for experts alone, once all fallbacks have failed."""
    entry: Entry | None = None
    """Of the request log, where the policy keeps one."""

    due: float = inf
    """Monotonic seconds when `tick` has something to look at."""
    _fallbacks: list[Target] = field(default_factory=list[Target])
    """Those that have not been tried."""
    _first: bool = True
    """Whether no fallback has been called after the first target."""
    _tries: Tries | None = None
    """Calls to the target that is asked now."""
    _current: Attempt | None = None
    _failed: Attempt | None = None
    """The last one without a usable answer."""
    _held: Attempt | None = None
    """The expert's, below the bar, while a fallback is asked."""
    _cause: Cause | None = None
    """Why the request left its expert."""
    _committed: bool = False
    _paused: bool = False

    # What the dispatcher and the client's connection call

    def begin(self) -> None:
        """Make the first attempt, or wait until there is somebody to ask."""
        if self.hold is None:
            self._start()
        else:
            self.dispatcher.holds.enter(self.hold)
            self._set_due()

    def tick(self, now: float) -> None:
        """Look after timeouts and silence."""
        if self.record.status:
            return
        timeouts = self.live.snapshot.timeouts
        if now >= self.arrived + timeouts.totalSeconds:
            self._out_of_time()
            return
        if self.hold is not None and now >= self.hold.due:
            self._wait(self.hold, now)
            if self.record.status:
                return
        current = self._current
        if current is not None and now >= current.due(timeouts) and not self._paused:
            current.timed_out()
            self._attempt_timed_out(current)
            if self.record.status:
                return
        if self.stream and not self._paused and now >= self.reply.last_sent + timeouts.keepAliveAfterSeconds:
            self.reply.keep_alive(now)
        self._set_due()

    def client_gone(self) -> None:
        """Nobody waits any more: close what is open upstream."""
        if self.record.status:
            return
        self.record.client_gone = True
        self._close(self._held, self._cause or CLIENT_GONE)
        self._close(self._current, CLIENT_GONE)
        self._finish(CLIENT_GONE_STATUS)

    def pause(self) -> None:
        """The client reads too slowly."""
        self._paused = True
        if self._committed and self._current is not None:
            self._current.pause()

    def resume(self) -> None:
        """The client reads on."""
        self._paused = False
        if self._committed and self._current is not None:
            self._current.resume()

    def stop(self, message: str) -> None:
        """The router ends, or failed on this request: it ends, with an error, unless it has ended already."""
        if self.record.status:
            return
        self._close(self._held, self._cause or CLIENT_GONE)
        self._close(self._current, Cause.UPSTREAM_ERROR)
        self._send_error(503, message, "service_unavailable")

    # Waiting for an expert that is being woken

    def look_again(self) -> None:
        """The snapshot says something new to those that wait."""
        if self.hold is not None:
            self.due = self.hold.due = 0.0

    def _wait(self, hold: Hold, now: float) -> None:
        """Wait on, or go on by the snapshot of now."""
        live, outcome = hold.decide(now >= hold.until)
        if isinstance(outcome, Decision) and outcome.first.asleep:
            hold.look_later(now)
            self.dispatcher.wakes.wake(outcome.first.name, waits=True)
            self._set_due()
            return
        self._stop_waiting(now)
        self.live = live
        if isinstance(outcome, Refusal):
            self._send_refusal(outcome)
            return
        self.decision = outcome
        self.record.rule, self.record.reason, self.record.snapshot = outcome.rule, outcome.reason, live.digest
        self.record.propensity = outcome.propensity
        self._start()

    def _stop_waiting(self, now: float) -> None:
        if self.hold is not None:
            self.dispatcher.holds.leave(self.hold)
            self.record.held_ms = round((now - self.hold.since) * 1000, 1)
            self.hold = None

    def _wait_unbridged(self, decide: Decide) -> None:
        """Wait for the expert after all: no fallback could answer in its place."""
        now, meant = self.dispatcher.loop.time(), self.decision.meant
        assert meant is not None
        self.decide_unbridged = self._cause = self._failed = self._tries = None
        self._first = True
        until = now + self.live.snapshot.coldStart.maxHoldSeconds
        self.hold = hold = Hold(expert=meant.name, since=now, until=until, decide=decide, due=now)
        self.dispatcher.holds.enter(hold)
        self._wait(hold, now)

    # Choosing who is called

    def _start(self) -> None:
        decision = self.decision
        self._fallbacks = list(decision.fallbacks)
        if decision.cause is not None and decision.meant is not None:
            self._cause = decision.cause
            self.dispatcher.telemetry.escalated(decision.meant.name, decision.cause)
        self._open(decision.first)

    def _open(self, target: Target) -> None:
        """Call `target`, from its first replica on."""
        tries = self._tries = Tries(self.live.state(target))
        replica = self._next_replica(tries)
        if replica is None:
            self._leave(Cause.NO_READY_REPLICA, f"{target.kind} {target.name} has no ready replica")
        else:
            self._call(tries, replica)

    def _next_replica(self, tries: Tries) -> Replica | None:
        return tries.next(self.dispatcher.loop.time(), self.dispatcher.draw())

    def _call(self, tries: Tries, replica: Replica) -> None:
        request = self.request
        assert request is not None
        dispatcher, target = self.dispatcher, tries.state.target
        tries.begin(replica)
        reached = dispatcher.reach.of(target, replica, request.api)
        if isinstance(reached, Missing):
            self._leave(Cause.UPSTREAM_ERROR, reached.problem)
            return
        config = self._judgement(target)
        injection = plan_injection(request, judged=config is not None, external=target.external is not None)
        try:
            body = reached.body(target, request, injection)
        except BadRequest as error:
            if self._first:
                self._refuse(error)
            else:
                self._leave(Cause.UPSTREAM_ERROR, error.message)
            return
        record = AttemptRecord(target=target.name, endpoint="gateway" if reached.relayed else replica.pod)
        self.record.attempts.append(record)
        attempt = self._current = Attempt(
            owner=self,
            target=target,
            replica=replica,
            request=request,
            injection=injection,
            config=config,
            loop=dispatcher.loop,
            started=dispatcher.loop.time(),
            stream=self.stream,
            relayed=reached.relayed,
            record=record,
        )
        head = reached.head(self.passed_headers, sum(map(len, body)), self.decision.boundary)
        connect_seconds = self.live.snapshot.timeouts.connectSeconds
        attempt.send(dispatcher.upstreams, reached.origin, [head, *body], connect_seconds)
        self._set_due()

    def _judgement(self, target: Target) -> EscalationConfig | None:
        """How an attempt is judged: experts that were not asked for by name, while a fallback is left to go to."""
        decision = self.decision
        config = decision.route.escalation
        if not self._fallbacks or not self._first or decision.pinned:
            return None
        if target.kind != "Expert" or not target.logprobs:
            return None
        if QUALITY_CAUSES.isdisjoint(config.on):
            return None
        now = self.dispatcher.loop.time()
        ready = self.dispatcher.ready
        return config if any(ready(self.live, fallback, now) for fallback in self._fallbacks) else None

    def _next_fallback(self, cause: Cause) -> Target | None:
        """The next fallback that may be called; it is taken from the list."""
        now = self.dispatcher.loop.time()
        if not (self._in_time(now) and self._may_leave_for(cause)):
            return None
        while self._fallbacks:
            fallback = self._fallbacks.pop(0)
            if self.dispatcher.ready(self.live, fallback, now):
                return fallback
        return None

    def _in_time(self, now: float) -> bool:
        """Whether somebody else may still be asked."""
        return now <= self.arrived + self.decision.route.escalation.deadlineSeconds

    def _may_leave_for(self, cause: Cause) -> bool:
        """`on` says for what an expert is left, and nothing of a fallback that answers in its place."""
        bridges = self.decision.cause is Cause.COLD_START
        return not self._first or bridges or cause in self.decision.route.escalation.on

    def _escalate_to(self, fallback: Target, cause: Cause) -> None:
        left = self._tries
        if self._first and left is not None and left.state.target.kind == "Expert":
            self._cause = cause
            self.dispatcher.telemetry.escalated(left.state.target.name, cause)
        self._first = False
        self._open(fallback)

    def _leave(self, cause: Cause, message: str) -> None:
        """The target has no usable answer: go to the next fallback, back to the held expert, wait, or give up."""
        fallback = self._next_fallback(cause)
        if fallback is not None:
            self._escalate_to(fallback, cause)
        elif self._held is not None and self.decision.route.escalation.onFallbackFailure == "UseExpert":
            self._use_held(self._held)
        elif self.decide_unbridged is not None and self._in_time(self.dispatcher.loop.time()):
            self._wait_unbridged(self.decide_unbridged)
        else:
            self._give_up(cause, message)

    def _use_held(self, held: Attempt) -> None:
        self._held = None
        self._current = held
        held.release()
        if self._paused and self._current is held:
            held.pause()
        self._set_due()

    def _give_up(self, cause: Cause, message: str) -> None:
        """Send the last model server's own error, or ours."""
        failed = self._failed
        self._close(self._held, self._cause or cause)
        self._held = None
        self.record.error = message
        status = failed.head.status if failed is not None and failed.head is not None else 0
        if failed is not None and status >= 400 and failed.body:
            self._pass_error(failed, status)
        else:
            self._send_error(STATUS_OF.get(cause, 502), message, cause.value)

    # attempt.Owner

    def committed(self, attempt: Attempt) -> None:
        """The stream of `attempt` is the answer."""
        self._drop_held()
        self._committed = True
        self.request = self._failed = self._tries = self.decide_unbridged = None
        self.passed_headers = b""
        self.record.model = attempt.target.name
        assert attempt.head is not None
        if not self.reply.begun:
            self.reply.begin(attempt.head.passed() + self._lines(attempt))
        attempt.head.headers.clear()
        self._fallbacks.clear()
        if self._paused:
            attempt.pause()
        self._set_due()

    def passed_on(self, data: bytes) -> None:
        """More of the answer."""
        now = self.dispatcher.loop.time()
        if self.record.ttft_ms is None:
            self.record.ttft_ms = round((now - self.arrived) * 1000, 1)
        self.reply.pass_on(data, now)
        if self.entry is not None:
            self.entry.passed_on(data)

    def ended(self, attempt: Attempt, problem: str | None) -> None:
        """The answer is over; an error of the model server's own has been passed on with it."""
        told = attempt.error
        if problem is None:
            self.record.tpot_ms = attempt.tpot_ms
        if problem is None or told is not None:
            self._close(attempt, "ok" if told is None else told.cause)
            self.record.error = problem
            self._finish(self.reply.end())
        else:
            self._close(attempt, Cause.UPSTREAM_ERROR)
            self._send_error(502, problem, "upstream_error")

    def answered(self, attempt: Attempt) -> None:
        """A whole answer."""
        assert attempt.head is not None
        status = attempt.head.status
        if status >= 400 and self._held is not None:
            self._close(attempt, Cause.UPSTREAM_ERROR)
            self._leave(Cause.UPSTREAM_ERROR, f"the fallback answered with status {status}")
            return
        self._close(attempt, "ok")
        self._drop_held()
        if status < 400:
            self.record.model = attempt.target.name
        if status >= 400:
            self._pass_error(attempt, status)
        elif self.reply.begun:
            self._send_error(status, "the model server answered a stream with a whole answer", "upstream_error")
        else:
            self._send_whole(attempt, status)

    def escalates(self, attempt: Attempt, cause: Cause) -> None:
        """The expert is below the bar."""
        fallback = self._next_fallback(cause)
        if fallback is None:
            attempt.release()
            if self._paused and self._current is attempt:
                attempt.pause()
            return
        attempt.hold()
        self._held = attempt
        self._current = None
        self._escalate_to(fallback, cause)

    def failed(self, attempt: Attempt, cause: Cause, message: str) -> None:
        """An attempt has no usable answer: another replica may have one."""
        self._close(attempt, cause)
        self._failed = attempt
        tries = self._tries
        assert tries is not None
        tries.failed(attempt.failure)
        if cause is not Cause.CONTEXT_OVERFLOW and not self._waited_enough(attempt, cause):
            replica = self._next_replica(tries)
            if replica is not None:
                self._call(tries, replica)
                return
        self._leave(cause, message)

    def broke(self) -> None:
        """A mistake of our own after an attempt was over: nobody would end the request before its last timeout."""
        self.stop("the router failed on this request")

    def _waited_enough(self, attempt: Attempt, cause: Cause) -> bool:
        """Whether a second slow replica would use up a fallback's time, or would only begin when that is over."""
        if cause is not Cause.TIMEOUT:
            return False
        now = self.dispatcher.loop.time()
        if not self._in_time(now):
            return True
        if attempt.failure is not None or not self._may_leave_for(cause):
            return False
        return any(self.dispatcher.ready(self.live, fallback, now) for fallback in self._fallbacks)

    # Time

    def _attempt_timed_out(self, attempt: Attempt) -> None:
        message = f"{attempt.target.kind} {attempt.target.name} took too long"
        if self._committed:
            self._close(attempt, Cause.TIMEOUT)
            self._send_error(504, message, Cause.TIMEOUT.value)
        else:
            self.failed(attempt, Cause.TIMEOUT, message)

    def _out_of_time(self) -> None:
        """Every request is bounded; a whole answer that is held is better than none."""
        held, use = self._held, self.decision.route.escalation.onFallbackFailure == "UseExpert"
        self._close(self._current, Cause.TIMEOUT)
        if held is not None and use and not self.stream:
            self._use_held(held)
            return
        self._close(held, self._cause or Cause.TIMEOUT)
        self._send_error(504, "the request took longer than timeouts.total", Cause.TIMEOUT.value)

    def _set_due(self) -> None:
        """Times only move back while data flows, so `tick` may find that there is nothing to do yet."""
        timeouts = self.live.snapshot.timeouts
        due = self.arrived + timeouts.totalSeconds
        if self._current is not None:
            due = min(due, self._current.due(timeouts))
        if self.hold is not None:
            due = min(due, self.hold.due)
        if self.stream:
            due = min(due, self.reply.last_sent + timeouts.keepAliveAfterSeconds)
        self.due = due

    # What the client is sent

    def _send_whole(self, attempt: Attempt, status: int) -> None:
        assert attempt.head is not None
        headers = attempt.head.passed() + self._lines(attempt) + cost_line(self.record)
        self.record.ttft_ms = round((self.dispatcher.loop.time() - self.arrived) * 1000, 1)
        if self.entry is not None and status < 400:
            self.entry.answered(attempt.body)
        self._finish(self.reply.send(status, headers, attempt.body))

    def _pass_error(self, attempt: Attempt, status: int) -> None:
        """The model server's own error: as it came, or in band where the head is out already."""
        if not self.reply.begun:
            self._send_whole(attempt, status)
        else:
            self._finish(self.reply.pass_error_in_band(attempt.body, status))

    def _send_error(self, status: int, message: str, code: str) -> None:
        """Our own error."""
        self._finish(self.reply.send_error(status, message, code))

    def _send_refusal(self, refusal: Refusal) -> None:
        """Nobody may answer, now that the request has waited."""
        lines = retry_line(refusal.retry_after_seconds)
        status = self.reply.send_error(
            refusal.status, refusal.message, refusal.code, kind=refusal.type, param=refusal.param, lines=lines
        )
        self._finish(status)

    def _refuse(self, error: BadRequest) -> None:
        """The request cannot be sent to this target as it is; that is the client's mistake."""
        self._close(self._held, self._cause or CLIENT_GONE)
        code = error.code or "invalid_request"
        self._finish(self.reply.send_error(error.status, error.message, code, kind=error.type, param=error.param))

    def _lines(self, attempt: Attempt) -> bytes:
        """Our own header lines where `attempt` answers."""
        reason = self._reason(attempt)
        return answer_lines(self.record, model=attempt.target.name, reason=reason, score=attempt.score)

    def _reason(self, attempt: Attempt) -> str:
        """Why this model answers: the cause of the escalation, unless the model that was chosen first answers."""
        if self._cause is not None and attempt.target is not self.decision.first:
            self.record.reason = self._cause.value
        return self.record.reason or self.decision.reason

    # The end

    def _drop_held(self) -> None:
        self._close(self._held, self._cause or Cause.LOW_CONFIDENCE)
        self._held = None

    def _close(self, attempt: Attempt | None, result: str) -> None:
        if attempt is not None:
            self._account(attempt, attempt.close(result))
        if attempt is self._current:
            self._current = None

    def _account(self, attempt: Attempt, record: AttemptRecord) -> None:
        """A call is counted where its request began, and what it costs where the model server was called."""
        telemetry = self.dispatcher.telemetry
        if not self.record.relayed:
            telemetry.attempted(record)
        if not attempt.relayed:
            telemetry.charged(record)

    def _finish(self, status: int) -> None:
        record, now = self.record, self.dispatcher.loop.time()
        self._stop_waiting(now)
        record.status = status
        record.duration_ms = round((now - self.arrived) * 1000, 1)
        record.cost_usd = round(sum([attempt.usd or 0.0 for attempt in record.attempts]), 9)
        self._held = self._current = self._failed = self.request = self.decide_unbridged = None
        self.due = inf
        self.dispatcher.finished(self)
        self.dispatcher.telemetry.finished(record)
        if self.entry is not None:
            self.entry.finish(record, self.decision)
