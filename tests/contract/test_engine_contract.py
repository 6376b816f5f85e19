"""The engine simulator against what vLLM 0.32.0 really answered: every recorded exchange is replayed and compared."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import fakes
from fakes.engine.inprocess import running_engine
from fakes.engine.settings import EngineSettings

RECORDINGS = Path(fakes.__file__).parent / "recordings" / "vllm-0.32"

OTHER_APIS = ("/v1/responses", "/v1/messages")
"""Recorded for later: nothing routes or probes these paths yet, and the simulator answers 404."""

HEADERS = ("server", "content-type", "vary", "transfer-encoding", "allow")

FIXED = {"object", "owned_by", "system_fingerprint", "role", "type", "code", "param", "status", "detail", "version"}
"""Keys whose values do not depend on the model or the moment."""

BEFORE: Mapping[str, Sequence[tuple[str, str]]] = {
    "lora_load_duplicate": [("/v1/load_lora_adapter", "lora_load")],
    "lora_unload": [("/v1/load_lora_adapter", "lora_load")],
    "chat_lora": [("/v1/load_lora_adapter", "lora_load")],
    "models_with_lora": [("/v1/load_lora_adapter", "lora_load")],
    "is_paused": [("/pause", "pause")],
    "resume": [("/pause", "pause")],
}
"""What must have happened on the server before an exchange."""


Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def _load(name: str) -> dict[str, Any]:
    return json.loads((RECORDINGS / f"{name}.json").read_text())


EXCHANGES = sorted(path.stem for path in RECORDINGS.glob("*.json"))
REPLAYED = [name for name in EXCHANGES if not _load(name)["request"]["path"].startswith(OTHER_APIS)]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an engine set up as the recorded one was."""
    (tmp_path / "tiny-llama-lora-a").mkdir()
    settings = EngineSettings(
        model="tiny-llama",
        served_names=("tiny",),
        max_model_len=1024,
        enable_auto_tool_choice=True,
        tool_call_parser="hermes",
        enable_lora=True,
        max_loras=2,
        runtime_lora=True,
        dev_mode=True,
    )
    async with (
        running_engine(settings) as engine,
        httpx.AsyncClient(base_url=engine.url, timeout=10, params={}) as client,
    ):
        client.headers["x-lora-root"] = str(tmp_path)
        yield client


async def _send(client: httpx.AsyncClient, name: str) -> httpx.Response:
    request = _load(name)["request"]
    body: object = request["body"]
    kind = "text/plain" if name == "error_wrong_content_type" else "application/json"
    text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    text = text.replace("/models/", client.headers["x-lora-root"] + "/")
    headers = {"content-type": kind} if body is not None else {}
    return await client.request(request["method"], request["path"], content=text, headers=headers)


@pytest.mark.parametrize("name", REPLAYED)
async def test_answer_has_the_recorded_status_headers_and_shape(client: httpx.AsyncClient, name: str):
    """Status and headers are those recorded; a body has the recorded keys in order, with the recorded types."""
    recorded = _load(name)["response"]
    for _, earlier in BEFORE.get(name, ()):
        assert (await _send(client, earlier)).status_code == 200

    response = await _send(client, name)

    assert response.status_code == recorded["status"]
    for header in HEADERS:
        assert response.headers.get(header) == recorded["headers"].get(header), header
    assert ("content-length" in response.headers) == ("content-length" in recorded["headers"])
    if "events" in recorded:
        _check_stream(name, _events(response.text), recorded["events"])
    elif isinstance(recorded["body"], str):
        assert response.text == recorded["body"]
    else:
        assert _mismatches(response.json(), [recorded["body"]]) == []


@pytest.mark.parametrize("name", [name for name in REPLAYED if _load(name)["response"]["status"] >= 400])
async def test_error_says_what_vllm_says(client: httpx.AsyncClient, name: str):
    """An error's body equals the recorded one, but for counts that come from the tokenizer."""
    for _, earlier in BEFORE.get(name, ()):
        await _send(client, earlier)

    response = await _send(client, name)

    assert _without_numbers(response.json()) == _without_numbers(_load(name)["response"]["body"])


