"""What is asked for, and what is decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from flotilla_api.causes import Boundary, Cause
from flotilla_api.snapshot import Route, Target

from .wire import Api


class Features(msgspec.Struct, frozen=True):
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
    """x-flotilla-boundary: LocalOnly or Any; it may only tighten."""


class Decision(msgspec.Struct, frozen=True):
    """Who answers first, and who may answer after it."""

    route: Route
    rule: str | None
    first: Target
    """A sleeping one: the request waits for it."""
    meant: Target | None
    """The expert that the request was first meant for, also if it is asleep, or was left before it was asked; None:
    it was meant for no expert."""
    pinned: bool
    """Asked for by name: nobody else may answer, so `fallbacks` is empty and the answer is not judged."""
    fallbacks: tuple[Target, ...]
    """Eligible ones, in order, without `first`; then experts, where a strategy preferred a fallback to them."""
    boundary: Boundary
    """The strictest of policy, rule and header."""
    reason: str
    """One word of: Static, Rule/NAME, WinRate, QualityGap, Cluster, Explored, Pinned, FallbackOnly, Capability,
    NoReadyReplica, ContextOverflow, ColdStart, Relayed.

    Static: drawn by weight. Rule/NAME: the same within a rule, or a rule without experts. WinRate, QualityGap, Cluster:
    the learned strategy that preferred it. Explored: drawn to learn from. FallbackOnly: the policy has no experts.
    Capability: no expert can do what is asked. Relayed: a sidecar asks. NoReadyReplica, ContextOverflow and ColdStart
    are `cause`.
    """
    cause: Cause | None
    """Set when the request leaves its experts before any was asked: `first` is a fallback then."""
    propensity: float | None
    """Probability with which this model was chosen among those that were eligible; None: it was asked for by name."""
    ranked: bool
    """Whether a learned strategy's order, or its exploration, led here."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a learned strategy says of one request. Orders hold names of targets, the preferred one first."""

    strategy: str
    """The reason that a decision by it has."""
    order: tuple[str, ...]
    possible: tuple[tuple[float, tuple[str, ...]], ...]
    """Every order that a canary or a draw on the threshold might have given, with its probability; they add up to 1."""
    explore_ratio: float
    draw: float
    """Of the exploration, uniform in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody may answer."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    meant: Target | None = None
    """As in a Decision."""
    retry_after_seconds: int | None = None
