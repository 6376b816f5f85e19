"""The queueing model: continuous batching in steps, as vLLM's scheduler does it, over time that the caller supplies.

A step gives one token to every sequence that decodes and spends the rest of its token budget on prompts (chunked
prefill). It lasts

    prompt tokens in it / prefill rate  +  max(1 / sequence rate, decoding sequences / decode rate)

so one sequence alone runs at the sequence rate, and a full batch shares the decode rate. A waiting sequence is admitted
first come, first served when a slot and KV-cache space for its next chunk are free (one whose adapter finds no adapter
slot is passed over). When a running sequence needs a token of KV cache and none is free, the youngest one is preempted:
its cache is dropped, it goes back to the head of the queue and is computed again.

Nothing here does I/O or reads a clock; times are seconds on any monotonic axis.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fakes.engine.tokens import TOKENS_PER_BLOCK


@dataclass(frozen=True, slots=True)
class Limits:
    """What the simulated accelerator can do; rates are tokens a second, `math.inf` takes no time."""

    max_num_seqs: int = 256
    max_batched_tokens: int = 2048
    kv_tokens: int = 262_144
    prefill_rate: float = math.inf
    decode_rate: float = math.inf
    """Of the whole batch."""
    sequence_rate: float = math.inf
    """Of one sequence, however empty the batch is."""
    max_loras: int = 1


@dataclass(slots=True, eq=False)
class Work:
    """One sequence: what is asked, and how far it is."""

    prompt_tokens: int
    output_tokens: int
    """How many it will produce; at least 1."""
    blocks: Sequence[int] = ()
    """Chained hashes of the prompt's whole prefix-cache blocks."""
    lora: str | None = None
    arrived_at: float = 0.0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    cached_tokens: int = 0
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    produced: int = 0
    preemptions: int = 0
    running: bool = False

    @property
    def pending_tokens(self) -> int:
        """Tokens that must be computed before the next one can be produced."""
        return self.prompt_tokens + self.produced - self.computed


