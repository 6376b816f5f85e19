"""Two ways to speak the same API: vLLM's, and the one of a paid provider (OpenAI's wording, without vLLM's extras)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from fakes.engine import wire
from fakes.engine.requests import RequestError
from fakes.engine.wire import Object


@dataclass(frozen=True, slots=True)
class VllmDialect:
    """As vLLM 0.32 answers."""

    server_lines: tuple[str, ...] = ("server: uvicorn",)
    has_engine_paths: bool = True

    def error(self, error: RequestError) -> Object:
        """Return the body for a refused request."""
        return wire.make_error(str(error), error.kind, error.param, error.status)

    def unauthorized(self, _token: str) -> Object:
        """Return the body for a wrong or absent key."""
        return {"error": "Unauthorized"}

    def headers(self) -> Mapping[str, str]:
        """Return the headers that every answer gets."""
        return {"vary": "Origin"}

    def shape(self, payload: Object) -> Object:
        """Return a body or event as this server writes it."""
        return payload


@dataclass(frozen=True, slots=True)
class ProviderDialect:
    """As an external provider answers."""

    server_lines: tuple[str, ...] = ("server: simulated-provider",)
    has_engine_paths: bool = False

    def error(self, error: RequestError) -> Object:
        """Return the body for a refused request."""
        kind, code = _provider_type(error)
        return {"error": {"message": str(error), "type": kind, "param": error.param, "code": code}}

    def unauthorized(self, token: str) -> Object:
        """Return the body for a wrong or absent key; a key is never shown whole."""
        if not token:
            text = "You didn't provide an API key. Use an Authorization header: Authorization: Bearer YOUR_KEY."
            return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}
        text = f"Incorrect API key provided: {token[:3]}***."
        return {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}

    def headers(self) -> Mapping[str, str]:
        """Return the headers that every answer gets."""
        return {"x-request-id": f"req_{secrets.token_hex(16)}"}

    def shape(self, payload: Object) -> Object:
        """Return a body or event without what only vLLM adds."""
        found = {key: value for key, value in payload.items() if key not in _VLLM_ONLY}
        if "choices" in found:
            found["choices"] = [self._choice(choice) for choice in cast("list[Object]", found["choices"])]
            found["system_fingerprint"] = "fp_simulated"
        return found

    def _choice(self, choice: Object) -> Object:
        found = {key: value for key, value in choice.items() if key not in _VLLM_ONLY}
        if "message" in found:
            message = cast("Object", found["message"])
            found["message"] = {key: value for key, value in message.items() if key not in _VLLM_ONLY}
        return found


Dialect = VllmDialect | ProviderDialect

_VLLM_ONLY = frozenset(
    {
        "ec_transfer_params",
        "function_call",
        "kv_transfer_params",
        "metrics",
        "prompt_logprobs",
        "prompt_text",
        "prompt_token_ids",
        "reasoning",
        "routed_experts",
        "stop_reason",
        "token_ids",
    }
)


def refused_param(body: Mapping[str, object], refused: frozenset[str]) -> RequestError | None:
    """Return the error for the first field of `refused` that the body has; `a.b` names a field of a field."""
    for name in sorted(refused):
        outer, _, inner = name.partition(".")
        value = body.get(outer)
        if outer not in body or (inner and not (isinstance(value, dict) and inner in value)):
            continue
        if name == "max_tokens":
            text = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return RequestError(f"{text} Use 'max_completion_tokens' instead.", kind="unsupported", param=name)
        if inner:
            return RequestError(f"Unknown parameter: '{name}'.", kind="unknown", param=name)
        return RequestError(f"Unrecognized request argument supplied: {name}", kind="unrecognized")
    return None


def _provider_type(error: RequestError) -> tuple[str, str | None]:
    """Return a provider's `type` and `code` for an error."""
    if error.status == 429:
        return "requests", "rate_limit_exceeded"
    if error.status >= 500:
        return "server_error", None
    if error.status == 404:
        return "invalid_request_error", "model_not_found"
    if error.param in {"input_tokens", "input_text"}:
        return "invalid_request_error", "context_length_exceeded"
    codes = {"unsupported": "unsupported_parameter", "unknown": "unknown_parameter"}
    return "invalid_request_error", codes.get(error.kind)
