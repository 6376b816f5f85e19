"""Learned routing in a snapshot: the strategy, what is tried beside it, and the request log; every default resolved."""

from __future__ import annotations

from flotilla_api import strategy as api
from flotilla_api.meta import parse_bytes
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import ArtifactSource, RequestLogConfig, StrategyConfig, TrialConfig


def make_strategy(strategy: api.Strategy | None) -> StrategyConfig | None:
    """The learned strategy; None: a draw by weight."""
    if strategy is None or strategy.type == "Static" or strategy.artifact is None:
        return None
    header = strategy.header
    return StrategyConfig(
        type=strategy.type,
        artifact=make_source(strategy.artifact),
        models=_sorted(strategy.models),
        threshold=_ratio(strategy.threshold),
        targetStrongRatio=_ratio(strategy.targetStrongRatio),
        alpha=_ratio(strategy.alpha),
        header=(float(header.min), float(header.max)) if header else None,
        exploreRatio=float(strategy.explore.ratio) if strategy.explore else 0.0,
    )


def make_shadow(spec: RoutingPolicySpec) -> TrialConfig | None:
    """What is scored beside the live choice."""
    shadow = spec.shadow
    if shadow is None:
        return None
    return TrialConfig(
        artifact=make_source(shadow.artifact), models=_trial_models(spec, shadow.models), percent=shadow.percent
    )


def make_canary(spec: RoutingPolicySpec) -> TrialConfig | None:
    """What decides for a share of the sessions; nothing without a learned strategy."""
    canary = spec.canary
    if canary is None or make_strategy(spec.strategy) is None:
        return None
    return TrialConfig(
        artifact=make_source(canary.artifact),
        models=_trial_models(spec, canary.models),
        percent=canary.percent,
        sessionHeaders=tuple(dict.fromkeys(name.lower() for name in canary.sessionHeaders or ())),
    )


def make_request_log(log: api.RequestLog | None) -> RequestLogConfig | None:
    """What gateways keep, in bytes."""
    if log is None:
        return None
    return RequestLogConfig(
        prompts=log.prompts or api.DEFAULT_LOGGED_PROMPTS,
        maxBytes=parse_bytes(log.maxBytes or api.DEFAULT_LOG_MAX_BYTES),
        readers=tuple(sorted(log.readers or ())),
    )


def named_artifacts(spec: RoutingPolicySpec) -> dict[str, api.ArtifactRef]:
    """The artifacts that a policy uses, by the field that names them."""
    strategy = spec.strategy if make_strategy(spec.strategy) else None
    fields = {"strategy": strategy, "shadow": spec.shadow, "canary": spec.canary if strategy else None}
    return {name: field.artifact for name, field in fields.items() if field and field.artifact}


def make_source(artifact: api.ArtifactRef) -> ArtifactSource:
    """Where a router gets it; what is in a ConfigMap it asks the control API for."""
    return ArtifactSource(digest=artifact.digest, file=artifact.file, url=artifact.url, oci=artifact.oci)


def _trial_models(spec: RoutingPolicySpec, models: dict[str, str] | None) -> dict[str, str]:
    return _sorted(models or (spec.strategy.models if spec.strategy else None))


def _sorted(models: dict[str, str] | None) -> dict[str, str]:
    return dict(sorted((models or {}).items()))


def _ratio(text: str | None) -> float | None:
    return None if text is None else float(text)