def test_every_recording_is_replayed_or_of_another_api():
    """No recorded exchange is left out unnoticed."""
    left_out = set(EXCHANGES) - set(REPLAYED)

    assert left_out == {"messages", "messages_count", "messages_stream", "responses", "responses_stream"}
    assert len(REPLAYED) >= 48


async def test_metrics_are_named_typed_and_labelled_as_recorded(client: httpx.AsyncClient):
    """After requests of every sort, each exposed series exists in the recorded exposition, and no vLLM metric lacks."""
    recorded = _families((RECORDINGS / "metrics.txt").read_text())
    for name in (
        "lora_load",
        "chat",
        "chat_stream",
        "chat_tools_required",
        "chat_tools_required_stream",
        "completions",
    ):
        await _send(client, name)

    exposed = _families((await client.get("/metrics")).text)

    for name, (kind, samples) in exposed.items():
        assert name in recorded
        assert kind == recorded[name][0], name
        assert samples <= recorded[name][1], name
    names = {name for name in recorded if name.startswith("vllm:")} - UNEXPOSED
    assert names <= exposed.keys()


UNEXPOSED = {
    "vllm:sleep_mode_operation_duration_seconds",
    "vllm:sleep_mode_operations_in_flight",
}
"""Exposed by a real server only once it has slept."""


async def test_histograms_have_the_recorded_bounds(client: httpx.AsyncClient):
    """Bucket bounds are those of the recorded server, so quantiles computed from them agree."""
    recorded = _bounds((RECORDINGS / "metrics.txt").read_text())
    await _send(client, "chat_tools_auto")

    exposed = _bounds((await client.get("/metrics")).text)

    assert {name: bounds for name, bounds in recorded.items() if name in exposed} == exposed
    assert len(exposed) >= 16


async def test_every_token_of_a_stream_with_logprobs_is_one_event(client: httpx.AsyncClient):
    """With log-probabilities the events that carry entries are as many as the completion tokens counted in usage."""
    response = await _send(client, "chat_logprobs_stream")

    payloads = [json.loads(event[6:]) for event in _events(response.text)[:-1]]
    entries = [len(c["logprobs"]["content"]) for p in payloads for c in p["choices"] if c["logprobs"]]
    assert entries == [1] * payloads[-1]["usage"]["completion_tokens"]


@pytest.mark.parametrize("name", ["chat_stream", "chat_tools_required_stream"])
async def test_a_stream_without_its_logprobs_is_the_stream_that_never_had_any(client: httpx.AsyncClient, name: str):
    """As in the recordings: entries set to null and then-empty events dropped, what is left is the plain stream.

    The limit is lifted, so that the answer has characters of several tokens, and an end.
    """
    body = {**_load(name)["request"]["body"], "max_tokens": 200}
    extra = {"logprobs": True, "top_logprobs": 2}

    plain, full = [
        [_chunk(event) for event in _events((await client.post("/v1/chat/completions", json=asked)).text)[:-1]]
        for asked in (body, {**body, **extra})
    ]

    assert [chunk for chunk in full if chunk["delta"] or chunk["finish_reason"]] == plain
    assert len(full) > len(plain)


def _chunk(event: str) -> dict[str, Any]:
    (choice,) = json.loads(event[6:])["choices"]
    for call in choice["delta"].get("tool_calls", []):
        call.pop("id", None)
    return {**choice, "logprobs": None}


def _events(text: str) -> list[str]:
    return [event for event in text.split("\n\n") if event]


