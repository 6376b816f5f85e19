"""The simulated engine over HTTP: keys, faults, clients that leave, sleep, adapters, and HTTP's own manners."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from fakes.engine.inprocess import RunningEngine, running_engine
from fakes.engine.settings import Behaviour, EngineSettings

SETTINGS = EngineSettings(
    model="acme/small",
    served_names=("small",),
    max_model_len=1024,
    enable_auto_tool_choice=True,
    tool_call_parser="hermes",
    enable_lora=True,
    runtime_lora=True,
    dev_mode=True,
)
SLOW = replace(SETTINGS, max_num_seqs=2, behaviour=Behaviour(sequence_rate=2))
"""Half a second a token: long enough to look at a running request."""


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": text}], **fields}


@asynccontextmanager
async def engine_client(settings: EngineSettings) -> AsyncGenerator[tuple[RunningEngine, httpx.AsyncClient]]:
    async with (
        running_engine(settings) as engine,
        httpx.AsyncClient(base_url=engine.url, timeout=10, trust_env=False) as client,
    ):
        yield engine, client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the engine has no event for this
            await asyncio.sleep(0.005)


async def metric(client: httpx.AsyncClient, series: str) -> float:
    text = (await client.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(series)]
    return float(line.rpartition(" ")[2])


async def test_the_openai_sdk_reads_answers_and_streams():
    """The official client gets a labelled answer, the same one as a stream, and a tool call."""
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    async with (
        running_engine(SETTINGS) as engine,
        openai.AsyncOpenAI(
            base_url=f"{engine.url}/v1", api_key="-", http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
        ) as sdk,
    ):
        whole = await sdk.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        stream = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
        called = await sdk.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "weather in Rome?"}], tools=tools
        )

    assert whole.choices[0].message.content == "".join(streamed)
    assert str(whole.choices[0].message.content).startswith("[simulated small] ")
    assert whole.choices[0].finish_reason == "stop"
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content == ""


async def test_an_embedding_model_gives_vectors_and_no_answers():
    """Through the official client; equal texts have equal vectors, and other paths are not there, as with vLLM."""
    settings = replace(SETTINGS, behaviour=Behaviour(embedding_dimensions=8))
    async with (
        engine_client(settings) as (engine, client),
        openai.AsyncOpenAI(
            base_url=f"{engine.url}/v1", api_key="-", http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
        ) as sdk,
    ):
        found = await sdk.embeddings.create(
            model="small", input=["prove it", "hello", "it prove"], encoding_format="float"
        )
        chatted = await client.post("/v1/chat/completions", json=chat())
        unknown = await client.post("/v1/embeddings", json={"model": "other", "input": "hi"})

    first, second, third = (each.embedding for each in found.data)
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1)
    assert (chatted.status_code, unknown.status_code) == (404, 404)


async def test_a_model_that_answers_gives_no_vectors():
    """The path is not there."""
    async with engine_client(SETTINGS) as (_, client):
        assert (await client.post("/v1/embeddings", json={"input": "hi"})).json() == {"detail": "Not Found"}


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        pytest.param({}, "/v1/models", 401, id="no key"),
        pytest.param({"authorization": "Bearer wrong"}, "/v1/models", 401, id="wrong key"),
        pytest.param({"authorization": "Bearer right"}, "/v1/models", 200, id="right key"),
        pytest.param({"authorization": "Bearer other"}, "/v1/models", 200, id="second key"),
        pytest.param({}, "/health", 200, id="health needs none"),
        pytest.param({}, "/metrics", 200, id="metrics need none"),
    ],
)
async def test_keys_guard_the_api_only(headers: dict[str, str], path: str, status: int):
    """With --api-key, paths under /v1 want one of the keys; vLLM's refusal is a bare object."""
    async with engine_client(replace(SETTINGS, api_keys=("right", "other"))) as (_, client):
        response = await client.get(path, headers=headers)

    assert response.status_code == status
    if status == 401:
        assert response.json() == {"error": "Unauthorized"}


async def test_a_client_that_leaves_aborts_its_request():
    """The slot is free at once and the request counts as aborted, streaming or not."""
    async with engine_client(SLOW) as (engine, client):
        scheduler = engine.server.engine.scheduler
        for stream in (True, False):
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat(stream=stream)))
            await until(lambda: len(scheduler.running) == 1)
            asking.cancel()
            await until(lambda: not scheduler.running)

        aborted = await metric(client, 'vllm:request_success_total{engine="0",finished_reason="abort"')
        log = (await client.get("/sim/requests")).json()

    assert aborted == 2
    assert [entry["outcome"] for entry in log["requests"]] == ["client_gone", "client_gone"]


