"""Builders for the router's pure core, and the recorded exchanges of vLLM 0.32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flotilla_api.causes import Boundary, Cause
from flotilla_api.snapshot import (
    SCHEMA_VERSION,
    Conditions,
    EscalationConfig,
    ExternalTarget,
    HeaderCondition,
    Route,
    RoutingSnapshot,
    RuleRoute,
    Target,
    TimeoutConfig,
    WeightedTarget,
)
from flotilla_router.decisions import Features
from flotilla_router.openai import Api, ParsedRequest, parse_request

RECORDINGS = Path(__file__).parents[2] / "fakes" / "recordings" / "vllm-0.32"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """One exchange with a real vLLM."""

    api: Api
    request: ParsedRequest
    status: int
    body: bytes
    """The whole answer as vLLM wrote it; empty for a stream."""
    events: tuple[bytes, ...]

    def without_identity(self, part: bytes) -> bytes:
        """A part of the answer without what differs between two runs: id, time and tool call ids."""
        chunk = json.loads(self.body or self.events[0][6:])
        part = part.replace(chunk["id"].encode(), b"ID").replace(b'"created":%d' % chunk["created"], b'"created":0')
        for event in self.events:
            mark = event.find(b'"id":"chatcmpl-tool-')
            if mark >= 0:
                part = part.replace(event[mark + 6 : event.index(b'"', mark + 6)], b"TOOL")
        return part


def recording(name: str) -> Recording:
    """The recorded exchange of this name."""
    exchange = json.loads((RECORDINGS / f"{name}.json").read_bytes())
    request, response = exchange["request"], exchange["response"]
    api: Api = "completions" if request["path"] == "/v1/completions" else "chat"
    return Recording(
        api=api,
        request=a_request(request["body"], api=api),
        status=response["status"],
        body=encode(response["body"]) if "body" in response else b"",
        events=tuple(f"{event}\n\n".encode() for event in response.get("events", ())),
    )


def encode(value: object) -> bytes:
    """JSON as vLLM writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def a_request(fields: Mapping[str, object] | None = None, *, api: Api = "chat", **more: Any) -> ParsedRequest:
    """A parsed request; by default a chat for the alias auto."""
    prompt: Json = {"prompt": "x"} if api == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    return parse_request(api, encode({"model": "auto", **prompt, **(fields or {}), **more}))


def an_escalation(**changes: Any) -> EscalationConfig:
    """Escalation with the API's defaults."""
    defaults: Json = {
        "on": tuple(Cause),
        "commitTokens": 12,
        "commitMaxWaitSeconds": 0.2,
        "noSignal": "Accept",
        "structuredMaxWaitSeconds": 5.0,
        "structuredMaxBytes": 65536,
        "minConfidence": 0.5,
        "deadlineSeconds": 20.0,
        "onFallbackFailure": "UseExpert",
    }
    return EscalationConfig(**{**defaults, **changes})


def a_target(kind: Literal["Expert", "Fallback"], name: str, **changes: Any) -> Target:
    """A served model that can do everything."""
    defaults: Json = {
        "location": "Local",
        "model": name,
        "apis": ("chat", "completions"),
        "tools": True,
        "jsonSchema": True,
    }
    return Target(kind=kind, name=name, **{**defaults, **changes})


def an_expert(name: str, **changes: Any) -> Target:
    """An expert that can do everything."""
    return a_target("Expert", name, **changes)


def an_external(name: str, **changes: Any) -> Target:
    """A fallback outside the cluster."""
    api = ExternalTarget(url=f"https://{name}/v1", credentials=name, hasCredentials=False, hasCa=False)
    return a_target("Fallback", name, **{"location": "External", "logprobs": False, "external": api, **changes})


def a_route(
    experts: Mapping[str, int] | None = None,
    fallbacks: tuple[str, ...] = (),
    *,
    boundary: Boundary = "Any",
    **escalation: Any,
) -> Route:
    """A route over experts with these weights."""
    weighted = tuple(WeightedTarget(name=name, weight=weight) for name, weight in (experts or {}).items())
    return Route(experts=weighted, fallbacks=fallbacks, boundary=boundary, escalation=an_escalation(**escalation))


def a_rule(name: str, route: Route, *, headers: Mapping[str, tuple[str, ...]] | None = None, **when: Any) -> RuleRoute:
    """A rule with these conditions."""
    matches = tuple(HeaderCondition(name=header, values=values) for header, values in (headers or {}).items())
    return RuleRoute(name=name, when=Conditions(headers=matches, **when), route=route)


def a_snapshot(
    route: Route, *targets: Target, rules: tuple[RuleRoute, ...] = (), pinnable: tuple[str, ...] = ()
) -> RoutingSnapshot:
    """A policy with the alias auto."""
    return RoutingSnapshot(
        schemaVersion=SCHEMA_VERSION,
        namespace="agents",
        policy="default",
        uid="1",
        generation=1,
        models=("auto",),
        pinnable=pinnable,
        targets=targets,
        route=route,
        rules=rules,
        timeouts=TimeoutConfig(
            connectSeconds=1, firstTokenSeconds=10, idleSeconds=15, totalSeconds=300, keepAliveAfterSeconds=15
        ),
        maxBodyBytes=1 << 20,
        anonymous=True,
    )


def some_features(**changes: Any) -> Features:
    """A short chat for auto."""
    defaults: Json = {
        "api": "chat",
        "model": "auto",
        "tool_count": 0,
        "json_schema": False,
        "prompt_tokens": 100,
        "max_tokens": None,
        "headers": {},
        "boundary_header": None,
    }
    return Features(**{**defaults, **changes})
