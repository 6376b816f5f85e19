"""The children of an Expert, and of a Fallback that is served in the cluster."""

from __future__ import annotations

import math

from flotilla_api import names
from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import DEFAULT_MAX_SURGE, DEFAULT_MAX_UNAVAILABLE, Rollout

from . import vllm
from .engine_template import ENGINE_PORT_NAME, make_engine_template, restart_hash, startup_seconds
from .manifest import Manifest, child_of, make_metadata, owner_selector
from .replicas import replicas_to_apply
from .settings import OperatorSettings
from .specs import Served
from .workload import make_budget, make_service, make_service_account

_DOWNLOAD_SECONDS = 1800
_SCHEDULING_SECONDS = 600
_NO_ROLLOUT = Rollout.model_validate({})


def make_engine(
    served: Served,
    profile: AcceleratorProfileSpec,
    settings: OperatorSettings,
    *,
    stored: Manifest | None,
    live: Manifest | None = None,
) -> tuple[Manifest, ...]:
    """All children in the order in which they are applied.

    `stored` is the live ControllerRevision called `revision_name(...)`: its template is used again as it is. `live` is
    the live Deployment, whose number of replicas may not be ours to say.
    """
    template = stored["data"] if stored else make_engine_template(served, profile, settings)
    return (
        make_service_account(served.owner),
        make_revision(served, profile, template),
        make_service(served.owner, port_name=ENGINE_PORT_NAME, port=names.ENGINE_PORT),
        make_deployment(served, profile, template, replicas=replicas_to_apply(served, live)),
        make_budget(served.owner),
    )


def revision_name(served: Served, profile: AcceleratorProfileSpec) -> str:
    """Name of the ControllerRevision for the spec as it is; its data can never change, so the hash is in the name."""
    return f"{child_of(served.owner)}-{restart_hash(served, profile)}"


def make_revision(served: Served, profile: AcceleratorProfileSpec, template: Manifest) -> Manifest:
    """The stored template."""
    annotations = {names.RESTART_HASH_ANNOTATION: restart_hash(served, profile)}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": make_metadata(served.owner, revision_name(served, profile), annotations),
        "data": template,
        "revision": 1,
    }


def make_deployment(
    served: Served, profile: AcceleratorProfileSpec, template: Manifest, *, replicas: int | None
) -> Manifest:
    """The Deployment that runs `template`. By default a replica ends before its successor starts: no GPU is spare.

    `replicas` None: somebody else says how many.
    """
    rollout = served.spec.rollout or _NO_ROLLOUT
    surge = DEFAULT_MAX_SURGE if rollout.maxSurge is None else rollout.maxSurge
    unavailable = DEFAULT_MAX_UNAVAILABLE if rollout.maxUnavailable is None else rollout.maxUnavailable
    annotations = {names.RESTART_HASH_ANNOTATION: restart_hash(served, profile)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": make_metadata(served.owner, child_of(served.owner), annotations),
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": _progress_deadline_seconds(served),
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
            },
            "selector": {"matchLabels": owner_selector(served.owner)},
            "template": template,
        },
    }


def engine_address(owner: Manifest) -> str:
    """host:port of the Service of a served model."""
    return f"{child_of(owner)}.{owner['metadata']['namespace']}.svc:{names.ENGINE_PORT}"


def _progress_deadline_seconds(served: Served) -> int:
    """Room for a node to appear, a download and one start."""
    download = _DOWNLOAD_SECONDS if vllm.claim_name(served.spec.model) is None else 0
    return math.ceil(startup_seconds(served.spec)) + download + _SCHEDULING_SECONDS