async def test_metrics_show_what_runs_and_waits():
    """With two slots and three requests, two run, one waits for capacity, and the cache is in use."""
    async with engine_client(SLOW) as (engine, client):
        asking = [asyncio.create_task(client.post("/v1/chat/completions", json=chat(f"{i}"))) for i in range(3)]
        await until(lambda: len(engine.server.engine.scheduler.waiting) == 1)

        running = await metric(client, "vllm:num_requests_running")
        waiting = await metric(
            client, 'vllm:num_requests_waiting_by_reason{engine="0",model_name="small",reason="capac'
        )
        usage = await metric(client, "vllm:kv_cache_usage_perc")
        for task in asking:
            task.cancel()

    assert (running, waiting) == (2, 1)
    assert 0 < usage < 1


async def test_continuous_usage_counts_up_with_the_tokens():
    """Every event carries the tokens so far; the last one the total."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with engine_client(SETTINGS) as (_, client):
        response = await client.post("/v1/chat/completions", json=chat(stream=True, stream_options=options))

    payloads = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    counts = [payload["usage"]["completion_tokens"] for payload in payloads]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == counts[-2] > 10


async def test_skill_shows_in_the_log_probabilities():
    """A model with no skill answers the same words with a low mean log-probability."""
    means: list[float] = []
    for skill in (1.0, 0.0):
        async with engine_client(replace(SETTINGS, behaviour=Behaviour(skill=skill))) as (_, client):
            body = chat(logprobs=True, top_logprobs=0)
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            entries = answer["choices"][0]["logprobs"]["content"]
            means.append(math.exp(sum(entry["logprob"] for entry in entries) / len(entries)))

    assert means[0] > 0.9
    assert means[1] < 0.35


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        pytest.param({"kind": "http_error", "status": 500}, 500, "InternalServerError", id="error"),
        pytest.param({"kind": "overloaded"}, 503, "ServiceUnavailableError", id="overloaded"),
        pytest.param({"kind": "context_overflow"}, 400, "BadRequestError", id="overflow"),
    ],
)
async def test_an_injected_error_is_met_once(fault: dict[str, Any], status: int, kind: str):
    """The next request fails as told, the one after it is answered."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json=fault)

        failed = await client.post("/v1/chat/completions", json=chat())
        answered = await client.post("/v1/chat/completions", json=chat())

    assert (failed.status_code, failed.json()["error"]["type"]) == (status, kind)
    assert answered.status_code == 200


async def test_a_fault_can_ask_to_retry_later():
    """Retry-After goes out as a header."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "http_error", "status": 429, "retry_after": 7})
        response = await client.post("/v1/chat/completions", json=chat())

    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_dying_before_the_first_byte_closes_the_connection():
    """The client sees no status at all."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "die_before_first_byte"})
        with pytest.raises(httpx.TransportError):
            await client.post("/v1/chat/completions", json=chat())


async def test_dying_in_a_stream_leaves_it_without_an_end():
    """The events before the fault arrive, the rest and the end of the stream do not."""
    events: list[str] = []

    async def read(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
            async for line in response.aiter_lines():
                events.extend([line] if line else [])

    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "die_mid_stream", "after_events": 3})
        with pytest.raises(httpx.RemoteProtocolError):
            await read(client)

    assert len(events) == 3


