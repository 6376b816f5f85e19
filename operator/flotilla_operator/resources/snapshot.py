"""The RoutingSnapshot of a policy: every default resolved, every target that exists, every replica that answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flotilla_api.expert import DEFAULT_APIS, Capabilities
from flotilla_api.fallback import DEFAULT_EXTERNAL_APIS
from flotilla_api.policy import DEFAULT_MODELS, RoutingPolicySpec
from flotilla_api.snapshot import SCHEMA_VERSION, ExternalTarget, RequestEdits, RoutingSnapshot, Target

from .credentials import credentials_folder
from .engine import engine_address
from .gateway import gateway_url
from .manifest import Manifest, ObjectRef
from .pods import is_live, is_ready, make_endpoints, starts_first
from .pricing import served_price, token_price
from .routes import make_cold_start, make_route, make_rules, make_timeouts, max_body_bytes
from .sidecar import allows_sidecars
from .specs import (
    ExternalModel,
    InvalidSpecError,
    Served,
    find_profile,
    parse_model,
    policy_experts,
    policy_fallbacks,
)
from .strategies import make_canary, make_request_log, make_shadow, make_strategy

References = Mapping[ObjectRef, Manifest | None]
ReferencePods = Mapping[ObjectRef, Sequence[Manifest]]


def make_snapshot(
    policy: Manifest, spec: RoutingPolicySpec, references: References, reference_pods: ReferencePods
) -> RoutingSnapshot:
    """What the routers of `policy` need; the same whatever order the inputs are in."""
    metadata = policy["metadata"]
    targets = make_targets(metadata["namespace"], spec, references, reference_pods)
    known = {(target.kind, target.name) for target in targets}
    return RoutingSnapshot(
        schemaVersion=SCHEMA_VERSION,
        namespace=metadata["namespace"],
        policy=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        models=tuple(spec.models or DEFAULT_MODELS),
        pinnable=tuple(sorted(name for name in spec.pinnable or () if ("Fallback", name) in known)),
        targets=targets,
        route=make_route(spec, None, known),
        rules=make_rules(spec, known),
        timeouts=make_timeouts(spec.timeouts),
        coldStart=make_cold_start(spec.coldStart),
        maxBodyBytes=max_body_bytes(spec),
        anonymous=spec.auth.apiKeysSecretRef is None,
        gateway=gateway_url(policy, spec),
        sidecars=allows_sidecars(spec),
        strategy=make_strategy(spec.strategy),
        shadow=make_shadow(spec),
        canary=make_canary(spec),
        requestLog=make_request_log(spec.requestLog),
    )


def make_targets(
    namespace: str, spec: RoutingPolicySpec, references: References, reference_pods: ReferencePods
) -> tuple[Target, ...]:
    """Every model that the policy or a rule names, that exists and whose spec parses; sorted by kind and name."""
    found = models_of(namespace, spec, references)
    return tuple(_make_target(ref, model, references, reference_pods) for ref, model in found)


def models_of(
    namespace: str, spec: RoutingPolicySpec, references: References
) -> Iterator[tuple[ObjectRef, Served | ExternalModel]]:
    """The models of a policy that exist, sorted by kind and name."""
    wanted = [ObjectRef("Expert", namespace, name) for name in policy_experts(spec)]
    wanted += [ObjectRef("Fallback", namespace, name) for name in policy_fallbacks(spec)]
    for ref in wanted:
        manifest = references.get(ref)
        if manifest is None:
            continue
        try:
            yield ref, parse_model(manifest)
        except InvalidSpecError:
            continue


def _make_target(
    ref: ObjectRef, model: Served | ExternalModel, references: References, reference_pods: ReferencePods
) -> Target:
    if isinstance(model, ExternalModel):
        return _external_target(model)
    return _served_target(ref, model, references, reference_pods.get(ref, ()))


def _served_target(ref: ObjectRef, served: Served, references: References, pods: Sequence[Manifest]) -> Target:
    capabilities = served.spec.capabilities or Capabilities.model_validate({})
    engine_length = served.spec.engine.maxModelLen if served.spec.engine else None
    return Target(
        kind="Expert" if ref.kind == "Expert" else "Fallback",
        name=ref.name,
        location="Local",
        model=served.name,
        endpoints=make_endpoints(pods),
        service=engine_address(served.owner),
        apis=tuple(sorted(capabilities.apis or DEFAULT_APIS)),
        tools=bool(capabilities.tools),
        jsonSchema=capabilities.jsonSchema is not False,
        maxContextTokens=capabilities.maxContextTokens or engine_length,
        price=served_price(served, find_profile(served, references)),
        wakes=served.wakes and _is_sound(pods),
    )


def _is_sound(pods: Sequence[Manifest]) -> bool:
    """Whether a model without a replica that answers is at zero, asleep, or on its first way up, and has not failed."""
    live = [pod for pod in pods if is_live(pod)]
    return any(map(is_ready, live)) or all(map(starts_first, live))


def _external_target(model: ExternalModel) -> Target:
    external, request = model.spec, model.spec.request
    edits = RequestEdits(
        drop=tuple((request and request.drop) or ()),
        rename=dict(sorted(((request and request.rename) or {}).items())),
        set=dict(sorted(((request and request.set) or {}).items())),
    )
    return Target(
        kind="Fallback",
        name=model.name,
        location=external.boundary or "External",
        model=external.model,
        external=ExternalTarget(
            url=external.url.rstrip("/"),
            credentials=credentials_folder(model.name, external),
            hasCredentials=external.credentialsSecretRef is not None,
            hasCa=external.tls is not None,
            edits=edits,
        ),
        apis=tuple(sorted(external.apis or DEFAULT_EXTERNAL_APIS)),
        tools=True,
        jsonSchema=True,
        price=token_price(model.cost) if model.cost else None,
        logprobs=False,
    )
