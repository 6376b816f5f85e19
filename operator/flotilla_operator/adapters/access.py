"""Who may call the control API: gateways, by a permission that RBAC grants, and sidecars, by their pods' label."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flotilla_api.meta import GROUP
from flotilla_api.names import CONTROL_AUDIENCE, GATEWAY_AUDIENCE, POLICY_LABEL, child_name
from flotilla_operator.ports import Clock, NotFoundError
from flotilla_operator.reconcile.types import Key, Manifest
from flotilla_operator.resources.sidecar import wanted_policy

from .client import Client
from .kinds import ACCESS_REVIEW, AGENT_POD
from .tokens import (
    ALLOWED_SECONDS,
    CALLERS_MAX,
    DENIED_SECONDS,
    REVIEWS_AT_A_TIME,
    Caller,
    Denied,
    ExpiringCache,
    TokenReviews,
    account_name,
)


@dataclass(frozen=True, slots=True)
class Admission:
    """A router that may have a policy's snapshot."""

    caller: Caller
    sidecar: bool
    """Whether its pod's label admits it; otherwise RBAC does."""


class Access:
    """Authenticates and authorises calls; answers are cached.

    Every method raises OperatorError while the API server cannot say.
    """

    def __init__(self, client: Client, clock: Clock, *, allows_sidecars: Callable[[Key], bool]) -> None:
        self._client = client
        self._allows_sidecars = allows_sidecars
        self._routers = TokenReviews(client, clock, CONTROL_AUDIENCE)
        self._relayed = TokenReviews(client, clock, GATEWAY_AUDIENCE)
        self._autoscalers = TokenReviews(client, clock, CONTROL_AUDIENCE, bound=False)
        self._permissions: ExpiringCache[bool] = ExpiringCache(clock.monotonic, CALLERS_MAX)
        self._labels: ExpiringCache[str] = ExpiringCache(clock.monotonic, CALLERS_MAX)
        """What `_labelled_policy` found; '' where it found none."""
        self._reads = asyncio.Semaphore(REVIEWS_AT_A_TIME)

    async def admit(self, authorization: str, namespace: str, policy: str) -> Admission | Denied:
        """The caller, when it is a pod of `namespace` that may get the snapshot of `policy`."""
        caller = await self._authenticate(authorization, self._routers)
        if isinstance(caller, Denied):
            return caller
        if caller.namespace != namespace:
            return _forbidden(caller, namespace, policy)
        key = Key("RoutingPolicy", namespace, policy)
        is_gateway = caller.username == account_name(namespace, child_name(key.kind, policy))
        labelled = not is_gateway and await self._labelled_policy(caller) == policy
        if labelled and self._allows_sidecars(key):
            return Admission(caller, sidecar=True)
        if await self._may_get_snapshot(caller, namespace, policy):
            return Admission(caller, sidecar=False)
        return _disabled(key) if labelled else _forbidden(caller, namespace, policy)

    async def admit_gateway(self, authorization: str, namespace: str, policy: str) -> Caller | Denied:
        """The caller, when RBAC grants it the snapshot of `policy`; a label is not enough for what gateways may ask."""
        caller = await self._authenticate(authorization, self._routers)
        if isinstance(caller, Denied):
            return caller
        if caller.namespace == namespace and await self._may_get_snapshot(caller, namespace, policy):
            return caller
        return _forbidden(caller, namespace, policy)

    async def admit_autoscaler(self, authorization: str, namespace: str, expert: str) -> Caller | Denied:
        """The caller, when RBAC grants it the recommendation for `expert`; it may be of any namespace, and no pod."""
        caller = await self._authenticate(authorization, self._autoscalers)
        if isinstance(caller, Denied):
            return caller
        if await self._may_get(caller, namespace, "experts", "recommendation", expert):
            return caller
        refused = f"RBAC does not let {caller.username} get experts/recommendation {expert} in {namespace}"
        return Denied(403, refused)

    async def review(self, token: str, namespace: str, policy: str) -> Caller | Denied:
        """The pod that showed `token` to a gateway of `policy`, when it is labelled for it; otherwise a 403."""
        key = Key("RoutingPolicy", namespace, policy)
        if not self._allows_sidecars(key):
            return _disabled(key)
        caller = await self._relayed.caller(token)
        if isinstance(caller, Denied):
            return Denied(403, caller.message)
        if caller.namespace == namespace and await self._labelled_policy(caller) == policy:
            return caller
        return Denied(403, f"pod {caller.pod} in {caller.namespace} is not labelled for policy {policy} in {namespace}")

    async def _authenticate(self, authorization: str, reviews: TokenReviews) -> Caller | Denied:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Denied(401, f"show a ServiceAccount token with audience {CONTROL_AUDIENCE} as a bearer token")
        return await reviews.caller(token.strip())

    async def _labelled_policy(self, caller: Caller) -> str:
        """The policy that the caller's live pod names; '': it names none, is gone, is another by now, or is a child."""
        name = (caller.namespace, caller.pod, caller.pod_uid)
        known = self._labels.get(name)
        if known is not None:
            return known
        policy = await self._read_label(caller)
        return self._labels.put(name, policy, ALLOWED_SECONDS if policy else DENIED_SECONDS)

    async def _read_label(self, caller: Caller) -> str:
        try:
            async with self._reads:
                metadata = await self._client.get_metadata(AGENT_POD, caller.namespace, caller.pod)
        except NotFoundError:
            return ""
        return (metadata["uid"] == caller.pod_uid and wanted_policy({"metadata": metadata})) or ""

    async def _may_get_snapshot(self, caller: Caller, namespace: str, policy: str) -> bool:
        return await self._may_get(caller, namespace, "routingpolicies", "snapshot", policy)

    async def _may_get(self, caller: Caller, namespace: str, resource: str, subresource: str, name: str) -> bool:
        asked = (caller, namespace, resource, subresource, name)
        known = self._permissions.get(asked)
        if known is not None:
            return known
        attributes = {
            "group": GROUP,
            "resource": resource,
            "subresource": subresource,
            "verb": "get",
            "namespace": namespace,
            "name": name,
        }
        allowed = await self._review_access(caller, attributes)
        return self._permissions.put(asked, allowed, ALLOWED_SECONDS if allowed else DENIED_SECONDS)

    async def _review_access(self, caller: Caller, attributes: dict[str, str]) -> bool:
        spec: dict[str, Any] = {
            "user": caller.username,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": attributes,
        }
        review: Manifest = {"apiVersion": ACCESS_REVIEW.api_version, "kind": ACCESS_REVIEW.kind, "spec": spec}
        async with self._reads:
            answer = await self._client.create(ACCESS_REVIEW, "", review, counted=False)
        status: Manifest = answer.get("status") or {}
        return status.get("allowed") is True


def _disabled(key: Key) -> Denied:
    return Denied(403, f"{key} says placement.sidecar.enabled: false, so no label opens anything of it")


def _forbidden(caller: Caller, namespace: str, policy: str) -> Denied:
    return Denied(
        403,
        f"neither RBAC nor the label {POLICY_LABEL} of pod {caller.pod} lets {caller.username} get "
        f"routingpolicies/snapshot {policy} in {namespace}",
    )
