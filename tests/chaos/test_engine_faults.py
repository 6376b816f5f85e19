"""Engines and providers fail: before the first byte somebody else answers, after it the stream says so."""

from __future__ import annotations

from collections.abc import Generator
from uuid import uuid4

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway, Streamed, a_question, text_of
from e2e.load import load_on
from e2e.objects import a_policy, an_expert, an_external_fallback
from e2e.steps import Engine, Space, provider_of
from stack.flotilla import Stack
from stack.provider import NAMESPACE as PROVIDERS

SPEED = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "100", "SIM_OUTPUT_TOKENS": "120"}
APART = {
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"flotilla.dev/owner": "pair"}},
                }
            ]
        }
    }
}
COMMITTED_TOKENS = 30
"""More than commit.tokens: the client has been sent some of them."""


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """An expert with one replica, one with two on different nodes, and the provider."""
    with new_space(stack) as space:
        space.apply(
            an_external_fallback("big"),
            an_expert("single", env=SPEED),
            an_expert("pair", env=SPEED, replicas=2, podOverrides=APART),
            a_policy("single", experts=["single"], fallbacks=["big"], timeouts={"total": "30s", "firstToken": "2s"}),
            a_policy("pair", experts=["pair"]),
        )
        yield space


@pytest.fixture
def single(fleet: Space) -> Gateway:
    """A gateway with one engine and the provider behind it; everything is well at first."""
    return _whole(fleet, "single", 1)


@pytest.fixture
def pair(fleet: Space) -> Gateway:
    """A gateway with two engines behind it and no fallback; everything is well at first."""
    return _whole(fleet, "pair", 2)


def _whole(space: Space, name: str, replicas: int) -> Gateway:
    space.wait_for(lambda: len(space.engines(name)) == replicas, f"the replicas of {name}")
    space.wait_for(lambda: space.get("Expert", name)["status"].get("readyReplicas") == replicas, "them in the status")
    space.wait_ready("RoutingPolicy", name)
    space.wait_condition("RoutingPolicy", name, "ConfigPropagated", "True")
    space.wait_for(lambda: _healed(space, name, replicas), "no fault to be left")
    return space.gateway(name)


def _healed(space: Space, name: str, replicas: int) -> bool:
    """Whether all engines and the provider could be told to have no fault; one that restarts cannot yet."""
    engines = space.engines(name)
    for engine in (*engines, provider_of(space.stack)):
        engine.heal()
    return len(engines) == replicas


@pytest.fixture
def provider(stack: Stack) -> Generator[Engine]:
    """The provider, which is well afterwards."""
    yield provider_of(stack)
    Space(stack, PROVIDERS).merge("Deployment", "provider", {"spec": {"replicas": 1}})
    provider_of(stack).heal()


@pytest.fixture
def fresh(fleet: Space, single: Gateway) -> Generator[Gateway]:
    """Another gateway of the same kind, for tests after which it would shun the provider for a while."""
    name = f"fresh-{uuid4().hex[:8]}"
    fleet.apply(a_policy(name, experts=["single"], fallbacks=["big"]))
    fleet.wait_ready("RoutingPolicy", name)
    fleet.wait_condition("RoutingPolicy", name, "ConfigPropagated", "True")
    yield fleet.gateway(name)
    fleet.delete("RoutingPolicy", name)


def _ended_in_an_error(answer: Streamed) -> bool:
    """Some of the answer came, then an error event, and nothing after it."""
    return bool(answer.text) and "error" in answer.events[-1] and not answer.done


def _faulted(engine: Engine, mark: str) -> int:
    """Marked requests that met a fault."""
    return len([each for each in engine.requests(mark) if each["fault"]])


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_where_a_replica_dies_before_its_first_byte_another_one_answers(
    fleet: Space, pair: Gateway, *, stream: bool
) -> None:
    """One of two replicas fails twice; the other one answers then, and every client sees one whole answer."""
    victim = fleet.engines("pair")[0]
    victim.inject("die_before_first_byte", count=2)
    mark, retried = uuid4().hex, 0

    for _ in range(60):
        answer = pair.stream(f"try {mark}") if stream else pair.ask(f"try {mark}")
        text = answer.text if isinstance(answer, Streamed) else text_of(answer)
        assert text.startswith("[simulated pair]")
        retried += int(answer.headers["x-flotilla-attempts"]) > 1
        if _faulted(victim, mark) == 2:
            break

    assert _faulted(victim, mark) == 2
    assert retried > 0


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_without_another_replica_the_fallback_answers(fleet: Space, single: Gateway, *, stream: bool) -> None:
    """The only engine exits on a request: the provider answers it, for the cause UpstreamError."""
    fleet.engine("single").inject("die_before_first_byte", process=True)

    answer = single.stream("save me") if stream else single.ask("save me")

    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.headers["x-flotilla-reason"] == "UpstreamError"
    assert isinstance(answer, Streamed) == stream
    if isinstance(answer, Streamed):
        assert answer.done


def test_a_stream_that_is_cut_after_its_first_bytes_ends_in_an_error(fleet: Space, single: Gateway) -> None:
    """Committed words cannot be taken back: an in-band error event tells that the rest is missing."""
    fleet.engine("single").inject("die_mid_stream", after_events=COMMITTED_TOKENS)

    answer = single.stream("tell me a long story", max_tokens=200)

    assert _ended_in_an_error(answer)
    assert answer.error is not None
    assert {"message", "type", "param", "code"} == answer.error.keys()
    line = single.line_of(answer.headers["x-flotilla-request-id"])
    assert [attempt["result"] for attempt in line["attempts"]] == ["UpstreamError"]


