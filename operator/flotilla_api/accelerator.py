"""AcceleratorProfile: what one kind of GPU node looks like and costs. Cluster-scoped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .meta import USD, Cel, Model, checked

LabelValue = Annotated[str, Field(max_length=63)]
LabelKey = Annotated[str, Field(max_length=317)]


class Toleration(Model):
    """A core/v1 Toleration."""

    key: str | None = Field(
        None, description="Taint key; absent with operator Exists tolerates every taint.", max_length=317
    )
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Exists or Equal. Default: Equal.")
    value: str | None = Field(None, description="Taint value that Equal compares with.", max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; absent means every effect."
    )
    tolerationSeconds: int | None = Field(
        None, description="Seconds that a NoExecute taint is tolerated.", ge=0, le=2**31 - 1
    )


class AcceleratorProfileSpec(Model):
    """One kind of accelerator and where pods find it."""

    resource: str = checked(
        Cel(
            "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
            "must be an extended resource's name, such as nvidia.com/gpu",
        ),
        description="Extended resource that a pod asks for, one per GPU, such as nvidia.com/gpu.",
        min_length=1,
        max_length=317,
    )
    memoryGiB: int = Field(
        description="Memory of one accelerator, in GiB; the fit check compares with it.", ge=1, le=4096
    )
    hourlyUSD: USD | None = Field(
        None,
        description="Dollars for one accelerator and hour; prices an expert that names no token prices. Default: unknown.",
    )
    nodeSelector: dict[LabelKey, LabelValue] | None = Field(
        None, description="Node labels that select this pool.", max_length=32
    )
    tolerations: list[Toleration] | None = Field(None, description="Tolerations for this pool's taints.", max_length=32)
    runtimeClassName: str | None = Field(
        None, description="RuntimeClass of pods on this pool. Default: the cluster's.", max_length=253
    )
