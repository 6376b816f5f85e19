"""The queueing model, in virtual time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.engine.model import Emission, Limits, Scheduler, Work


def run_until_idle(scheduler: Scheduler, start: float = 0.0) -> list[Emission]:
    """Advance step by step until nothing is left."""
    emissions = scheduler.advance(start)
    while (at := scheduler.next_event_at()) is not None:
        emissions += scheduler.advance(at)
    return emissions


def finish_times(emissions: list[Emission]) -> dict[int, float]:
    return {id(emission.work): emission.at for emission in emissions if emission.finished}


def test_prefill_and_decode_take_the_time_of_their_rates():
    """The first token comes after the prompt's tokens at the prefill rate, each next one at the sequence rate."""
    scheduler = Scheduler(Limits(prefill_rate=1000, sequence_rate=10))
    scheduler.add(Work(prompt_tokens=500, output_tokens=3), now=2.0)

    emissions = run_until_idle(scheduler, 2.0)

    assert [emission.at for emission in emissions] == pytest.approx([2.5, 2.6, 2.7])
    assert [emission.gap_seconds for emission in emissions] == [None, pytest.approx(0.1), pytest.approx(0.1)]
    assert [emission.finished for emission in emissions] == [False, False, True]


def test_a_full_batch_shares_the_decode_rate():
    """Ten sequences at 100 tokens a second together get ten each, though one alone could have fifty."""
    scheduler = Scheduler(Limits(decode_rate=100, sequence_rate=50))
    works = [Work(prompt_tokens=1, output_tokens=11) for _ in range(10)]
    for work in works:
        scheduler.add(work, now=0.0)

    finished = finish_times(run_until_idle(scheduler))

    assert list(finished.values()) == pytest.approx([1.0] * 10)


def test_requests_beyond_the_slots_wait_in_order():
    """With two slots the third request starts when the first one ends, and the fourth when the third does."""
    scheduler = Scheduler(Limits(max_num_seqs=2, sequence_rate=10))
    works = [Work(prompt_tokens=1, output_tokens=length) for length in (2, 5, 2, 2)]
    for work in works:
        scheduler.add(work, now=0.0)
    scheduler.advance(0.0)

    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 2)
    assert scheduler.waiting_by_reason() == {"capacity": 2, "deferred": 0}
    run_until_idle(scheduler)
    assert [work.admitted_at for work in works] == pytest.approx([0.0, 0.0, 0.1, 0.3])


def test_a_prompt_that_does_not_fit_the_cache_waits_for_space():
    """A request is admitted only when the cache has room for its prompt, though slots are free."""
    scheduler = Scheduler(Limits(kv_tokens=100, sequence_rate=10))
    first, second = Work(prompt_tokens=60, output_tokens=5), Work(prompt_tokens=60, output_tokens=5)
    scheduler.add(first, now=0.0)
    scheduler.add(second, now=0.0)

    scheduler.advance(0.05)

    assert (scheduler.running, list(scheduler.waiting)) == ([first], [second])
    assert scheduler.kv_usage_ratio == pytest.approx(0.6)
    run_until_idle(scheduler, 0.05)
    assert second.admitted_at == first.last_token_at


def test_the_youngest_is_preempted_when_the_cache_is_full():
    """Answers that outgrow the cache push out the request that came last; it is computed again and finishes."""
    scheduler = Scheduler(Limits(kv_tokens=40, sequence_rate=10))
    old, young = Work(prompt_tokens=10, output_tokens=20), Work(prompt_tokens=10, output_tokens=20)
    scheduler.add(old, now=0.0)
    scheduler.add(young, now=0.0)

    emissions = run_until_idle(scheduler)

    assert (old.preemptions, young.preemptions) == (0, 1)
    assert scheduler.counters.preemptions == 1
    assert old.produced == young.produced == 20
    assert finish_times(emissions)[id(old)] < finish_times(emissions)[id(young)]


def test_a_request_that_can_never_fit_is_refused():
    """What exceeds the whole cache is an error, not an endless wait."""
    scheduler = Scheduler(Limits(kv_tokens=40))

    with pytest.raises(ValueError, match="41 tokens can never fit a KV cache of 40"):
        scheduler.add(Work(prompt_tokens=40, output_tokens=1), now=0.0)


def test_long_prompts_are_computed_in_chunks_beside_decoding():
    """A running answer gets a token in every step while a long prompt is computed in pieces of the step's budget."""
    scheduler = Scheduler(Limits(max_batched_tokens=100, prefill_rate=1000, sequence_rate=1000))
    running, long = Work(prompt_tokens=1, output_tokens=50), Work(prompt_tokens=950, output_tokens=1)
    scheduler.add(running, now=0.0)
    scheduler.advance(0.001)
    scheduler.add(long, now=0.001)

    emissions = run_until_idle(scheduler, 0.001)

    before = [
        emission for emission in emissions if emission.work is running and emission.at < (long.first_token_at or 0)
    ]
    assert len(before) >= 9


