"""Status of the kinds. Written by the operator alone; every list is bounded and every figure rounded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .meta import Model, as_map_by


class Condition(Model):
    """A meta/v1 Condition."""

    type: str = Field(description="What it is about.", max_length=64)
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(description="One documented word.", max_length=64)
    message: str = Field(description="What, which object, and what to do.", max_length=2048)
    lastTransitionTime: str = Field(description="When the status last changed.", max_length=32)
    observedGeneration: int | None = Field(None, description="The generation that this speaks of.")


class Status(Model):
    """What every status has."""

    observedGeneration: int | None = Field(None, description="The generation that this status speaks of.")
    conditions: list[Condition] | None = Field(
        None,
        description="Conditions by type.",
        max_length=16,
        json_schema_extra=as_map_by("type"),
    )


class ServedStatus(Status):
    """What a served model's status has."""

    replicas: int | None = Field(None, description="Pods that exist and do not end.")
    readyReplicas: int | None = Field(None, description="Pods that answer.")
    endpoint: str | None = Field(None, description="Where it is reached.", max_length=512)
    podHash: str | None = Field(
        None,
        description="Hash of the Deployment's pod template; pods made from it bear it as the annotation flotilla.dev/pod-hash.",
        max_length=64,
    )
    costPerHourUSD: str | None = Field(
        None, description="Dollars per hour of the GPUs that it holds now.", max_length=32
    )


class DecisionInput(Model):
    """A value that a decision was made from."""

    name: str = Field(description="What was measured.", max_length=64)
    value: str | None = Field(None, description="A decimal; absent where it was unknown.", max_length=32)
    ageSeconds: int | None = Field(None, description="How old it was, where it was measured.")


class ScalingDecision(Model):
    """One change of the number of replicas, and why."""

    at: str = Field(description="When.", max_length=32)
    from_: int = Field(alias="from", description="Replicas before.")
    to: int = Field(description="Replicas after.")
    rule: str = Field(description="What bound it, one documented word.", max_length=64)
    message: str = Field(description="The numbers that bound it.", max_length=512)
    counterfactual: str | None = Field(
        None, description="What the next replica would have to save, in dollars.", max_length=512
    )
    inputs: list[DecisionInput] | None = Field(None, description="What it was made from.", max_length=32)


class ScalingStatus(Model):
    """What the scaler thinks of an Expert."""

    at: str | None = Field(
        None, description="When this was found; it is not said again because numbers in it move.", max_length=32
    )
    recommended: int | None = Field(None, description="How many replicas are right now.")
    rule: str | None = Field(None, description="What bound that, one documented word.", max_length=64)
    message: str | None = Field(None, description="The numbers that bound it, when it last changed.", max_length=512)
    shadowUSDPerHour: str | None = Field(
        None, description="Dollars an hour that one accelerator more in the pool would save.", max_length=32
    )
    asleep: int | None = Field(None, description="Replicas that sleep.")
    decisions: list[ScalingDecision] | None = Field(None, description="The last changes, newest first.", max_length=8)


class ExpertStatus(ServedStatus):
    """Status of an Expert."""

    selector: str | None = Field(None, description="Label selector of its pods, for /scale.", max_length=256)
    scaling: ScalingStatus | None = Field(
        None, description="What the scaler thinks; absent where spec.replicas says the number."
    )


class FallbackStatus(ServedStatus):
    """Status of a Fallback; replicas only where it is served in the cluster."""

    model: str | None = Field(None, description="The model behind it.", max_length=512)


class RoutingPolicyStatus(Status):
    """Status of a RoutingPolicy."""

    experts: str | None = Field(None, description="Experts that answer / experts named.", max_length=16)
    fallbacks: str | None = Field(None, description="Fallbacks that can be used / fallbacks named.", max_length=16)
    routers: str | None = Field(None, description="Routers that are ready / routers wanted.", max_length=16)
    sidecars: str | None = Field(
        None, description="Pods that run the policy's sidecar / pods that ask for it.", max_length=16
    )
    endpoint: str | None = Field(None, description="The gateway's base URL inside the cluster.", max_length=512)
    snapshotDigest: str | None = Field(
        None, description="Digest of the snapshot that routers are to serve.", max_length=80
    )
