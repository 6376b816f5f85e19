"""AcceleratorProfile: what one kind of GPU node looks like and costs. Cluster-scoped."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, WithJsonSchema

from .meta import USD, Cel, Model, SecretName, checked, keys_at_most

MAX_LABEL_KEY = 317
"""253 characters of prefix, '/', 63 of name."""
LabelValue = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",
            "must be a label's value: letters, digits, '-', '_' and '.', quoted where YAML would read a number or true",
        ),
        max_length=63,
    ),
]
Labels = dict[str, LabelValue]


_CAPACITY_RULE = Cel(
    "type(self) == int ? self >= 0 && self <= 1000000 : self in ['Nodes', 'Unbounded']",
    "must be Nodes, Unbounded or a whole number of accelerators from 0 to 1000000",
)
Capacity = Annotated[
    int | Literal["Nodes", "Unbounded"],
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 9,
            "x-kubernetes-validations": [{"rule": _CAPACITY_RULE.rule, "message": _CAPACITY_RULE.message}],
        }
    ),
]
"""How many accelerators a pool has."""


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
        None,
        description="Seconds that a NoExecute taint is tolerated. Default: for ever.",
        ge=0,
        le=2**31 - 1,
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            "without a key, operator must be Exists",
        ),
        Cel(
            "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            "value belongs to operator Equal only",
        ),
        Cel(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds belongs to effect NoExecute only",
        ),
    )


class AcceleratorProfileSpec(Model):
    """One kind of accelerator and where pods find it."""

    resource: str = checked(
        Cel(
            "self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
            "must be an extended resource's name, such as nvidia.com/gpu",
        ),
        description="Extended resource that a pod asks for, one per GPU, such as nvidia.com/gpu.",
        max_length=317,
    )
    memoryGiB: int = Field(
        description="Memory of one accelerator, in GiB; the fit check compares with it.", ge=1, le=4096
    )
    hourlyUSD: USD | None = Field(
        None,
        description="Dollars for one accelerator and hour, as a quoted decimal; prices an expert that names no token prices. Default: unknown.",
    )
    capacity: Capacity | None = Field(
        None,
        description="How many accelerators scaled Experts may count on: Nodes is what the pool's nodes have now, Unbounded a pool that grows with its pods, also from no node; or a number. Default: Nodes.",
    )
    nodeSelector: Labels | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description="Node labels that select this pool. Default: any node that has the resource.",
        max_length=32,
    )
    tolerations: list[Toleration] | None = Field(None, description="Tolerations for this pool's taints.", max_length=32)
    runtimeClassName: SecretName | None = Field(
        None, description="RuntimeClass of pods on this pool. Default: the cluster's."
    )
