"""Artifacts that score by an embedding Expert's vectors, on a running router."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning import EASY, HARD, NAMES, Fleet, a_strategy, a_trial, fleet, stored
from rig import (
    ModelServer,
    Peer,
    Received,
    Script,
    client,
    expert,
    external_fallback,
    get,
    model_server,
    post,
    replies,
    until,
)

from artifacts import an_artifact, an_embedder, hard_words
from flotilla_api.artifact import EmbedderOptions
from flotilla_api.snapshot import Target
from flotilla_router import vectors
from flotilla_router.embedders import digest_of

REMOTE = EmbedderOptions(model="embed", dimensions=2)
HARD_VECTOR, EASY_VECTOR = [3, 4], [-3, 4]


def a_remote_artifact(**manifest: Any) -> dict[str, bytes]:
    """Vectors that point right are hard; of words only `prove` and `theorem`."""
    spec = {
        "name": "Remote",
        "digest": digest_of("Remote", REMOTE, {}),
        "options": {"model": "embed", "dimensions": 2},
        "fallback": an_embedder().spec.model_dump(exclude_defaults=True),
    }
    arrays = {
        "weights": np.array([5, 0], np.float32),
        "bias": np.zeros(1, np.float32),
        "fallback.weights": hard_words("prove", "theorem"),
        "fallback.bias": np.zeros(1, np.float32),
    }
    golden = {"prompt": "", "vector": [0, 3], "scores": {"strong": 0.5}}
    return an_artifact(manifest={"embedder": spec, **manifest}, arrays=arrays, golden=(golden,))


def embeds(vector: Any, status: int = 200) -> Script:
    """Answers as vLLM does, with this vector."""
    return replies(json.dumps({"object": "list", "data": [{"index": 0, "embedding": vector}]}).encode(), status=status)


def an_encoder(server: ModelServer) -> Target:
    """An Expert that serves embeddings alone."""
    return expert("embed", server.address).model_copy(update={"apis": ("embeddings",)})


async def never(received: Received, peer: Peer) -> None:
    """Takes the question, and says nothing."""
    await peer.closed()


@asynccontextmanager
async def embedding(folder: Path, script: Script, **changes: Any) -> AsyncGenerator[tuple[Fleet, ModelServer]]:
    """A fleet whose strategy scores by the vectors of an Expert `embed` of weight 0, which follows the script."""
    async with fleet(folder) as them, model_server(script) as encoder:
        await them.use(strategy=a_strategy(stored(folder, a_remote_artifact()), **changes), more=[an_encoder(encoder)])
        yield them, encoder


def results(them: Fleet) -> Mapping[str, float]:
    """How many prompts got a vector, and why others did not."""
    labels = ("ok", "timeout", "failed", "refused", "unavailable")
    counts = {
        label: them.rig.metric(f'flotilla_router_embeddings_total{{policy="helpdesk",result="{label}"')
        for label in labels
    }
    return {label: count for label, count in counts.items() if count}


@pytest.mark.parametrize(("vector", "model"), [(HARD_VECTOR, "big"), (EASY_VECTOR, "small")])
async def test_the_vector_decides(vector: list[int], model: str, tmp_path: Path) -> None:
    """Whatever the words are; the Expert is asked once, by the name that its engine knows."""
    async with embedding(tmp_path, embeds(vector)) as (them, encoder):
        assert await them.model(EASY) == model

        (asked,) = encoder.received
        assert asked.path == "/v1/embeddings"
        assert (asked.json["model"], asked.json["input"]) == ("embed-model", EASY)
        assert results(them) == {"ok": 1}


async def test_a_policy_may_call_the_embedder_by_another_name(tmp_path: Path) -> None:
    """As any other model of the artifact."""
    async with fleet(tmp_path) as them, model_server(embeds(HARD_VECTOR)) as encoder:
        strategy = a_strategy(stored(tmp_path, a_remote_artifact()), models={**NAMES, "embed": "minilm"})
        await them.use(strategy=strategy, more=[expert("minilm", encoder.address)])

        assert await them.model(EASY) == "big"


@pytest.mark.parametrize(
    ("script", "result"),
    [
        pytest.param(embeds(HARD_VECTOR, 500), "failed", id="an error"),
        pytest.param(embeds(HARD_VECTOR, 400), "refused", id="it refuses the text"),
        pytest.param(embeds([1, 2, 3]), "failed", id="another length"),
        pytest.param(embeds([0, 0]), "failed", id="zero"),
        pytest.param(replies(b"<html>"), "failed", id="no JSON"),
        pytest.param(replies(b" " * 1_000_000), "failed", id="too long"),
        pytest.param(never, "timeout", id="nothing"),
    ],
)
async def test_without_a_vector_words_decide(script: Script, result: str, tmp_path: Path) -> None:
    """No request fails for want of one; why there is none is counted."""
    async with embedding(tmp_path, script) as (them, _):
        assert (await them.model(EASY), await them.model(HARD)) == ("small", "big")

        assert results(them) == {result: 2}


async def test_an_embedder_that_fails_again_and_again_is_left_alone(tmp_path: Path) -> None:
    """After three failures its replica is out for a second: nobody waits for it meanwhile."""
    async with embedding(tmp_path, embeds(HARD_VECTOR, 500)) as (them, encoder):
        for _ in range(6):
            await them.ask(HARD)

        assert len(encoder.received) == 3
        assert results(them) == {"failed": 3, "unavailable": 3}


async def test_prompts_that_an_embedder_refuses_cost_others_no_vector(tmp_path: Path) -> None:
    """However many they are: the replica is healthy, and is asked on."""

    async def picky(received: Received, peer: Peer) -> None:
        long = len(json.loads(received.body)["input"]) > 100
        await embeds(HARD_VECTOR, 400 if long else 200)(received, peer)

    async with embedding(tmp_path, picky) as (them, _):
        for _ in range(4):
            assert await them.model("a " * 100) == "small"

        assert await them.model(EASY) == "big"
        assert results(them) == {"refused": 4, "ok": 1}


@pytest.mark.parametrize("prompt", ["", " \n", [{"type": "image_url", "image_url": {"url": "data:;base64,AA"}}]])
async def test_a_prompt_without_text_has_no_vector(prompt: Any, tmp_path: Path) -> None:
    """Nobody is asked for one: engines refuse it."""
    async with embedding(tmp_path, embeds(HARD_VECTOR)) as (them, encoder):
        await them.ask(prompt)

        assert encoder.received == []


async def test_an_embedder_that_does_not_exist_is_done_without(tmp_path: Path) -> None:
    """The policy names no such Expert."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, a_remote_artifact())))

        assert await them.model(HARD) == "big"
        assert results(them) == {"unavailable": 1}