async def test_a_hanging_stream_stays_silent_until_the_client_leaves():
    """Events up to the fault arrive, then nothing more, and the connection stays open."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "hang", "after_events": 2})
        async with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
            lines = response.aiter_lines()
            first = [await anext(lines) for _ in range(4)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(lines), 0.05)

    assert [bool(line) for line in first] == [True, False, True, False]


async def test_an_error_in_a_stream_is_an_event_before_its_end():
    """As when a running request fails in vLLM: status 200, an error event, then the stream ends properly."""
    async with engine_client(SLOW) as (engine, client):
        await client.post("/sim/faults", json={"kind": "error_mid_stream", "after_events": 2})
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
        failed = await metric(client, 'vllm:request_success_total{engine="0",finished_reason="error"')

    assert (failed, engine.server.engine.in_flight) == (1, 0)
    events = [event for event in response.text.split("\n\n") if event]
    assert [event[:9] for event in events] == ['data: {"i', 'data: {"i', 'data: {"e', "data: [DO"]
    assert json.loads(events[2][6:])["error"]["code"] == 500


async def test_a_whole_answer_that_hangs_is_never_sent():
    """A hang with a count of events holds back an answer that is no stream altogether."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "hang", "after_events": 2})
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/chat/completions", json=chat(), timeout=0.1)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({"max_queued_requests": 2}, "max_num_queued_reqs", id="requests"),
        pytest.param({"max_queued_tokens": 5, "max_num_seqs": 1}, "max_num_queued_tokens", id="prompt tokens"),
    ],
)
async def test_a_full_queue_refuses_with_503(limits: dict[str, int], reason: str):
    """Beyond --max-num-queued-reqs or -tokens a request is turned away and counted."""
    async with engine_client(replace(SLOW, **limits)) as (engine, client):
        asking = [asyncio.create_task(client.post("/v1/chat/completions", json=chat(f"{i}"))) for i in range(2)]
        await until(lambda: engine.server.engine.in_flight == 2)

        refused = await client.post("/v1/chat/completions", json=chat())
        counted = await metric(client, f'vllm:admission_rejections_total{{model_name="small",reason="{reason}"')
        for task in asking:
            task.cancel()

    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "ServiceUnavailableError")
    assert reason in refused.json()["error"]["message"]
    assert counted == 1


async def test_a_slow_first_token_holds_up_one_request_only():
    """While one request is held back, another one is answered; a short delay ends with the answer."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "slow_first_token", "seconds": 3600})
        held = asyncio.create_task(client.post("/v1/chat/completions", json=chat("first")))
        await until_logged(client, 1)

        other = await client.post("/v1/chat/completions", json=chat("second"))
        await client.post("/sim/faults", json={"kind": "slow_first_token", "seconds": 0.01})
        late = await client.post("/v1/chat/completions", json=chat("third"))

        assert (other.status_code, late.status_code) == (200, 200)
        assert not held.done()
        held.cancel()


async def until_logged(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(10):
        while (await client.get("/sim/requests")).json()["count"] < count:  # noqa: ASYNC110 - asks over HTTP
            await asyncio.sleep(0.005)


async def test_quality_faults_give_empty_or_unsure_answers():
    """An empty answer finishes at once with no text; an unsure one has low log-probabilities."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json=[{"kind": "empty_answer"}, {"kind": "low_confidence"}])

        empty = (await client.post("/v1/chat/completions", json=chat())).json()["choices"][0]
        unsure = (await client.post("/v1/chat/completions", json=chat(logprobs=True))).json()["choices"][0]

    assert (empty["message"]["content"], empty["finish_reason"]) == ("", "stop")
    assert unsure["logprobs"]["content"][0]["logprob"] < math.log(0.4)


async def test_faults_are_narrowed_listed_and_cleared():
    """A fault for another model passes a request by; without a count it lasts until it is cleared."""
    async with engine_client(SETTINGS) as (_, client):
        await client.post("/sim/faults", json={"kind": "http_error", "model": "other"})
        await client.post("/sim/faults", json={"kind": "http_error", "path": "/health", "count": None})

        answered = await client.post("/v1/chat/completions", json=chat())
        sick = [(await client.get("/health")).status_code for _ in range(3)]
        listed = (await client.get("/sim/faults")).json()
        await client.delete("/sim/faults")
        well = await client.get("/health")

    assert answered.status_code == 200
    assert sick == [500, 500, 500]
    assert [fault["kind"] for fault in listed] == ["http_error", "http_error"]
    assert well.status_code == 200


@pytest.mark.parametrize("body", ['{"kind": "fire"}', '{"knd": "hang"}', "[1]", "{"])
async def test_a_fault_that_is_none_is_refused(body: str):
    """A misspelt fault is an error, not silence."""
    async with engine_client(SETTINGS) as (_, client):
        response = await client.post("/sim/faults", content=body)

    assert response.status_code == 400
    assert "not a fault" in response.json()["error"]["message"]


async def test_requests_are_kept_for_assertions():
    """What reached the engine can be read back: headers, body, status and the fault met; probes are left out."""
    async with engine_client(SETTINGS) as (_, client):
        await client.get("/health")
        await client.post("/sim/faults", json={"kind": "http_error"})
        await client.post("/v1/chat/completions", json=chat(), headers={"x-task": "extract"})

        log = (await client.get("/sim/requests")).json()
        await client.delete("/sim/requests")
        after = (await client.get("/sim/requests")).json()

    (entry,) = log["requests"]
    assert (entry["path"], entry["body"], entry["status"]) == ("/v1/chat/completions", chat(), 500)
    assert (entry["headers"]["x-task"], entry["fault"], entry["outcome"]) == ("extract", "http_error", "answered")
    assert after == {"count": 1, "requests": []}


