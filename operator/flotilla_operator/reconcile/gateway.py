"""RoutingPolicies: which children they have."""

from __future__ import annotations

from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.gateway import GatewayInputs, make_gateway
from flotilla_operator.resources.snapshot import make_snapshot, models_of
from flotilla_operator.resources.specs import ExternalModel

from .types import Manifest, Observed


def desired_gateway(observed: Observed, spec: RoutingPolicySpec) -> tuple[Manifest, ...]:
    """The gateway's children; a reference that does not exist leaves a gap in the snapshot, never a missing gateway."""
    owner = observed.owner
    models = models_of(owner["metadata"]["namespace"], spec, observed.references)
    inputs = GatewayInputs(
        owner=owner,
        spec=spec,
        externals={model.name: model.spec for _, model in models if isinstance(model, ExternalModel)},
        snapshot=make_snapshot(owner, spec, observed.references, observed.reference_pods).to_json(),
        control_ca=observed.control_ca,
        settings=observed.settings,
    )
    return make_gateway(inputs)