@dataclass(frozen=True, slots=True)
class Emission:
    """A token that `work` produced at time `at`."""

    work: Work
    number: int
    """Which of the work's tokens, from 1."""
    at: float
    gap_seconds: float | None
    """Since the token before; None for the first one."""
    finished: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The batch being computed: chunks of tokens by sequence."""

    chunks: tuple[tuple[Work, int], ...]
    ends_at: float
    tokens: int


@dataclass(slots=True)
class Counters:
    """Totals since the start, in the units of the metrics of the same name."""

    preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0


class PrefixCache:
    """Which prompt blocks were computed lately: least recently used ones leave when it is full."""

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def hit_tokens(self, blocks: Iterable[int]) -> int:
        """Return how many leading tokens are cached."""
        hits = 0
        for block in blocks:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            hits += 1
        return hits * TOKENS_PER_BLOCK

    def add(self, blocks: Iterable[int]) -> None:
        """Remember the blocks of a computed prompt."""
        for block in blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


@dataclass(slots=True)
class Scheduler:
    """The engine core. Call `add` and `abort` as they happen, `advance` at `next_event_at()` or later."""

    limits: Limits
    counters: Counters = field(default_factory=Counters)
    waiting: deque[Work] = field(default_factory=deque[Work])
    running: list[Work] = field(default_factory=list[Work])
    frozen: bool = False
    """Asleep or paused: what runs stops after the current step, what comes waits."""
    step_tokens: list[int] = field(default_factory=list[int])
    """Tokens of each finished step since the caller last took them."""
    _step: Step | None = None
    _prefixes: PrefixCache = field(init=False)

    def __post_init__(self) -> None:
        self._prefixes = PrefixCache(self.limits.kv_tokens // TOKENS_PER_BLOCK)

    @property
    def kv_used_tokens(self) -> int:
        """Tokens of KV cache in use."""
        return sum(work.computed for work in self.running)

    @property
    def kv_usage_ratio(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self.kv_used_tokens / self.limits.kv_tokens

    def waiting_by_reason(self) -> dict[str, int]:
        """Return how many wait for capacity, and how many are deferred for an adapter slot."""
        deferred = sum(1 for work in self.waiting if not self._adapter_fits(work))
        return {"capacity": len(self.waiting) - deferred, "deferred": deferred}

    def next_event_at(self) -> float | None:
        """Return when the current step ends; None when nothing runs."""
        return self._step.ends_at if self._step else None

    def add(self, work: Work, now: float) -> None:
        """Queue `work`; it is considered when the next step starts.

        Raises:
            ValueError: it could never fit the KV cache.
        """
        if work.prompt_tokens + work.output_tokens > self.limits.kv_tokens:
            asked = work.prompt_tokens + work.output_tokens
            raise ValueError(f"{asked} tokens can never fit a KV cache of {self.limits.kv_tokens}")
        work.arrived_at = now
        self.waiting.append(work)

    def abort(self, work: Work) -> None:
        """Forget `work`, waiting or running; its slot and cache are free at once. Finished work is ignored."""
        if work.running:
            self.running.remove(work)
            work.running = False
        elif work in self.waiting:
            self.waiting.remove(work)

    def advance(self, now: float) -> list[Emission]:
        """Run every step that ends by `now` and start the next; return the tokens produced, in order."""
        emissions: list[Emission] = []
        start = now
        while True:
            if self._step is None:
                self._step = self._plan_step(start)
            if self._step is None or self._step.ends_at > now:
                return emissions
            start = self._step.ends_at
            emissions += self._finish_step(self._step)
            self._step = None

    def _plan_step(self, start: float) -> Step | None:
        if self.frozen or not (self.running or self.waiting):
            return None
        chunks: list[tuple[Work, int]] = []
        preemptions = self.counters.preemptions
        budget = self.limits.max_batched_tokens
        free = self.limits.kv_tokens - self.kv_used_tokens
        for work in tuple(self.running):
            if budget <= 0 or not work.running:  # preempted for an older one
                break
            chunk = min(work.pending_tokens, budget)
            free += self._preempt_until(work, chunk - free)
            if not work.running:
                break
            chunks.append((work, chunk))
            budget -= chunk
            free -= chunk
        if self.counters.preemptions == preemptions:
            self._admit(chunks, budget, free, start)
        if not chunks:
            return None
        return Step(tuple(chunks), start + self._duration(chunks), sum(chunk for _, chunk in chunks))

    def _preempt_until(self, work: Work, missing: int) -> int:
        """Preempt the youngest until `missing` tokens are free or `work` itself went; return what came free."""
        freed = 0
        while missing > freed:
            victim = self.running.pop()
            freed += victim.computed
            victim.computed = 0
            victim.running = False
            victim.preemptions += 1
            self.counters.preemptions += 1
            self.waiting.appendleft(victim)
            if victim is work:
                break
        return freed

    def _admit(self, chunks: list[tuple[Work, int]], budget: int, free: int, start: float) -> None:
        passed_over: list[Work] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            work = self.waiting.popleft()
            if not self._adapter_fits(work):
                passed_over.append(work)
                continue
            cached = self._cached_tokens(work)
            chunk = min(work.pending_tokens - cached, budget)
            if cached + chunk > free:
                self.waiting.appendleft(work)
                break
            self._start(work, cached, start)
            chunks.append((work, chunk))
            budget -= chunk
            free -= cached + chunk
        self.waiting.extendleft(reversed(passed_over))

    def _start(self, work: Work, cached: int, start: float) -> None:
        self.running.append(work)
        work.running = True
        work.computed = cached
        if work.admitted_at is None:
            work.admitted_at = start
            work.cached_tokens = cached
            self.counters.prefix_cache_queries += work.prompt_tokens
            self.counters.prefix_cache_hits += cached

    def _cached_tokens(self, work: Work) -> int:
        return min(self._prefixes.hit_tokens(work.blocks), work.prompt_tokens - 1) if work.blocks else 0

    def _adapter_fits(self, work: Work) -> bool:
        if work.lora is None:
            return True
        active = {running.lora for running in self.running if running.lora}
        return work.lora in active or len(active) < self.limits.max_loras

    def _duration(self, chunks: list[tuple[Work, int]]) -> float:
        decoding = sum(1 for work, _ in chunks if work.produced and work.pending_tokens == 1)
        prefill = sum(chunk for work, chunk in chunks if not (work.produced and work.pending_tokens == 1))
        seconds = prefill / self.limits.prefill_rate
        if decoding:
            seconds += max(1 / self.limits.sequence_rate, decoding / self.limits.decode_rate)
        return seconds

    def _finish_step(self, step: Step) -> list[Emission]:
        self.step_tokens.append(step.tokens)
        emissions: list[Emission] = []
        for work, chunk in step.chunks:
            if not work.running:  # aborted while the step ran
                continue
            work.computed += chunk
            if work.pending_tokens == 0:
                emissions.append(self._produce(work, step.ends_at))
        return emissions

    def _produce(self, work: Work, at: float) -> Emission:
        if work.first_token_at is None:
            work.first_token_at = at
            self._prefixes.add(work.blocks)
        work.produced += 1
        finished = work.produced >= work.output_tokens
        if finished:
            self.running.remove(work)
            work.running = False
        gap = None if work.last_token_at is None else at - work.last_token_at
        work.last_token_at = at
        return Emission(work, work.produced, at, gap, finished)
