"""The router in front of simulated engines that behave and fail like vLLM."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from rig import a_snapshot, ask, chat, client, expert, get, post, router, served_fallback, until

from fakes.engine.inprocess import RunningEngine, running_engine
from fakes.engine.settings import Behaviour, EngineSettings


def settings(name: str, *, skill: float = 1.0) -> EngineSettings:
    """An engine that serves the model that `rig.expert(name)` asks for."""
    return EngineSettings(
        model=f"{name}-model",
        served_names=(f"{name}-model",),
        behaviour=Behaviour(skill=skill, check_model_files=False, output_tokens=24),
    )


@asynccontextmanager
async def engine(name: str, *, skill: float = 1.0) -> AsyncGenerator[RunningEngine]:
    async with running_engine(settings(name, skill=skill)) as running:
        yield running


def address_of(running: RunningEngine) -> str:
    return f"127.0.0.1:{running.port}"


async def inject(running: RunningEngine, **fault: Any) -> None:
    """Let the next request of an engine meet a fault."""
    reply = await ask(running.port, post(json.dumps(fault).encode(), path="/sim/faults"))
    assert reply.status < 300


def text_of(events: bytes) -> str:
    """The text of a chat stream."""
    chunks = [json.loads(event[6:]) for event in events.split(b"\n\n") if event.startswith(b"data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_judged_answer_is_the_engines_own_but_for_what_was_injected(tmp_path: Path, stream: bool) -> None:
    """Through the cascade and directly, the same question has the same answer, without logprobs."""
    async with (
        engine("maths") as small,
        engine("big") as large,
        router(
            tmp_path, a_snapshot(expert("maths", address_of(small)), served_fallback("big", address_of(large)))
        ) as rig,
    ):
        body = chat(stream=stream, max_tokens=16)
        direct = await ask(small.port, post(body | {"model": "maths-model"}))
        routed = await ask(rig.port, post(body))

        assert routed.headers["x-flotilla-model"] == "maths"
        assert float(routed.headers["x-flotilla-score"]) > 0.5
        if stream:
            assert text_of(routed.body) == text_of(direct.body)
            assert routed.body.count(b"\n\n") == direct.body.count(b"\n\n")
            assert b'"logprobs":{' not in routed.body
        else:
            assert routed.json["choices"] == direct.json["choices"]
            assert set(routed.json) == set(direct.json)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"kind": "low_confidence"}, "LowConfidence"),
        ({"kind": "empty_answer"}, "EmptyAnswer"),
        ({"kind": "overloaded"}, "Overloaded"),
        ({"kind": "http_error"}, "UpstreamError"),
        ({"kind": "context_overflow"}, "ContextOverflow"),
        ({"kind": "die_before_first_byte"}, "UpstreamError"),
    ],
)
async def test_faults_of_an_engine_lead_to_the_fallback(
    tmp_path: Path, fault: dict[str, Any], cause: str, stream: bool
) -> None:
    """Whatever an engine does before its answer is committed, the fallback answers and the cause is named."""
    async with (
        engine("maths") as small,
        engine("big") as large,
        router(
            tmp_path, a_snapshot(expert("maths", address_of(small)), served_fallback("big", address_of(large)))
        ) as rig,
    ):
        await inject(small, **fault)
        reply = await ask(rig.port, post(chat(stream=stream, max_tokens=16)))

        assert (reply.status, reply.headers["x-flotilla-model"]) == (200, "big")
        assert reply.headers["x-flotilla-reason"] == cause


async def test_an_engine_that_dies_after_commit_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    """The client's SDK raises instead of taking half an answer for a whole one."""
    async with (
        engine("maths") as small,
        router(tmp_path, a_snapshot(expert("maths", address_of(small)))) as rig,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{rig.port}/v1", api_key="none", max_retries=0) as sdk,
    ):
        await inject(small, kind="die_mid_stream", after_events=4)
        stream = await sdk.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "Tell me a story."}], stream=True
        )
        seen: list[object] = []

        async def read() -> None:
            async for event in stream:
                seen.append(event)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(openai.APIError):
            await read()
        assert len(seen) >= 3


async def test_a_killed_replica_costs_no_request(tmp_path: Path) -> None:
    """Requests that were not committed are answered by the other replica."""
    async with engine("maths") as other, AsyncExitStack() as killed:
        one = await killed.enter_async_context(engine("maths"))
        async with router(tmp_path, a_snapshot(expert("maths", address_of(one), address_of(other)))) as rig:
            before = [await ask(rig.port, post(chat(max_tokens=4))) for _ in range(6)]
            await killed.aclose()
            after = [await ask(rig.port, post(chat(max_tokens=4))) for _ in range(6)]

        assert {reply.status for reply in before + after} == {200}


async def test_the_openai_sdk_reads_headers_models_and_streams(tmp_path: Path) -> None:
    """What agent developers use works as it is."""
    async with (
        engine("maths") as small,
        router(tmp_path, a_snapshot(expert("maths", address_of(small)))) as rig,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{rig.port}/v1", api_key="none", max_retries=0) as sdk,
    ):
        raw = await sdk.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": "Hi"}]
        )
        completion = await sdk.completions.create(model="auto", prompt="Once upon", max_tokens=8)
        names = [model.id async for model in sdk.models.list()]

        assert raw.headers["x-flotilla-model"] == "maths"
        assert raw.parse().choices[0].message.content
        assert completion.choices[0].finish_reason in ("stop", "length")
        assert names == ["auto", "maths"]
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="nope", messages=[{"role": "user", "content": "Hi"}])


async def test_a_client_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    """The engine's own count of running requests goes back to zero."""

    async def running(port: int) -> float:
        text = (await ask(port, get("/metrics"))).body.decode()
        (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
        return float(line.rsplit(" ", 1)[1])

    async with (
        engine("maths") as small,
        router(tmp_path, a_snapshot(expert("maths", address_of(small)))) as rig,
    ):
        await inject(small, kind="hang")
        async with client(rig.port) as raw:
            await raw.send(post(chat(stream=True)))
            await until(lambda: rig.process.dispatcher.under_way)
        await until(lambda: not rig.process.dispatcher.under_way)

        assert await running(small.port) == 0
