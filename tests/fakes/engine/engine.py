"""The running engine: it drives the queueing model over real (or given) time and turns tokens into answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from fakes.engine.answers import ToolArguments, ToolName
from fakes.engine.generation import Generation
from fakes.engine.metrics import EngineMetrics
from fakes.engine.model import Emission, Scheduler, Work
from fakes.engine.requests import RequestError
from fakes.engine.settings import EngineSettings


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget it."""
        ...


class Clock(Protocol):
    """Time and timers; an event loop's, or a test's."""

    def now(self) -> float:
        """Return seconds on a monotonic axis."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` after `delay` seconds."""
        ...


class Engine:
    """The scheduler, its clock and its metrics. Sleep and pause hold what comes and end what runs."""

    def __init__(self, settings: EngineSettings, clock: Clock) -> None:
        self.scheduler = Scheduler(settings.limits)
        self.sleep_level = 0
        self.paused = False
        self.metrics = EngineMetrics(settings, self)
        self._settings, self._clock = settings, clock
        self._owners: dict[Work, tuple[Generation, int]] = {}
        self._timer: Timer | None = None

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len({id(generation) for generation, _ in self._owners.values()})

    def admit(self, choices: int) -> None:
        """Let a request of so many choices in, or count it as rejected.

        Raises:
            RequestError: the queue is at one of its limits.
        """
        most, most_tokens = self._settings.max_queued_requests, self._settings.max_queued_tokens
        if most is not None and len(self._owners) + choices > most:
            self._reject("max_num_queued_reqs", most)
        if most_tokens is not None and self._prefill_tokens() >= most_tokens:
            self._reject("max_num_queued_tokens", most_tokens)

    def submit(self, generation: Generation) -> None:
        """Queue a request; its exchange gets the answer, or the request is aborted when its client leaves."""
        plan = generation.plan
        generation.exchange.on_disconnect = lambda: self.abort(generation)
        self.metrics.received(plan.n, plan.limit)
        generation.start()
        now = self._clock.now()
        for index, work in enumerate(generation.works):
            self._owners[work] = (generation, index)
            self.scheduler.add(work, now)
        self._run()

    def abort(self, generation: Generation, reason: str = "abort") -> None:
        """Forget a request: its slots and cache are free at once."""
        for work in generation.works:
            if self._owners.pop(work, None):
                self.scheduler.abort(work)
                self.metrics.finished(work, reason, generation.plan.limit)
        self._run()

    def abort_all(self) -> None:
        """Abort everything that runs or waits and close its connections."""
        for generation in {id(generation): generation for generation, _ in self._owners.values()}.values():
            generation.exchange.kill()
            self.abort(generation)

    def sleep(self, level: int) -> None:
        """Abort what is there and hold what comes until `wake_up`."""
        self.abort_all()
        self.sleep_level = level
        self._hold()

    def wake_up(self) -> None:
        """Serve again."""
        self.sleep_level = 0
        self._hold()

    def pause(self, mode: str) -> None:
        """Hold what comes; what runs is aborted, or kept for later with mode `keep`."""
        if mode == "abort":
            self.abort_all()
        self.paused = True
        self._hold()

    def resume(self) -> None:
        """Serve again."""
        self.paused = False
        self._hold()

    def _reject(self, reason: str, most: int) -> NoReturn:
        self.metrics.rejected(reason)
        text = f"The request queue is full: {reason}={most}. Please retry later."
        raise RequestError(text, status=503, kind="ServiceUnavailableError")

    def _prefill_tokens(self) -> int:
        return sum(work.prompt_tokens for work in self._owners if work.first_token_at is None)

    def _hold(self) -> None:
        self.scheduler.frozen = self.paused or self.sleep_level > 0
        self._run()

    def _run(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = self._clock.now()
        for emission in self.scheduler.advance(now):
            self._emit(emission)
        next_at = self.scheduler.next_event_at()
        if next_at is not None:
            self._timer = self._clock.call_later(max(0.0, next_at - now), self._run)

    def _emit(self, emission: Emission) -> None:
        owner = self._owners.get(emission.work)
        if owner is None:
            return
        generation, index = owner
        self.metrics.produced(emission)
        if emission.finished:
            del self._owners[emission.work]
            answer = generation.plan.choices[index].answer
            reason = "length" if answer.finish_reason == "length" else "stop"
            self.metrics.finished(emission.work, reason, generation.plan.limit)
            generation.unfinished -= 1
        self._count_tools(generation, index, emission)
        generation.produced(index, emission.number)
        if not generation.unfinished:
            generation.finished()

    def _count_tools(self, generation: Generation, index: int, emission: Emission) -> None:
        plan = generation.plan
        if not plan.parses_tools:
            return
        answer = plan.choices[index].answer
        if plan.stream:
            shown = answer.tokens[emission.number - 1].shown
            self.metrics.parsed_tools(streaming=True, found=isinstance(shown, ToolName | ToolArguments))
        elif emission.finished:
            self.metrics.parsed_tools(streaming=False, found=answer.tool_call is not None)
