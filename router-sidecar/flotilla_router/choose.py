"""Filter -> score -> pick: which model answers a request first, and which may answer after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flotilla_api.policy import Boundary, Cause
from flotilla_api.snapshot import Route, RoutingSnapshot, Target

from .openai import Api


@dataclass(frozen=True, slots=True)
class Features:
    """What routing knows about a request."""

    api: Api
    model: str
    tool_count: int
    json_schema: bool
    prompt_tokens: int
    """Estimate, give or take 30 %."""
    max_tokens: int | None
    headers: Mapping[str, str]
    """Names in lower case."""
    boundary_header: str | None
    """x-flotilla-boundary."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers first, and who may answer after it."""

    route: Route
    rule: str | None
    first: Target
    pinned: bool
    """Asked for by name: nobody else may answer, so `fallbacks` is empty and the answer is not judged."""
    fallbacks: tuple[Target, ...]
    """Eligible ones, in order."""
    boundary: Boundary
    """The strictest of policy, rule and header."""
    reason: str
    """Static | Rule/NAME | Pinned | FallbackOnly | Rule/NAME for a rule without experts | NoReadyReplica |
    ContextOverflow | Capability (no expert of the route can do what the request needs)."""
    cause: Cause | None
    """Set when the request leaves its experts at once: `first` is a fallback then."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody may answer."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None


class RoutingTable:
    """A snapshot, compiled for lookups; immutable."""


def compile_table(snapshot: RoutingSnapshot) -> RoutingTable:
    """Compile a snapshot once, when it is loaded."""
    raise NotImplementedError


def choose(table: RoutingTable, features: Features, ready: Callable[[Target], bool], draw: float) -> Decision | Refusal:
    """Decide for one request. draw: uniform in [0, 1)."""
    raise NotImplementedError


def visible_models(table: RoutingTable) -> list[str]:
    """Names for /v1/models: aliases, experts and pinnable fallbacks."""
    raise NotImplementedError
