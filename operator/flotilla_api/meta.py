"""What every kind shares: the API group, keys, the pydantic base and the scalars with units.

A scalar is a string in YAML with a check that the API server runs (CEL) and a parser that returns plain numbers. Models
accept what the API server accepted; they never fill in defaults, because a stored default is drift in Git.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

GROUP = "flotilla.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True, slots=True)
class Cel:
    """One `x-kubernetes-validations` entry: the rule over `self` and the sentence that a person reads."""

    rule: str
    message: str


class Model(BaseModel):
    """Base of every schema model: camelCase as in YAML, frozen, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    cel: ClassVar[tuple[Cel, ...]] = ()
    """Rules over the whole object, written into the CRD."""


def checked(*rules: Cel, extra: JsonDict | None = None, **keywords: Any) -> Any:
    """A `Field` whose CRD property carries `rules`, and the keys of `extra`."""
    validations: JsonDict = {"x-kubernetes-validations": [{"rule": c.rule, "message": c.message} for c in rules]}
    return Field(json_schema_extra=validations | (extra or {}), **keywords)


AS_SET: JsonDict = {"x-kubernetes-list-type": "set"}
"""A list without duplicates."""
PRESERVED: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
"""Any JSON value; the API server neither checks nor prunes what is inside."""


def as_map_by(key: str) -> JsonDict:
    """A list of objects in which `key` is unique."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def keys_at_most(limit: int) -> Cel:
    """A rule for maps, whose keys no schema can bound: 1 to `limit` characters."""
    return Cel(f"self.all(key, size(key) > 0 && size(key) <= {limit})", f"keys must have 1 to {limit} characters")


_DURATION = re.compile(r"^([0-9]+)(ms|s|m|h)$")
_DURATION_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES = re.compile(r"^([0-9]+)(Ki|Mi|Gi)?$")
_BYTES_FACTOR = {None: 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
_WEIGHTS = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([MBT])$")
_WEIGHTS_FACTOR = {"M": 10**6, "B": 10**9, "T": 10**12}

# At most two digits more than 24h needs in each unit: CEL's duration() fails on what Go cannot count in nanoseconds.
_CEL_DURATION_PATTERN = "^([0-9]{1,8}ms|[0-9]{1,5}s|[0-9]{1,4}m|[0-9]{1,2}h)$"


def cel_is_duration(field: str) -> str:
    """A CEL expression: it is a whole number with a unit, at most 24h."""
    return f"{field}.matches('{_CEL_DURATION_PATTERN}') && duration({field}) <= duration('24h')"


Duration = Annotated[
    str,
    checked(
        Cel(
            cel_is_duration("self"),
            "must be a whole number with a unit, at most 24h, such as 500ms, 15s, 5m or 2h",
        ),
        max_length=10,
    ),
]
"""A length of time up to 24 hours: a whole number and one unit of ms, s, m, h."""

PositiveDuration = Annotated[
    str,
    checked(
        Cel(
            cel_is_duration("self") + " && duration(self) > duration('0s')",
            "must be a whole number with a unit, above zero and at most 24h, such as 500ms, 15s, 5m or 2h",
        ),
        max_length=10,
    ),
]
"""A `Duration` above zero."""

USD = Annotated[
    str,
    checked(
        Cel("self.matches('^[0-9]{1,9}([.][0-9]{1,9})?$')", 'must be dollars as a quoted decimal, such as "0.80"'),
        max_length=19,
    ),
]
"""An amount of US dollars as a decimal string."""

_RATIO_PATTERN = "^(0([.][0-9]{1,9})?|1([.]0{1,9})?)$"


def cel_is_ratio(field: str) -> str:
    """A CEL expression: it is a decimal from 0 to 1."""
    return f"{field}.matches('{_RATIO_PATTERN}')"


Ratio = Annotated[
    str,
    checked(
        Cel(cel_is_ratio("self"), 'must be a quoted decimal from 0 to 1, such as "0.55"'),
        max_length=11,
    ),
]
"""A share between 0 and 1 as a decimal string."""

ByteSize = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[1-9][0-9]{0,9}(Ki|Mi|Gi)?$') && quantity(self).compareTo(quantity('1Gi')) <= 0",
            'must be a whole number of bytes above zero and at most 1Gi, quoted, such as "65536", 64Ki or 8Mi',
        ),
        max_length=10,
    ),
]
"""A number of bytes as a string, with an optional binary unit Ki, Mi or Gi; at most 1Gi."""

_HOST_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HOST_PATTERN = f"{_HOST_LABEL}([.]{_HOST_LABEL})*(:{_HOST_PORT})?"
"""A host's name or IPv4 address, with an optional port."""