def test_an_aborted_request_frees_its_slot_at_once():
    """After an abort the next request is admitted with the next step, and the aborted one produces nothing more."""
    scheduler = Scheduler(Limits(max_num_seqs=1, sequence_rate=10))
    first, second = Work(prompt_tokens=1, output_tokens=100), Work(prompt_tokens=1, output_tokens=2)
    scheduler.add(first, now=0.0)
    scheduler.add(second, now=0.0)
    scheduler.advance(0.35)

    scheduler.abort(first)
    emissions = run_until_idle(scheduler, 0.35)

    assert {id(emission.work) for emission in emissions} == {id(second)}
    assert scheduler.kv_used_tokens == 0


def test_a_frozen_engine_holds_what_comes_until_it_thaws():
    """Asleep or paused it starts nothing; afterwards the queue is served in order."""
    scheduler = Scheduler(Limits(sequence_rate=10), frozen=True)
    work = Work(prompt_tokens=1, output_tokens=1)
    scheduler.add(work, now=0.0)
    assert scheduler.advance(5.0) == []
    assert len(scheduler.waiting) == 1

    scheduler.frozen = False

    assert [emission.at for emission in scheduler.advance(7.0)] == [7.0]


def test_adapters_beyond_the_adapter_slots_are_deferred():
    """With one adapter slot a second adapter waits while the base model goes on."""
    scheduler = Scheduler(Limits(max_loras=1, sequence_rate=10))
    works = [Work(prompt_tokens=1, output_tokens=5, lora=lora) for lora in ("a", "b", None, "a")]
    for work in works:
        scheduler.add(work, now=0.0)

    scheduler.advance(0.0)

    assert list(scheduler.waiting) == [works[1]]
    assert scheduler.waiting_by_reason() == {"capacity": 0, "deferred": 1}


def test_a_cached_prefix_is_not_computed_again():
    """A second prompt with the same leading blocks takes only the time of the rest."""
    scheduler = Scheduler(Limits(prefill_rate=100))
    first = Work(prompt_tokens=50, output_tokens=1, blocks=(1, 2, 3))
    scheduler.add(first, now=0.0)
    run_until_idle(scheduler)
    second = Work(prompt_tokens=50, output_tokens=1, blocks=(1, 2, 9))

    scheduler.add(second, now=10.0)
    run_until_idle(scheduler, 10.0)

    assert second.cached_tokens == 32
    assert second.first_token_at == pytest.approx(10.18)
    assert (scheduler.counters.prefix_cache_queries, scheduler.counters.prefix_cache_hits) == (100, 32)


asks = st.tuples(st.floats(0, 5), st.integers(1, 60), st.integers(1, 40))
rates = st.sampled_from([10.0, 100.0, math.inf])


@given(
    asked=st.lists(asks, min_size=1, max_size=12),
    slots=st.integers(1, 4),
    kv_tokens=st.integers(100, 300),
    prefill=rates,
    decode=rates,
)
def test_every_request_finishes_with_all_its_tokens_within_the_limits(
    asked: list[tuple[float, int, int]], slots: int, kv_tokens: int, prefill: float, decode: float
):
    """Whatever comes: slots and cache are never exceeded, tokens come in order of time, and all get what they asked."""
    limits = Limits(max_num_seqs=slots, kv_tokens=kv_tokens, prefill_rate=prefill, decode_rate=decode)
    scheduler = Scheduler(limits)
    arrivals = sorted(((at, Work(prompt, output)) for at, prompt, output in asked), key=lambda pair: pair[0])
    emissions: list[Emission] = []
    while arrivals or scheduler.next_event_at() is not None:
        step_end = scheduler.next_event_at()
        if arrivals and (step_end is None or arrivals[0][0] <= step_end):
            at, work = arrivals.pop(0)
            scheduler.add(work, at)
        else:
            assert step_end is not None
            at = step_end
        emissions += scheduler.advance(at)
        assert len(scheduler.running) <= slots
        assert scheduler.kv_used_tokens <= kv_tokens

    assert sorted(emission.work.produced for emission in emissions if emission.finished) == sorted(
        output for _, _, output in asked
    )
    assert all(a.at <= b.at for a, b in pairwise(emissions))
    assert len(emissions) == sum(output for _, _, output in asked)