def _check_stream(name: str, got: list[str], recorded: list[str]) -> None:
    """Compare the sequence of kinds of events, and each event with the recorded ones of its kind."""
    examples: dict[str, list[Json]] = {}
    for event in recorded:
        examples.setdefault(_kind(event), []).append(_payload(event))
    for event in got:
        assert _kind(event) in examples, f"{name}: {event}"
        assert _mismatches(_payload(event), examples[_kind(event)]) == [], event
    assert _outline(got) == _outline(recorded)


def _outline(events: list[str]) -> list[str]:
    """Kinds of events without repetition; tokens of tool-call markup show only with logprobs and are left out."""
    kinds = [kind for kind, _ in groupby(map(_kind, events))]
    if "tool arguments" in kinds:
        kinds = [kind for kind, _ in groupby(kind for kind in kinds if kind != "token")]
    return kinds


def _kind(event: str) -> str:
    payload = _payload(event)
    if payload == event:
        return event
    if not payload["choices"]:
        return "usage"
    choice = payload["choices"][0]
    delta = choice.get("delta", {})
    if choice["finish_reason"]:
        return "finish"
    if "role" in delta:
        return "role"
    if calls := delta.get("tool_calls"):
        return "tool name" if "name" in calls[0]["function"] else "tool arguments"
    shows = delta.get("content") is not None or "text" in choice
    return "token" if shows or choice["logprobs"] else "empty"


def _payload(event: str) -> Any:
    assert event.startswith("data: ")
    if event == "data: [DONE]":
        return event
    payload = json.loads(event[6:])
    for choice in payload["choices"]:
        if choice["finish_reason"] and "delta" in choice:
            choice["delta"] = {}  # the last token may or may not have text: both are recorded
    return payload


def _mismatches(got: Json, examples: Sequence[Json], path: str = "") -> list[str]:
    """Say where `got` differs in keys, their order, types or fixed values from every recorded example."""
    if isinstance(got, dict):
        return _dict_mismatches(got, [example for example in examples if isinstance(example, dict)], path)
    if isinstance(got, list):
        lists = [example for example in examples if isinstance(example, list)]
        items = [item for example in lists for item in example]
        if path.endswith(".bytes") and lists:
            items.append(0)  # a token inside a wide character has no bytes, any other has some
        if not lists or (got and not items):
            return [f"{path}: a list of {len(got)}, recorded {examples!r}"]
        return [found for i, item in enumerate(got) for found in _mismatches(item, items, f"{path}[{i}]")]
    key = path.rpartition(".")[2]
    if key in FIXED:
        return [] if got in examples else [f"{path}: {got!r}, recorded {examples!r}"]
    return [] if type(got) in {type(example) for example in examples} else [f"{path}: {got!r}, recorded {examples!r}"]


def _dict_mismatches(got: dict[str, Json], examples: list[dict[str, Json]], path: str) -> list[str]:
    if re.search(r"top_logprobs\[\d+\]$", path) and all(isinstance(value, float) for value in got.values()):
        return [] if examples else [f"{path}: not a mapping in the recording"]  # keyed by the tokens' text
    alike = [example for example in examples if list(example) == list(got)]
    if not alike:
        return [f"{path}: keys {list(got)}, recorded {[list(example) for example in examples[:1]]}"]
    return [
        found
        for key, value in got.items()
        for found in _mismatches(value, [example[key] for example in alike], f"{path}.{key}")
    ]


def _without_numbers(body: object) -> object:
    return json.loads(re.sub(r"\d+", "0", json.dumps(body)))


def _families(text: str) -> dict[str, tuple[str, set[tuple[str, frozenset[str]]]]]:
    """Return name -> (type, {(sample name, label names)})."""
    return {
        family.name: (family.type, {(sample.name, frozenset(sample.labels)) for sample in family.samples})
        for family in text_string_to_metric_families(text)
    }


def _bounds(text: str) -> dict[str, list[float]]:
    found: dict[str, set[float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket") and family.name.startswith("vllm:"):
                found.setdefault(family.name, set()).add(float(sample.labels["le"]))
    return {name: sorted(bounds) for name, bounds in found.items()}
