"""The JSON of vLLM 0.32's answers: bodies and stream events, key by key as recorded. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from fakes.engine.answers import Answer, Hidden, Shown, Text, ToolArguments, ToolName
from fakes.engine.settings import Adapter

Object = dict[str, object]

FINGERPRINT = "vllm-0.32.0-86fe5d92"
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer carry."""

    id: str
    created: int
    """Unix time in whole seconds."""
    model: str


@dataclass(frozen=True, slots=True)
class Part:
    """Where an event belongs: its answer, its choice, and how that ended if it is its last event."""

    head: Head
    index: int
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `cached_tokens` is None unless the engine was told to show it."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    def body(self) -> Object:
        """The `usage` of a whole answer."""
        return {**self._counts(), "prompt_tokens_details": self._details(), "completion_tokens_details": None}

    def last(self) -> Object:
        """The `usage` of a stream's last event."""
        return self._counts() | ({"prompt_tokens_details": details} if (details := self._details()) else {})

    def running(self) -> Object:
        """The `usage` of a stream's event under `continuous_usage_stats`."""
        return {**self._counts(), "completion_tokens_details": None}

    def _counts(self) -> Object:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def _details(self) -> Object | None:
        return None if self.cached_tokens is None else {"cached_tokens": self.cached_tokens}


def event(payload: Object) -> bytes:
    """Frame one server-sent event."""
    return b"data: " + encode(payload) + b"\n\n"


def make_chat(head: Head, choices: Sequence[Object], usage: Usage) -> Object:
    """Return a whole chat completion."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage.body(),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def make_chat_choice(index: int, answer: Answer, logprobs: object, *, tool_call_id: str, named_tool: bool) -> Object:
    """Return one choice of a whole chat completion; a named tool's call finishes with `stop`, as vLLM's does."""
    message: Object = {
        "role": "assistant",
        "content": answer.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if call := answer.tool_call:
        function = {"name": call.name, "arguments": call.arguments}
        message["tool_calls"] = [{"id": tool_call_id, "type": "function", "function": function}]
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_reason(answer, named_tool=named_tool),
        "stop_reason": answer.stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


def make_completion(head: Head, choices: Sequence[Object], usage: Usage) -> Object:
    """Return a whole text completion."""
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": list(choices),
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage.body(),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def make_completion_choice(index: int, text: str, answer: Answer, logprobs: object) -> Object:
    """Return one choice of a whole text completion."""
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }


def make_role_event(part: Part, usage: Usage | None) -> Object:
    """Return the first event of a chat choice."""
    delta = {"role": "assistant", "content": ""}
    choice: Object = {"index": part.index, "delta": delta, "logprobs": None, "finish_reason": None}
    payload = _chunk(part.head, [choice])
    if usage:
        payload["usage"] = usage.running()
    return payload | {"prompt_token_ids": None, "prompt_text": None}


def make_chat_event(part: Part, usage: Usage | None, delta: Object, logprobs: object) -> Object:
    """Return an event between the first and the last of a chat choice."""
    choice: Object = {"index": part.index, "delta": delta, "logprobs": logprobs}
    payload = _chunk(part.head, [choice | {"finish_reason": None, "token_ids": None}])
    if usage:
        payload["usage"] = usage.running()
    return payload


def make_chat_finish(part: Part, usage: Usage | None, delta: Object, logprobs: object) -> Object:
    """Return the last event of a chat choice."""
    choice: Object = {"index": part.index, "delta": delta, "logprobs": logprobs, "finish_reason": part.finish_reason}
    payload = _chunk(part.head, [choice | {"stop_reason": part.stop_reason, "token_ids": None}])
    if usage:
        payload["usage"] = usage.running()
    return payload


def make_completion_event(part: Part, usage: Usage | None, text: str, logprobs: object) -> Object:
    """Return one event of a text completion; only the last one has a finish reason."""
    choice: Object = {"index": part.index, "text": text, "logprobs": logprobs}
    choice |= {"finish_reason": part.finish_reason, "stop_reason": part.stop_reason}
    payload = _chunk(part.head, [choice | {"prompt_token_ids": None, "token_ids": None}], "text_completion")
    if usage:
        payload["usage"] = usage.running()
    return payload


def make_usage_event(head: Head, kind: str, usage: Usage) -> Object:
    """Return the event after the choices' last ones, when usage was asked for."""
    return {**_chunk(head, [], kind), "usage": usage.last(), "system_fingerprint": FINGERPRINT}


def make_delta(shown: Shown, tool_call_id: str) -> Object:
    """Return the delta that shows a token; empty when there is nothing to show."""
    match shown:
        case Text(text):
            return {"content": text} if text else {}
        case ToolName(name):
            call: Object = {"id": tool_call_id, "type": "function", "index": 0, "function": {"name": name}}
            return {"content": None, "tool_calls": [call]}
        case ToolArguments(text):
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]} if text else {}
        case Hidden():
            return {}


def finish_reason(answer: Answer, *, named_tool: bool) -> str:
    """Return why the answer ended, in the API's words."""
    return "stop" if named_tool and answer.tool_call else answer.finish_reason


def make_error(message: str, kind: str, param: str | None, code: int) -> Object:
    """Return vLLM's error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Served:
    """What /v1/models tells: the names of the base model, its path and context, and the loaded adapters."""

    names: Sequence[str]
    root: str
    max_model_len: int
    adapters: Sequence[Adapter]


def make_models(served: Served, created: int, permission_ids: Iterator[str]) -> Object:
    """Return /v1/models: the base under each of its names, then the adapters."""
    base: Object = {"root": served.root, "parent": None, "max_model_len": served.max_model_len}
    cards = [(name, base) for name in served.names]
    for adapter in served.adapters:
        place: Object = {"root": adapter.path, "parent": served.names[0], "max_model_len": None}
        cards.append((adapter.name, place))
    return {"object": "list", "data": [_card(name, place, created, next(permission_ids)) for name, place in cards]}


def _card(name: str, place: Object, created: int, permission_id: str) -> Object:
    permission: Object = {
        "id": permission_id,
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    head: Object = {"id": name, "object": "model", "created": created, "owned_by": "vllm"}
    return {**head, **place, "permission": [permission]}


def _chunk(head: Head, choices: list[Object], kind: str = "chat.completion.chunk") -> Object:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}
