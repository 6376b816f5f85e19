"""Who may call the control API: routers, by a token that the API server vouches for and a permission that it grants."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from flotilla_api.meta import GROUP
from flotilla_api.names import CONTROL_AUDIENCE
from flotilla_operator.ports import Clock
from flotilla_operator.reconcile.types import Manifest

from .client import Client
from .kinds import ACCESS_REVIEW, TOKEN_REVIEW, Kind

ALLOWED_SECONDS = 60.0
DENIED_SECONDS = 5.0
"""Short, so that a permission granted a moment late is noticed; long enough to bound what a wrong token costs."""
CALLERS_MAX = 4096
DENIALS_MAX = 512
"""Kept apart, so that a flood of wrong tokens drives no right one out."""
TOKEN_MAX_CHARACTERS = 16_384
REVIEWS_AT_A_TIME = 8
"""So that a flood of wrong tokens leaves connections for reconciling."""

_SERVICE_ACCOUNT = "system:serviceaccount:"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated pod."""

    username: str
    namespace: str
    """Of its ServiceAccount."""
    pod: str
    pod_uid: str
    groups: tuple[str, ...]
    uid: str
    extra: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a call is refused."""

    status: int
    message: str


class ExpiringCache(Generic[Value]):
    """At most `limit` values, each forgotten after its own time; the least recently stored go first."""

    def __init__(self, now: Callable[[], float], limit: int) -> None:
        self._now = now
        self._limit = limit
        self._values: OrderedDict[object, tuple[float, Value]] = OrderedDict()

    def get(self, name: object) -> Value | None:
        """The value, or None when there is none or it is too old."""
        entry = self._values.get(name)
        return entry[1] if entry and self._now() < entry[0] else None

    def put(self, name: object, value: Value, seconds: float) -> Value:
        """`value`, which is kept for `seconds`."""
        self._values.pop(name, None)
        self._values[name] = (self._now() + seconds, value)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value


class Access:
    """Authenticates and authorises calls; answers are cached."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._callers: ExpiringCache[Caller] = ExpiringCache(clock.monotonic, CALLERS_MAX)
        self._denials: ExpiringCache[Denied] = ExpiringCache(clock.monotonic, DENIALS_MAX)
        self._permissions: ExpiringCache[bool] = ExpiringCache(clock.monotonic, CALLERS_MAX)
        self._reviews = asyncio.Semaphore(REVIEWS_AT_A_TIME)

    async def admit(self, authorization: str, namespace: str, policy: str) -> Caller | Denied:
        """The caller, when it is a pod of `namespace` that may get the snapshot of `policy`.

        Raises:
            OperatorError: the API server cannot say now.
        """
        caller = await self._authenticate(authorization)
        if isinstance(caller, Denied):
            return caller
        if caller.namespace != namespace or not await self._may_get(caller, namespace, policy):
            what = f"routingpolicies/snapshot {policy} in {namespace}"
            return Denied(403, f"{caller.username} may not get {what}")
        return caller

    async def _authenticate(self, authorization: str) -> Caller | Denied:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_MAX_CHARACTERS:
            return Denied(401, f"show a ServiceAccount token with audience {CONTROL_AUDIENCE} as a bearer token")
        name = hashlib.sha256(token.encode()).digest()
        known = self._callers.get(name) or self._denials.get(name)
        if known is not None:
            return known
        caller = await self._review_token(token)
        if isinstance(caller, Denied):
            return self._denials.put(name, caller, DENIED_SECONDS)
        return self._callers.put(name, caller, ALLOWED_SECONDS)

    async def _review_token(self, token: str) -> Caller | Denied:
        review: Manifest = {
            "apiVersion": TOKEN_REVIEW.api_version,
            "kind": TOKEN_REVIEW.kind,
            "spec": {"token": token, "audiences": [CONTROL_AUDIENCE]},
        }
        status = await self._review(TOKEN_REVIEW, review)
        if not status.get("authenticated") or CONTROL_AUDIENCE not in (status.get("audiences") or ()):
            return Denied(401, f"the token is not valid for audience {CONTROL_AUDIENCE}")
        return _caller(status["user"])

    async def _may_get(self, caller: Caller, namespace: str, policy: str) -> bool:
        name = (caller, namespace, policy)
        known = self._permissions.get(name)
        if known is not None:
            return known
        allowed = await self._review_access(caller, namespace, policy)
        return self._permissions.put(name, allowed, ALLOWED_SECONDS if allowed else DENIED_SECONDS)

    async def _review_access(self, caller: Caller, namespace: str, policy: str) -> bool:
        attributes = {
            "group": GROUP,
            "resource": "routingpolicies",
            "subresource": "snapshot",
            "verb": "get",
            "namespace": namespace,
            "name": policy,
        }
        spec: dict[str, Any] = {
            "user": caller.username,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": attributes,
        }
        review: Manifest = {"apiVersion": ACCESS_REVIEW.api_version, "kind": ACCESS_REVIEW.kind, "spec": spec}
        return (await self._review(ACCESS_REVIEW, review)).get("allowed") is True

    async def _review(self, kind: Kind, review: Manifest) -> Manifest:
        """The status that the API server gives to a review, which it does not keep."""
        async with self._reviews:
            answer = await self._client.create(kind, "", review, counted=False)
        return answer.get("status") or {}


def _caller(user: Manifest) -> Caller | Denied:
    username: str = user.get("username", "")
    extra = cast("dict[str, list[str]]", user.get("extra") or {})
    pod, pod_uid = (next(iter(extra.get(key, ())), "") for key in (_POD_NAME, _POD_UID))
    if not username.startswith(_SERVICE_ACCOUNT) or not pod_uid:
        return Denied(401, "the token is not bound to a pod")
    return Caller(
        username=username,
        namespace=username.removeprefix(_SERVICE_ACCOUNT).partition(":")[0],
        pod=pod,
        pod_uid=pod_uid,
        groups=tuple(user.get("groups") or ()),
        uid=user.get("uid", ""),
        extra=tuple(sorted((key, tuple(values)) for key, values in extra.items())),
    )