async def test_prompts_do_not_leave_the_cluster_to_be_scored(tmp_path: Path) -> None:
    """An external model of the embedder's name is not asked, whatever the boundary."""
    async with fleet(tmp_path) as them, model_server(embeds(HARD_VECTOR)) as encoder:
        outside = external_fallback("embed", f"http://{encoder.address}/v1")
        await them.use(strategy=a_strategy(stored(tmp_path, a_remote_artifact())), more=[outside])

        assert await them.model(EASY) == "small"
        assert encoder.received == []


async def test_a_client_that_goes_while_its_prompt_is_embedded_is_not_served(tmp_path: Path) -> None:
    """No model is called for it."""
    async with embedding(tmp_path, never) as (them, encoder):
        async with client(them.rig.port) as raw:
            await raw.send(post({"model": "auto", "messages": [{"role": "user", "content": HARD}]}))
            await until(lambda: encoder.received)

        await until(lambda: results(them))
        assert (await them.model(EASY), len(them.small.received) + len(them.big.received)) == ("small", 1)


async def test_explain_asks_for_the_vector_too(tmp_path: Path) -> None:
    """It shows what a request would get."""
    async with embedding(tmp_path, embeds(HARD_VECTOR)) as (them, _):
        body = {"model": "auto", "messages": [{"role": "user", "content": EASY}]}

        shown = (await them.send(post(body, path="/v1/route:explain"))).json

        assert (shown["model"], shown["strategy"]["score"]) == ("big", pytest.approx(1 / (1 + np.exp(-3))))


async def test_an_expert_of_vectors_answers_nobody(tmp_path: Path) -> None:
    """It is not listed, and whoever asks for it by name is told what it does not serve."""
    async with embedding(tmp_path, embeds(HARD_VECTOR)) as (them, _):
        listed = (await them.send(get("/v1/models"))).json

        reply = await them.ask(model="embed")

        assert [model["id"] for model in listed["data"]] == ["auto", "small"]
        assert (reply.status, reply.json["error"]["code"]) == (400, "no_capable_model")


async def test_a_shadow_by_vectors_holds_no_request_up(tmp_path: Path) -> None:
    """Its vector is asked for beside the request, which it does not wait for."""
    async with fleet(tmp_path) as them, model_server(embeds(HARD_VECTOR)) as encoder:
        shadow = a_trial(stored(tmp_path, a_remote_artifact(), "tried"))
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())), shadow=shadow, more=[an_encoder(encoder)])
        await until(lambda: them.digest("shadow"))

        assert await them.model(EASY) == "small"

        labels = 'model="small",policy="helpdesk",shadow="big"'
        await until(lambda: them.rig.metric(f"flotilla_router_shadow_decisions_total{{{labels}}}"))


async def test_more_prompts_than_may_be_asked_about_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst cannot pile up behind an encoder that hangs."""
    monkeypatch.setattr(vectors, "MOST_ASKED", 0)

    async with embedding(tmp_path, embeds(EASY_VECTOR)) as (them, encoder):
        assert await them.model(HARD) == "big"
        assert (results(them), encoder.received) == ({"unavailable": 1}, [])
