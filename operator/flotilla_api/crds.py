"""Models -> CustomResourceDefinitions: structural schemas with CEL rules, printer columns and no defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from . import accelerator, expert, fallback, policy, status
from .meta import CLUSTER_NAME_RULES, GROUP, NAME_RULES, VERSION, Cel, Model

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column; priority 0 is always shown, 1 with `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API."""

    name: str
    plural: str
    short_name: str
    spec: type[Model]
    status: type[Model] | None
    columns: tuple[Column, ...]
    namespaced: bool = True
    scale: Schema | None = None

    @property
    def crd_name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_READY = Column("Ready", _condition("Ready", "status"))
_REASON = Column("Reason", _condition("Ready", "reason"))
_AGE = Column("Age", ".metadata.creationTimestamp", "date")

KINDS: tuple[Kind, ...] = (
    Kind(
        "Expert",
        "experts",
        "xp",
        expert.ExpertSpec,
        status.ExpertStatus,
        (
            Column("Model", ".spec.model.uri"),
            _READY,
            Column("Replicas", ".status.readyReplicas", "integer"),
            _REASON,
            _AGE,
            Column("Profile", ".spec.accelerator.profile", priority=1),
            Column("Endpoint", ".status.endpoint", priority=1),
            Column("Cost/h", ".status.costPerHourUSD", priority=1),
            Column("Recommended", ".status.scaling.recommended", "integer", priority=1),
        ),
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Kind(
        "Fallback",
        "fallbacks",
        "fb",
        fallback.FallbackSpec,
        status.FallbackStatus,
        (
            Column("Model", ".status.model"),
            _READY,
            Column("Replicas", ".status.readyReplicas", "integer"),
            _REASON,
            _AGE,
            Column("Endpoint", ".status.endpoint", priority=1),
            Column("Cost/h", ".status.costPerHourUSD", priority=1),
        ),
    ),
    Kind(
        "RoutingPolicy",
        "routingpolicies",
        "rp",
        policy.RoutingPolicySpec,
        status.RoutingPolicyStatus,
        (
            _READY,
            Column("Experts", ".status.experts"),
            Column("Fallbacks", ".status.fallbacks"),
            _REASON,
            _AGE,
            Column("Endpoint", ".status.endpoint", priority=1),
            Column("Routers", ".status.routers", priority=1),
            Column("Sidecars", ".status.sidecars", priority=1),
            Column("Strategy", ".spec.strategy.type", priority=1),
        ),
    ),
    Kind(
        "AcceleratorProfile",
        "acceleratorprofiles",
        "accel",
        accelerator.AcceleratorProfileSpec,
        None,
        (
            Column("Resource", ".spec.resource"),
            Column("Memory-GiB", ".spec.memoryGiB", "integer"),
            Column("$/h", ".spec.hourlyUSD"),
            _AGE,
        ),
        namespaced=False,
    ),
)

KINDS_BY_NAME = {kind.name: kind for kind in KINDS}


def make_crds() -> dict[str, Schema]:
    """File name -> CustomResourceDefinition, for every kind."""
    return {f"{GROUP}_{kind.plural}.yaml": make_crd(kind) for kind in KINDS}


def make_crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of `kind`, as `kubectl apply` takes it."""
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": _root_schema(kind)},
    }
    if kind.status:
        version["subresources"] = {"status": {}} | ({"scale": kind.scale} if kind.scale else {})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name, "labels": {"app.kubernetes.io/name": "flotilla"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["flotilla"],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [version],
        },
    }


def _column(column: Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return shown | ({"priority": column.priority} if column.priority else {})


def _root_schema(kind: Kind) -> Schema:
    properties: Schema = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    properties["spec"] = structural(kind.spec)
    if kind.status:
        properties["status"] = structural(kind.status)
    return {
        "type": "object",
        "description": (kind.spec.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": properties,
        "x-kubernetes-validations": _rules(NAME_RULES if kind.namespaced else CLUSTER_NAME_RULES),
    }


def structural(model: type[Model]) -> Schema:
    """The structural schema of a model: references inlined, nullability and defaults dropped, CEL rules attached."""
    raw = model.model_json_schema(by_alias=True)
    definitions: Schema = raw.pop("$defs", {})
    rules = {found.__name__: found.cel for found in _models_within(model)}
    return _simplify(raw, definitions, rules)


def _models_within(model: type[Model]) -> set[type[Model]]:
    found: set[type[Model]] = {model}
    waiting: list[type[Model]] = [model]
    while waiting:
        for field in waiting.pop().model_fields.values():
            for inner in _models_of(field):
                if inner not in found:
                    found.add(inner)
                    waiting.append(inner)
    return found


def _models_of(field: FieldInfo) -> list[type[Model]]:
    found: list[type[Model]] = []
    waiting: list[object] = [field.annotation]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, Model):
            found.append(annotation)
        waiting.extend(get_args(annotation))
    return found


def _simplify(node: Schema, definitions: Schema, rules: dict[str, tuple[Cel, ...]]) -> Schema:
    """One node of pydantic's JSON schema as a structural schema node."""
    if reference := node.get("$ref"):
        return _simplify(
            definitions[reference.rsplit("/", 1)[1]] | {k: v for k, v in node.items() if k != "$ref"},
            definitions,
            rules,
        )
    if "anyOf" in node:
        (branch,) = (option for option in node["anyOf"] if option != {"type": "null"})
        return _merge(
            _simplify(branch, definitions, rules),
            _simplify({k: v for k, v in node.items() if k != "anyOf"}, definitions, rules),
        )
    out = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in out:
        out = {"type": "string", "enum": [out.pop("const")]} | out
    if "properties" in node:
        out["properties"] = {name: _simplify(inner, definitions, rules) for name, inner in node["properties"].items()}
    if isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _simplify(node["additionalProperties"], definitions, rules)
    if "items" in node:
        out["items"] = _simplify(node["items"], definitions, rules)
    out.pop("propertyNames", None)
    if own := rules.get(node.get("title", "")):
        return _merge(out, {"x-kubernetes-validations": _rules(own)})
    return out


_DROPPED = frozenset({"title", "default", "additionalProperties", "properties", "items"})


def _merge(base: Schema, more: Schema) -> Schema:
    """Both nodes' keys; rules of both are kept."""
    merged = base | more
    rules = base.get("x-kubernetes-validations", []) + more.get("x-kubernetes-validations", [])
    return merged | ({"x-kubernetes-validations": rules} if rules else {})


def _rules(rules: tuple[Cel, ...]) -> list[Schema]:
    return [{"rule": rule.rule, "message": rule.message} for rule in rules]
