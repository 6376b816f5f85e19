"""What answers in an Expert's place: the first Fallback of each route of a policy that it may go to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import Route
from flotilla_operator.resources.pricing import served_price, token_price
from flotilla_operator.resources.routes import make_route
from flotilla_operator.resources.snapshot import models_of
from flotilla_operator.resources.specs import ExternalModel, Served, find_profile
from flotilla_operator.scaling.fleet import NamespacedName
from flotilla_operator.scaling.targets import Replacement

from .types import Manifest, ObjectRef

Models = Mapping[tuple[str, str], Served | ExternalModel]
"""By kind and name."""


def replacements(
    namespace: str, spec: RoutingPolicySpec, references: Mapping[ObjectRef, Manifest | None]
) -> Mapping[str, frozenset[Replacement]]:
    """By Expert that the policy or a rule names; none where no Fallback may answer for it.

    `references` is what `dispatch.resolve_references` returns for the policy.
    """
    models: Models = {(ref.kind, ref.name): model for ref, model in models_of(namespace, spec, references)}
    routes = [make_route(spec, rule, models) for rule in (None, *(spec.rules or ()))]
    found: defaultdict[str, set[Replacement]] = defaultdict(set)
    for route in routes:
        first = _first_fallback(route, models)
        for expert in route.experts:
            found[expert.name].update([_replacement(models["Fallback", first], references)] if first else ())
    return {name: frozenset(each) for name, each in found.items()}


def _first_fallback(route: Route, models: Models) -> str | None:
    return next((name for name in route.fallbacks if _may_answer(route, models["Fallback", name])), None)


def _may_answer(route: Route, model: Served | ExternalModel) -> bool:
    outside = isinstance(model, ExternalModel) and (model.spec.boundary or "External") == "External"
    return route.boundary == "Any" or not outside


def _replacement(model: Served | ExternalModel, references: Mapping[ObjectRef, Manifest | None]) -> Replacement:
    namespace = model.owner["metadata"]["namespace"]
    if isinstance(model, Served):
        price = served_price(model, find_profile(model, references))
    else:
        price = token_price(model.cost) if model.cost else None
    return Replacement(NamespacedName(namespace, model.name), price)
