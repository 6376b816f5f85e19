"""What a client of a gateway is answered, by whom, and what is told about it."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from openai import AuthenticationError, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from e2e.fixtures import new_space
from e2e.gateway import Gateway, a_question, text_of
from e2e.objects import BIG_COST, CLIENT_KEY, SMALL_COST, a_policy, an_expert, an_external_fallback
from e2e.steps import Engine, Space, provider_of
from flotilla_api import metrics
from stack import provider
from stack.flotilla import Stack, quickstart_provider_key

POLICY = "assist"


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """One policy with the experts small and tiny, which a rule leads to, and the fallback big."""
    with new_space(stack) as space:
        space.apply(
            a_policy(
                POLICY,
                experts=["small"],
                fallbacks=["big"],
                pinnable=["big"],
                rules=[
                    {
                        "name": "extract",
                        "when": {"headers": [{"name": "x-task", "in": ["extract"]}]},
                        "experts": [{"name": "tiny"}],
                    }
                ],
            ),
            an_expert("small", cost=SMALL_COST),
            an_expert("tiny"),
            an_external_fallback("big"),
        )
        space.wait_ready("Expert", "small", "tiny")
        space.wait_ready("RoutingPolicy", POLICY)
        space.wait_condition("RoutingPolicy", POLICY, "ConfigPropagated", "True")
        yield space


@pytest.fixture
def gateway(fleet: Space) -> Gateway:
    """The gateway of the policy."""
    return fleet.gateway(POLICY)


@pytest.fixture
def small(fleet: Space) -> Generator[Engine]:
    """The engine of the expert small; it is healed afterwards."""
    engine = fleet.engine("small")
    yield engine
    engine.heal()


@pytest.fixture
def openai(gateway: Gateway) -> Generator[OpenAI]:
    """The OpenAI SDK as a user points it at the gateway."""
    with gateway.stack.client(gateway.namespace, POLICY, CLIENT_KEY) as client:
        yield client


def test_auto_is_answered_by_an_expert_and_the_headers_say_so(gateway: Gateway) -> None:
    """A request for auto is answered by the expert; the headers name policy, model, reason and attempts."""
    answer = gateway.ask("who are you?")

    headers = answer.headers
    assert answer.status_code == 200
    assert text_of(answer).startswith("[simulated small]")
    assert headers["x-flotilla-policy"] == POLICY
    assert headers["x-flotilla-model"] == "small"
    assert headers["x-flotilla-reason"] == "Static"
    assert headers["x-flotilla-attempts"] == "1"
    assert headers["x-flotilla-request-id"]


def test_an_unsure_answer_is_escalated(gateway: Gateway, small: Engine) -> None:
    """An expert's answer below the bar never reaches the client: the fallback answers."""
    small.inject("low_confidence")

    answer = gateway.ask("is this hard?")

    assert text_of(answer).startswith("[simulated big-1]")
    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.headers["x-flotilla-reason"] == "LowConfidence"
    assert answer.headers["x-flotilla-attempts"] == "2"


def test_an_unsure_stream_is_escalated_before_its_first_byte(gateway: Gateway, small: Engine) -> None:
    """A stream that is escalated holds the fallback's words only, and ends as streams do."""
    small.inject("low_confidence")

    answer = gateway.stream("is this hard, too?")

    assert answer.text.startswith("[simulated big-1]")
    assert "small" not in answer.text
    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.headers["x-flotilla-reason"] == "LowConfidence"
    assert answer.done


def test_the_provider_sees_its_own_key_and_never_the_clients(
    stack: Stack, fleet: Space, gateway: Gateway, small: Engine
) -> None:
    """Escalations reach the provider over TLS with the Fallback's key and model; the client's key goes nowhere."""
    small.inject("low_confidence")

    gateway.ask("which key did you see?")

    (escalated,) = provider_of(stack).requests("which key did you see?")
    (tried,) = small.requests("which key did you see?")
    assert fleet.get("Fallback", "big")["spec"]["external"]["url"].startswith("https://")
    assert escalated["headers"]["authorization"] == f"Bearer {quickstart_provider_key()}"
    assert escalated["body"]["model"] == provider.MODEL
    assert "authorization" not in tried["headers"]
    assert CLIENT_KEY not in str(escalated) + str(tried)