Url = Annotated[
    str,
    checked(
        Cel(
            f"self.matches('^https?://{HOST_PATTERN}(/[A-Za-z0-9._~/-]*)?$')",
            "must be an http(s) URL with a host, an optional port from 1 to 65535 and an optional path, "
            "such as https://api.example.com/v1",
        ),
        max_length=512,
    ),
]
"""Where a router calls. What it could not use would cost the policy its whole snapshot, so nothing of that kind is let in."""

HeaderName = Annotated[
    str,
    checked(
        Cel("self.matches('^[A-Za-z0-9-]+$')", "must be a header's name: letters, digits and '-'"),
        max_length=64,
    ),
]
"""The name of a request header."""

Quantity = Annotated[
    str,
    checked(
        Cel("isQuantity(self)", 'must be a quantity, quoted where it is a bare number, such as "4", 500m or 16Gi'),
        max_length=32,
    ),
]
"""A Kubernetes quantity."""

WeightCount = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[0-9]{1,6}([.][0-9]{1,3})?[MBT]$') && !self.matches('^[0.]*[MBT]$')",
            "must be a count of weights above zero, such as 500M, 1.5B or 1T",
        ),
        max_length=11,
    ),
]
"""How many weights a model has: a decimal and one of M (million), B (billion), T (trillion)."""

Name = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')", "must be a DNS label: lower-case letters, digits and '-'"
        ),
        max_length=63,
    ),
]
"""The name of one of our objects in the same namespace (profiles are cluster-scoped)."""

SecretName = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "must be an object's name: lower-case letters, digits, '-' and '.'",
        ),
        max_length=253,
    ),
]
"""The name of a Secret, PersistentVolumeClaim, RuntimeClass or another of Kubernetes' own objects."""

DataKey = Annotated[
    str,
    checked(
        Cel("self.matches('^[-._a-zA-Z0-9]+$')", "must be a key: letters, digits, '-', '_' and '.'"),
        max_length=253,
    ),
]
"""A key of a Secret's or ConfigMap's data."""

_DNS_LABEL = "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
_DNS_LABEL_MESSAGE = (
    "metadata.name must be a DNS label: it begins with a letter, then lower-case letters, digits and '-'"
)

NAME_RULES = (
    Cel(_DNS_LABEL, _DNS_LABEL_MESSAGE),
    Cel(
        "size(self.metadata.name) <= 50",
        "metadata.name must be at most 50 characters, so that the names of its Deployment and Service fit",
    ),
)
"""Rules at the root of every namespaced kind."""

CLUSTER_NAME_RULES = (
    Cel(_DNS_LABEL, _DNS_LABEL_MESSAGE),
    Cel("size(self.metadata.name) <= 63", "metadata.name must be at most 63 characters"),
)
"""Rules at the root of every cluster-scoped kind, which has no children."""


class SecretKeyRef(Model):
    """One entry of a Secret in the same namespace."""

    name: SecretName = Field(description="Name of the Secret.")
    key: DataKey = Field(description="Key within the Secret's data.")


class SecretRef(Model):
    """A whole Secret in the same namespace."""

    name: SecretName = Field(description="Name of the Secret.")


def parse_duration_seconds(text: str) -> float:
    """Seconds of a `Duration`.

    Raises:
        ValueError: not a whole number followed by ms, s, m or h.
    """
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 15s, 5m or 2h")
    return float(int(match[1]) * _DURATION_SECONDS[match[2]])


def parse_bytes(text: str) -> int:
    """Bytes of a `ByteSize`.

    Raises:
        ValueError: not a whole number with an optional Ki, Mi or Gi.
    """
    match = _BYTES.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 65536, 64Ki or 8Mi")
    return int(match[1]) * _BYTES_FACTOR[match[2]]


def parse_weight_count(text: str) -> int:
    """The number of weights of a `WeightCount`.

    Raises:
        ValueError: not a decimal followed by M, B or T.
    """
    match = _WEIGHTS.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a count of weights such as 500M or 1.5B")
    return int(Decimal(match[1]) * _WEIGHTS_FACTOR[match[2]])
