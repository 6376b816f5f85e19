"""Whose token it is: ServiceAccount tokens of one audience, as the API server vouches for them."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from flotilla_operator.ports import Clock
from flotilla_operator.reconcile.types import Manifest

from .client import Client
from .kinds import TOKEN_REVIEW

ALLOWED_SECONDS = 60.0
DENIED_SECONDS = 5.0
"""Short, so that a permission granted a moment late is noticed; long enough to bound what a wrong token costs."""
CALLERS_MAX = 16_384
"""More than the routers of a fleet: one that is driven out is reviewed at each of its polls."""
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
    """An authenticated ServiceAccount, and its pod where the token is bound to one."""

    username: str
    namespace: str
    """Of its ServiceAccount."""
    pod: str
    """''; as `pod_uid`, where the token is bound to none."""
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


class TokenReviews:
    """Finds whose tokens of `audience` they are, which must be bound to pods unless `bound` is False; answers are
    cached."""

    def __init__(self, client: Client, clock: Clock, audience: str, *, bound: bool = True) -> None:
        self._client = client
        self._audience = audience
        self._bound = bound
        self._callers: ExpiringCache[Caller] = ExpiringCache(clock.monotonic, CALLERS_MAX)
        self._denials: ExpiringCache[Denied] = ExpiringCache(clock.monotonic, DENIALS_MAX)
        self._reviews = asyncio.Semaphore(REVIEWS_AT_A_TIME)

    async def caller(self, token: str) -> Caller | Denied:
        """Who holds `token`, or a 401.

        Raises:
            OperatorError: the API server cannot say now.
        """
        if not token or not token.isascii() or len(token) > TOKEN_MAX_CHARACTERS:
            return Denied(401, f"show a ServiceAccount token with audience {self._audience}")
        name = hashlib.sha256(token.encode()).digest()
        known = self._callers.get(name) or self._denials.get(name)
        if known is not None:
            return known
        caller = await self._review(token)
        if isinstance(caller, Denied):
            return self._denials.put(name, caller, DENIED_SECONDS)
        return self._callers.put(name, caller, ALLOWED_SECONDS)

    async def _review(self, token: str) -> Caller | Denied:
        review: Manifest = {
            "apiVersion": TOKEN_REVIEW.api_version,
            "kind": TOKEN_REVIEW.kind,
            "spec": {"token": token, "audiences": [self._audience]},
        }
        async with self._reviews:
            answer = await self._client.create(TOKEN_REVIEW, "", review, counted=False)
        status: Manifest = answer.get("status") or {}
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or ()):
            return Denied(401, f"the token is not valid for audience {self._audience}")
        return _caller(status["user"], bound=self._bound)


def account_name(namespace: str, account: str) -> str:
    """A ServiceAccount's name as a user."""
    return f"{_SERVICE_ACCOUNT}{namespace}:{account}"


def _caller(user: Manifest, *, bound: bool) -> Caller | Denied:
    username: str = user.get("username", "")
    extra = cast("dict[str, list[str]]", user.get("extra") or {})
    pod, pod_uid = (next(iter(extra.get(key, ())), "") for key in (_POD_NAME, _POD_UID))
    if not username.startswith(_SERVICE_ACCOUNT):
        return Denied(401, "the token is no ServiceAccount's")
    if bound and not (pod and pod_uid):
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
