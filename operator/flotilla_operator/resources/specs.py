"""Stored specs as models, and what is shared by everything that is served in the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import DEFAULT_ACCELERATOR_COUNT, DEFAULT_REPLICAS, ExpertSpec, ServedModel, TokenCost
from flotilla_api.fallback import External, FallbackSpec
from flotilla_api.meta import Model
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.scaling import DEFAULT_MIN_REPLICAS, DEFAULT_SCALING_MODE, Scaling

from .manifest import Manifest, ObjectRef

M = TypeVar("M", bound=Model)


class InvalidSpecError(ValueError):
    """A stored spec does not parse; the message names the fields."""


@dataclass(frozen=True, slots=True)
class Served:
    """An Expert, or a Fallback in the cluster."""

    owner: Manifest
    spec: ServedModel
    cost: TokenCost | None
    scaling: Scaling | None = None
    """Experts only."""

    @property
    def name(self) -> str:
        """The owner's name, which is also the served model's."""
        return self.owner["metadata"]["name"]

    @property
    def namespace(self) -> str:
        """The owner's namespace."""
        return self.owner["metadata"]["namespace"]

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.spec.accelerator.count or DEFAULT_ACCELERATOR_COUNT

    @property
    def replicas(self) -> int:
        """Replicas that the spec asks for; of a scaled Expert those that it starts with."""
        if self.scaling is not None:
            return max(DEFAULT_MIN_REPLICAS if self.scaling.min is None else self.scaling.min, 1)
        return DEFAULT_REPLICAS if self.spec.replicas is None else self.spec.replicas

    @property
    def wakes(self) -> bool:
        """Whether the scaler may stop it, outside of what schedules ask for: then a request wakes it."""
        return self.scaling is not None and self.scaling.min == 0 and self._is_scaled_here

    @property
    def may_sleep(self) -> bool:
        """Whether its engines may be put to sleep, which opens vLLM's development paths."""
        return self.scaling is not None and self.scaling.sleep is not None and self._is_scaled_here

    @property
    def _is_scaled_here(self) -> bool:
        """Whether the scaler sets the number, and does not only recommend it."""
        return self.scaling is not None and (self.scaling.mode or DEFAULT_SCALING_MODE) == "Apply"

    @property
    def profile_ref(self) -> ObjectRef:
        """The AcceleratorProfile that the spec names."""
        return ObjectRef("AcceleratorProfile", "", self.spec.accelerator.profile)


@dataclass(frozen=True, slots=True)
class ExternalModel:
    """A Fallback behind an API."""

    owner: Manifest
    spec: External
    cost: TokenCost | None

    @property
    def name(self) -> str:
        """The owner's name."""
        return self.owner["metadata"]["name"]


def parse_model(owner: Manifest) -> Served | ExternalModel:
    """What an Expert or a Fallback describes.

    Raises:
        InvalidSpecError: the stored spec is of another schema.
    """
    if owner["kind"] == "Expert":
        expert = _parse(ExpertSpec, owner)
        return Served(owner, expert, expert.cost, expert.scaling)
    fallback = _parse(FallbackSpec, owner)
    if fallback.served is not None:
        return Served(owner, fallback.served, fallback.cost)
    if fallback.external is not None:
        return ExternalModel(owner, fallback.external, fallback.cost)
    raise InvalidSpecError("spec: set exactly one of external and served")


def parse_policy(owner: Manifest) -> RoutingPolicySpec:
    """The spec of a RoutingPolicy.

    Raises:
        InvalidSpecError: the stored spec is of another schema.
    """
    return _parse(RoutingPolicySpec, owner)


def parse_profile(owner: Manifest) -> AcceleratorProfileSpec:
    """The spec of an AcceleratorProfile.

    Raises:
        InvalidSpecError: the stored spec is of another schema.
    """
    return _parse(AcceleratorProfileSpec, owner)


def find_profile(served: Served, references: Mapping[ObjectRef, Manifest | None]) -> AcceleratorProfileSpec | None:
    """The profile that `served` names; None: it does not exist or does not parse."""
    manifest = references.get(served.profile_ref)
    if manifest is None:
        return None
    try:
        return parse_profile(manifest)
    except InvalidSpecError:
        return None


def policy_experts(spec: RoutingPolicySpec) -> list[str]:
    """Names of the experts that a policy or one of its rules names, sorted."""
    return sorted({e.name for e in spec.experts} | {e.name for rule in spec.rules or () for e in rule.experts or ()})


def policy_fallbacks(spec: RoutingPolicySpec) -> list[str]:
    """Names of the fallbacks that a policy or one of its rules names, sorted."""
    rules = {f.name for rule in spec.rules or () for f in rule.fallbacks or ()}
    return sorted({f.name for f in spec.fallbacks or ()} | rules)


def _parse(model: type[M], owner: Manifest) -> M:
    try:
        return model.model_validate(owner.get("spec") or {})
    except ValidationError as error:
        found: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
        text = "; ".join(f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:5])
        raise InvalidSpecError(text) from error