async def test_a_sleeping_engine_is_healthy_but_holds_completions():
    """As a real one: /health answers 200 and completions wait for /wake_up."""
    async with engine_client(SETTINGS) as (engine, client):
        await client.post("/sleep?level=1")
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
        await until(lambda: len(engine.server.engine.scheduler.waiting) == 1)

        health = await client.get("/health")
        asleep = await metric(client, 'vllm:engine_sleep_state{engine="0",model_name="small",sleep_state="awake"')
        assert not asking.done()
        await client.post("/wake_up")

        assert (await asking).status_code == 200
        assert (health.status_code, asleep) == (200, 0)


async def test_developer_paths_exist_only_when_switched_on():
    """Without vLLM's switches, sleep and adapters are 404."""
    async with engine_client(replace(SETTINGS, dev_mode=False, runtime_lora=False)) as (_, client):
        for path in ("/sleep", "/pause", "/v1/load_lora_adapter"):
            assert (await client.post(path, json={})).status_code == 404


async def test_cached_prompt_tokens_show_in_usage_when_asked_for():
    """With --enable-prompt-tokens-details a repeated prompt tells how much of it was cached."""
    async with engine_client(replace(SETTINGS, enable_prompt_tokens_details=True)) as (_, client):
        body = chat("the same long prompt " * 20)
        usages = [(await client.post("/v1/chat/completions", json=body)).json()["usage"] for _ in range(2)]

    assert usages[0]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] > 50


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"temperature": -1}, "temperature must be non-negative", id="temperature"),
        pytest.param({"top_p": 2}, "top_p must be in (0, 1], got 2.0", id="top_p"),
        pytest.param({"n": 0}, "n must be at least 1", id="n"),
        pytest.param({"max_tokens": 0}, "max_tokens must be at least 1", id="max_tokens"),
        pytest.param({"top_logprobs": 3}, "`logprobs` must be set to true", id="top_logprobs alone"),
        pytest.param({"logprobs": True, "top_logprobs": 99}, "greater than max allowed: 20", id="too many logprobs"),
        pytest.param({"stream_options": {}}, "only be defined when `stream=True`", id="stream options alone"),
        pytest.param({"tool_choice": "required"}, "`tools` must be set", id="tool choice alone"),
        pytest.param({"messages": []}, None, id="no messages is answered"),
        pytest.param({"messages": "hello"}, "Input should be a valid list", id="messages of a wrong type"),
        pytest.param({"messages": [{"role": "user", "content": "word " * 1100}]}, "at least 1024 input", id="too long"),
        pytest.param({"max_completion_tokens": 5000}, "max_completion_tokens=5000 cannot be greater", id="too much"),
    ],
)
async def test_wrong_values_are_refused_with_a_reason(fields: dict[str, Any], message: str | None):
    """Each is a 400 that names the field; nothing else is accepted and ignored."""
    async with engine_client(SETTINGS) as (_, client):
        response = await client.post("/v1/chat/completions", json={**chat(), **fields})

    assert response.status_code == (200 if message is None else 400)
    if message:
        assert message in response.json()["error"]["message"]


async def raw(engine: RunningEngine, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_pipelined_requests_are_answered_in_order():
    """Several requests sent at once on one connection get their answers one after the other."""
    async with running_engine(SETTINGS) as engine:
        head = b"GET /%b HTTP/1.1\r\nhost: x\r\n%b\r\n"
        answer = await raw(
            engine, head % (b"version", b"") + head % (b"health", b"") + head % (b"load", b"connection: close\r\n")
        )

    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.index(b'"version"') < answer.index(b'"server_load"')


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GARBAGE\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", id="header bomb"),
    ],
)
async def test_what_is_not_http_gets_a_400(data: bytes):
    """The connection is answered and closed, as by uvicorn."""
    async with running_engine(SETTINGS) as engine:
        answer = await raw(engine, data)

    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"Invalid HTTP request received." in answer


async def test_a_request_cut_off_half_way_leaves_nothing_behind():
    """A body that never ends is no request; the server goes on."""
    async with engine_client(SETTINGS) as (engine, client):
        half = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{"
        assert await raw(engine, half) == b""

        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/sim/requests")).json()["count"] == 0
