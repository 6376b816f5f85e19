"""The Experts of a fleet's own manifests, as the operator would scale them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.causes import Cause, ColdStartMode
from flotilla_api.expert import ExpertSpec
from flotilla_api.meta import parse_duration_seconds
from flotilla_api.policy import (
    DEFAULT_CAUSES,
    DEFAULT_COLD_START_MODE,
    DEFAULT_COMMIT_MAX_WAIT,
    DEFAULT_COMMIT_TOKENS,
    DEFAULT_FIRST_TOKEN_TIMEOUT,
    DEFAULT_WEIGHT,
    RoutingPolicySpec,
)
from flotilla_operator.reconcile.replacements import replacements
from flotilla_operator.resources.manifest import Manifest, ObjectRef
from flotilla_operator.resources.specs import InvalidSpecError, Served, find_profile, parse_model, parse_policy
from flotilla_operator.scaling.fleet import ExpertSignals, NamespacedName
from flotilla_operator.scaling.schedules import floor_at
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.targets import Replacement, Terms, lost_request_usd, make_target, make_terms
from flotilla_operator.scaling.types import Target

from .flotilla_policy import Flotilla
from .replicas import Sample
from .workload import Workload


class FleetError(Exception):
    """The manifests cannot be simulated; the message names the object and what to do."""


@dataclass(frozen=True, slots=True)
class FleetExpert:
    """A scaled Expert with what surrounds it."""

    name: NamespacedName
    terms: Terms
    served: Served
    profile: AcceleratorProfileSpec | None
    replacements: frozenset[Replacement]
    waits: bool
    """Whether requests that find it at zero wait for it: a policy says so, or has no fallback for it."""
    weight: float
    """Of the draw among its policy's Experts."""
    first_token_seconds: float
    """The shortest `timeouts.firstToken` of the policies that name it."""
    hold_tokens: int
    hold_seconds: float
    """What policies hold back of a stream until it is judged; 0 where none is judged."""

    @property
    def maximum(self) -> int:
        """Of replicas, those that the profile's `capacity` has no room for left out."""
        capacity = self.profile.capacity if self.profile else None
        return min(self.terms.maximum, capacity // self.terms.gpus) if isinstance(capacity, int) else self.terms.maximum

    def loss_usd(self, load: Workload) -> float | None:
        """What one lost request costs, of the mean lengths of these; None: no price is known."""
        if not len(load):
            return lost_request_usd(self.replacements, {}, ExpertSignals())
        means = ExpertSignals(
            prompt_tokens=Known(float(load.prompt_tokens.mean())),
            generation_tokens=Known(float(load.output_tokens.mean())),
        )
        return lost_request_usd(self.replacements, {}, means)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All Experts with `spec.scaling`, by name."""

    experts: tuple[FleetExpert, ...]
    warnings: tuple[str, ...] = ()


def describe_fleet(manifests: Mapping[ObjectRef, Manifest]) -> Fleet:
    """What the manifests of a fleet say; namespaces of all but AcceleratorProfiles are set.

    Raises:
        FleetError: an object is of another schema, or no Expert is scaled.
    """
    policies = _policies(manifests)
    experts: list[FleetExpert] = []
    warnings: list[str] = []
    for ref, manifest in sorted(manifests.items()):
        if ref.kind != "Expert":
            continue
        expert = _describe(ref, manifest, manifests, policies)
        if expert is None:
            warnings.append(f"{ref} has no spec.scaling: it is left out")
            continue
        experts.append(expert)
        warnings += [f"{ref}: {problem}" for problem in expert.terms.problems]
    if not experts:
        raise FleetError("there is no Expert with spec.scaling among the manifests, so there is nothing to simulate")
    return Fleet(tuple(experts), tuple(warnings))


def _policies(manifests: Mapping[ObjectRef, Manifest]) -> dict[ObjectRef, RoutingPolicySpec]:
    found: dict[ObjectRef, RoutingPolicySpec] = {}
    for ref, manifest in manifests.items():
        if ref.kind == "RoutingPolicy":
            try:
                found[ref] = parse_policy(manifest)
            except InvalidSpecError as error:
                raise FleetError(f"{ref}: {error}") from error
    return found


def _describe(
    ref: ObjectRef,
    manifest: Manifest,
    manifests: Mapping[ObjectRef, Manifest],
    policies: Mapping[ObjectRef, RoutingPolicySpec],
) -> FleetExpert | None:
    served = _served(ref, manifest)
    assert isinstance(served.spec, ExpertSpec)
    profile = find_profile(served, manifests)
    terms = make_terms(served.spec, profile)
    if terms is None:
        return None
    naming = [spec for policy, spec in policies.items() if policy.namespace == ref.namespace and _names(spec, ref.name)]
    answering = [replacements(ref.namespace, spec, manifests).get(ref.name) for spec in naming]
    holds = [_hold(spec) for spec in naming]
    return FleetExpert(
        name=NamespacedName(ref.namespace, ref.name),
        terms=terms,
        served=served,
        profile=profile,
        replacements=frozenset[Replacement]().union(*filter(None, answering)),
        waits=any(_cold_start(spec) != "Bridge" or not found for spec, found in zip(naming, answering, strict=True)),
        weight=float(sum(_weights(naming, ref.name)) or DEFAULT_WEIGHT),
        first_token_seconds=min(map(_first_token_seconds, naming), default=_seconds(DEFAULT_FIRST_TOKEN_TIMEOUT)),
        hold_tokens=max((tokens for tokens, _ in holds), default=0),
        hold_seconds=max((seconds for _, seconds in holds), default=0.0),
    )


def _served(ref: ObjectRef, manifest: Manifest) -> Served:
    try:
        model = parse_model(manifest)
    except InvalidSpecError as error:
        raise FleetError(f"{ref}: {error}") from error
    assert isinstance(model, Served)
    return model


def _names(policy: RoutingPolicySpec, expert: str) -> bool:
    routes = [policy.experts, *(rule.experts or [] for rule in policy.rules or ())]
    return any(each.name == expert for experts in routes for each in experts)


def _cold_start(policy: RoutingPolicySpec) -> ColdStartMode:
    return (policy.coldStart and policy.coldStart.mode) or DEFAULT_COLD_START_MODE


def _weights(policies: Iterable[RoutingPolicySpec], expert: str) -> Iterator[int]:
    for policy in policies:
        for each in policy.experts:
            if each.name == expert:
                yield DEFAULT_WEIGHT if each.weight is None else each.weight


def _first_token_seconds(policy: RoutingPolicySpec) -> float:
    return _seconds((policy.timeouts and policy.timeouts.firstToken) or DEFAULT_FIRST_TOKEN_TIMEOUT)


def _hold(policy: RoutingPolicySpec) -> tuple[int, float]:
    """Tokens and seconds, whichever comes first."""
    escalation = policy.escalation
    causes = DEFAULT_CAUSES if escalation is None or escalation.on is None else escalation.on
    if Cause.LOW_CONFIDENCE not in causes:
        return 0, 0.0
    commit = escalation.commit if escalation else None
    tokens = (commit and commit.tokens) or DEFAULT_COMMIT_TOKENS
    return tokens, _seconds((commit and commit.maxWait) or DEFAULT_COMMIT_MAX_WAIT)


def _seconds(duration: str) -> float:
    return parse_duration_seconds(duration)


class Operated:
    """`decide()` for one Expert, whose schedules open and close, and whose override ends, in simulated time."""

    wakes = True

    def __init__(self, expert: FleetExpert, loss_usd: float, cold_start_seconds: float, began: datetime) -> None:
        """`began` is the time of the trace's first second."""
        self._expert, self._loss_usd, self._cold_start, self._began = expert, loss_usd, cold_start_seconds, began
        self._floor = floor_at(expert.terms.windows, began)
        self._flotilla = Flotilla(self._target(began), waits=expert.waits)
        self.period_seconds, self.lag_seconds = self._flotilla.period_seconds, self._flotilla.lag_seconds

    def wanted(self, sample: Sample) -> int:
        """What the operator would ask for then."""
        now = self._began + timedelta(seconds=sample.at)
        if not self._floor.holds(now):
            self._floor = floor_at(self._expert.terms.windows, now)
        self._flotilla.target = self._target(now)
        return min(self._flotilla.wanted(sample), self._expert.maximum)

    def _target(self, now: datetime) -> Target:
        target = make_target(self._expert.terms, self._floor, self._loss_usd, now.timestamp())
        return replace(target, prior_cold_start_seconds=self._cold_start)