def test_an_engine_sees_unknown_fields_as_the_client_sent_them(gateway: Gateway, small: Engine) -> None:
    """Fields that no router knows reach the engine; only the model's name is another."""
    body = a_question("unknown fields?") | {"chat_template_kwargs": {"x": [1, None, "é"]}, "priority": -1}

    gateway.post(body)

    (seen,) = small.requests("unknown fields?")
    assert seen["body"]["chat_template_kwargs"] == {"x": [1, None, "é"]}
    assert seen["body"]["priority"] == -1
    assert seen["body"]["model"] == "small"


def test_the_sdk_streams_the_same_answer_that_it_gets_whole(openai: OpenAI) -> None:
    """Streamed with the OpenAI SDK, the pieces add up to the whole answer, and usage comes when asked for."""
    question: ChatCompletionUserMessageParam = {"role": "user", "content": "stream me"}
    whole = openai.chat.completions.create(model="auto", messages=[question], max_tokens=40)

    stream = openai.chat.completions.create(
        model="auto",
        messages=[question],
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 3
    assert chunks[-1].usage == whole.usage
    assert all(choice.logprobs is None for chunk in chunks for choice in chunk.choices)


def test_completions_are_routed_as_chats_are(openai: OpenAI) -> None:
    """The older completions API has the same model names."""
    answer = openai.completions.create(model="auto", prompt="Once upon a time", max_tokens=16)

    assert answer.choices[0].text.startswith("[simulated small]")


def test_models_are_the_aliases_experts_and_pinnable_fallbacks(openai: OpenAI) -> None:
    """/v1/models lists every name that a client may ask for."""
    names = [model.id for model in openai.models.list()]

    assert sorted(names) == ["auto", "big", "small", "tiny"]


def test_a_pinned_expert_answers_whatever_its_confidence(gateway: Gateway, small: Engine) -> None:
    """An expert that is asked for by name is not judged."""
    small.inject("low_confidence")

    answer = gateway.ask("only you", model="small")

    assert answer.headers["x-flotilla-model"] == "small"
    assert answer.headers["x-flotilla-reason"] == "Pinned"
    assert text_of(answer).startswith("[simulated small]")


def test_a_pinnable_fallback_can_be_asked_for_by_name(gateway: Gateway) -> None:
    """A fallback in `pinnable` answers at once."""
    answer = gateway.ask("the big one, please", model="big")

    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.headers["x-flotilla-attempts"] == "1"


def test_a_header_leads_to_the_expert_of_a_rule(gateway: Gateway) -> None:
    """The first rule that matches a header chooses the experts; the reason names it."""
    answer = gateway.ask("extract this", x_task="extract")

    assert answer.headers["x-flotilla-model"] == "tiny"
    assert answer.headers["x-flotilla-reason"] == "Rule/extract"


def test_a_local_only_request_is_not_escalated_outside(stack: Stack, gateway: Gateway, small: Engine) -> None:
    """With x-flotilla-boundary: LocalOnly an unsure expert answers itself, and the provider sees nothing."""
    small.inject("low_confidence")

    answer = gateway.ask("a secret of ours", x_flotilla_boundary="LocalOnly")

    assert answer.headers["x-flotilla-model"] == "small"
    assert provider_of(stack).requests("a secret of ours") == []


def test_a_pin_does_not_lift_the_boundary(gateway: Gateway) -> None:
    """A LocalOnly request for an external model is refused, and the message names the filter."""
    answer = gateway.ask("outside, please", model="big", x_flotilla_boundary="LocalOnly")

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "boundary"
    assert "LocalOnly" in answer.json()["error"]["message"]


def test_cost_is_tokens_times_the_experts_price(gateway: Gateway) -> None:
    """x-flotilla-cost-usd is what the body's usage costs at the Expert's prices."""
    answer = gateway.ask("what do you cost?")

    usage = answer.json()["usage"]
    price = (
        (usage["prompt_tokens"], SMALL_COST["inputPerMillionUSD"]),
        (
            usage["completion_tokens"],
            SMALL_COST["outputPerMillionUSD"],
        ),
    )
    wanted = sum(tokens * float(usd) / 1e6 for tokens, usd in price)
    assert usage["completion_tokens"] > 0
    assert float(answer.headers["x-flotilla-cost-usd"]) == pytest.approx(wanted, abs=1e-9)


def test_an_expert_without_prices_costs_the_time_of_its_gpu(gateway: Gateway) -> None:
    """Without token prices the profile's hourly price is shared by the slots for as long as the attempt took."""
    answer = gateway.ask("what does your time cost?", x_task="extract")

    (attempt,) = gateway.line_of(answer.headers["x-flotilla-request-id"])["attempts"]
    wanted = 0.80 / 3600 / 16 * attempt["ms"] / 1000
    assert float(answer.headers["x-flotilla-cost-usd"]) == pytest.approx(wanted, rel=0.2, abs=2e-9)


def test_an_escalated_request_costs_both_attempts_and_reports_the_fallbacks_usage(
    gateway: Gateway, small: Engine
) -> None:
    """The body's usage is that of the model that answered; the cost is the sum over attempts."""
    small.inject("low_confidence")

    answer = gateway.ask("who pays for both?")

    line = gateway.line_of(answer.headers["x-flotilla-request-id"])
    first, second = line["attempts"]
    usage = answer.json()["usage"]
    by_big = (
        usage["prompt_tokens"] * float(BIG_COST["inputPerMillionUSD"])
        + usage["completion_tokens"] * float(BIG_COST["outputPerMillionUSD"])
    ) / 1e6
    assert second["usd"] == pytest.approx(by_big)
    assert first["usd"] > 0
    assert float(answer.headers["x-flotilla-cost-usd"]) == pytest.approx(first["usd"] + second["usd"], abs=1e-8)


def test_every_request_has_one_canonical_log_line(gateway: Gateway, small: Engine) -> None:
    """One line tells who asked what, every attempt with its result, and the outcome; keys and prompts are in none."""
    small.inject("low_confidence")

    answer = gateway.stream("log me once")

    line = gateway.line_of(answer.headers["x-flotilla-request-id"])
    assert line["event"] == "request"
    assert (line["client"], line["alias"], line["api"], line["stream"]) == ("tests", "auto", "chat", True)
    assert (line["model"], line["status"]) == ("big", 200)
    assert [(each["target"], each["result"]) for each in line["attempts"]] == [
        ("small", "LowConfidence"),
        ("big", "ok"),
    ]
    assert all(each["input_tokens"] and each["output_tokens"] for each in line["attempts"])
    assert line["cost_usd"] == pytest.approx(sum(each["usd"] for each in line["attempts"]))
    raw = gateway.raw_log()
    assert CLIENT_KEY not in raw
    assert quickstart_provider_key() not in raw
    assert "log me once" not in raw


def test_the_admin_port_counts_requests_attempts_tokens_and_escalations(gateway: Gateway, small: Engine) -> None:
    """Prometheus reads without a key what was answered, by whom, what was escalated and why."""
    counted = {
        "requests": (metrics.ROUTER_REQUESTS, {"model": "big", "code": "200", "api": "chat"}),
        "attempts": (metrics.ROUTER_ATTEMPTS, {"target": "small", "result": "LowConfidence"}),
        "escalations": (metrics.ROUTER_ESCALATIONS, {"expert": "small", "cause": "LowConfidence", "group": "quality"}),
    }
    before = {name: gateway.metric(metric, **labels) for name, (metric, labels) in counted.items()}
    tokens = gateway.metric(metrics.ROUTER_TOKENS, target="big", type="output")
    small.inject("low_confidence")

    answer = gateway.ask("count me")

    after = {name: gateway.metric(metric, **labels) for name, (metric, labels) in counted.items()}
    assert after == {name: number + 1 for name, number in before.items()}
    grown = gateway.metric(metrics.ROUTER_TOKENS, target="big", type="output") - tokens
    assert grown == answer.json()["usage"]["completion_tokens"]


@pytest.mark.parametrize("key", [pytest.param("", id="no key"), pytest.param("sk-wrong", id="a wrong key")])
def test_without_a_valid_key_nobody_is_answered(gateway: Gateway, key: str) -> None:
    """A request without a valid API key is a 401 in OpenAI's error shape."""
    answer = gateway.with_key(key).ask("let me in")

    error = answer.json()["error"]
    assert answer.status_code == 401
    assert error["code"] == "invalid_api_key"
    assert {"message", "type", "param", "code"} == error.keys()


def test_the_sdk_knows_a_refused_key(fleet: Space) -> None:
    """The OpenAI SDK raises what it raises for OpenAI itself."""
    with fleet.stack.client(fleet.name, POLICY, "sk-wrong") as client, pytest.raises(AuthenticationError):
        client.models.list()