def test_a_killed_engine_never_ends_a_stream_silently(fleet: Space, single: Gateway) -> None:
    """The engine's process is killed while it streams: the client gets an error event; the next request an answer."""
    engine = fleet.engine("single")
    body = a_question("tell me everything", max_tokens=2000, stream=True, ignore_eos=True)
    with single.client() as client, client.stream("POST", "/chat/completions", json=body) as response:
        lines = response.iter_lines()
        seen = [next(lines)]
        engine.kill()
        seen += list(lines)

    data = [line for line in seen if line.startswith("data:")]
    assert '"error"' in data[-1]
    assert "[DONE]" not in data[-1]
    after = single.ask("and now?")
    assert after.status_code == 200
    assert after.headers["x-flotilla-model"] in {"big", "single"}


def test_an_engine_that_falls_silent_before_its_first_token_is_left(fleet: Space, single: Gateway) -> None:
    """A stream without a first token in time is answered by the provider, for the cause Timeout."""
    fleet.engine("single").inject("hang")

    answer = single.stream("are you there?")

    assert answer.headers["x-flotilla-reason"] == "Timeout"
    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.done


def test_an_overloaded_engine_is_left(fleet: Space, single: Gateway) -> None:
    """A 503 of the engine is the cause Overloaded."""
    fleet.engine("single").inject("overloaded")

    answer = single.ask("too much?")

    assert answer.headers["x-flotilla-reason"] == "Overloaded"
    assert answer.headers["x-flotilla-model"] == "big"


def test_an_empty_answer_is_escalated(fleet: Space, single: Gateway) -> None:
    """Nothing is no answer."""
    fleet.engine("single").inject("empty_answer")

    answer = single.ask("say something")

    assert answer.headers["x-flotilla-reason"] == "EmptyAnswer"
    assert answer.headers["x-flotilla-model"] == "big"


def test_a_prompt_that_is_too_long_is_escalated(fleet: Space, single: Gateway) -> None:
    """The engine's own refusal of a long prompt is the cause ContextOverflow."""
    fleet.engine("single").inject("context_overflow")

    answer = single.ask("a very long prompt")

    assert answer.headers["x-flotilla-reason"] == "ContextOverflow"
    assert answer.headers["x-flotilla-model"] == "big"


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_when_the_provider_is_down_the_expert_answers_after_all(
    stack: Stack, fleet: Space, fresh: Gateway, provider: Engine, *, stream: bool
) -> None:
    """An unsure answer is better than none: with onFallbackFailure UseExpert the held answer is sent."""
    providers = Space(stack, PROVIDERS)
    providers.merge("Deployment", "provider", {"spec": {"replicas": 0}})
    providers.wait_gone("Pod", provider.name)
    fleet.engine("single").inject("low_confidence")

    answer = fresh.stream("unsure, but alone") if stream else fresh.ask("unsure, but alone")

    text = answer.text if isinstance(answer, Streamed) else text_of(answer)
    assert text.startswith("[simulated single]")
    assert answer.headers["x-flotilla-model"] == "single"


def test_when_the_provider_fails_the_expert_answers_after_all(fresh: Gateway, fleet: Space, provider: Engine) -> None:
    """The same for a provider that answers with errors."""
    provider.inject("http_error", status=500, count=None)
    fleet.engine("single").inject("low_confidence")

    answer = fresh.ask("unsure, but alone")

    assert answer.headers["x-flotilla-model"] == "single"
    assert text_of(answer).startswith("[simulated single]")


def test_a_provider_that_is_too_busy_is_waited_for_with_the_experts_answer(
    fresh: Gateway, fleet: Space, provider: Engine
) -> None:
    """A 429 of the provider with Retry-After leads to the expert's answer, and the next request does not go there."""
    provider.inject("http_error", status=429, retry_after=30)
    fleet.engine("single").inject("low_confidence", count=2)

    first, second = fresh.ask("busy one"), fresh.ask("busy two")

    assert [each.headers["x-flotilla-model"] for each in (first, second)] == ["single", "single"]
    assert len(provider.requests("busy")) == 1


def test_a_dead_node_costs_no_uncommitted_request(fleet: Space, pair: Gateway) -> None:
    """All that runs on one node is killed at once, under load: the replica on the other node answers everything."""
    victim = fleet.engines("pair")[0]
    node = victim.pod["spec"]["nodeName"]
    assert node != fleet.engines("pair")[1].pod["spec"]["nodeName"]
    with load_on(pair, clients=3, streams=False) as load:
        for name in ("pair", "single"):
            for engine in fleet.engines(name):
                if engine.pod["spec"]["nodeName"] == node:
                    engine.kill()
        load.wait_for_more(30)

    assert load.failures == []
    assert {outcome.model for outcome in load.outcomes} == {"pair"}


def test_streams_through_a_dead_node_never_end_silently(fleet: Space, pair: Gateway) -> None:
    """With streams under way each one ends well or in an error event, and what had not begun is answered elsewhere."""
    with load_on(pair, clients=4, max_tokens=60) as load:
        fleet.engines("pair")[0].kill()
        load.wait_for_more(30)

    assert not [outcome for outcome in load.outcomes if "silently" in outcome.error]
    assert all(outcome.stream for outcome in load.failures)
    assert len(load.failures) <= 4
