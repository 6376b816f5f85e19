"""Who may ask: holders of API keys, and at a gateway the policy's own sidecars, by the tokens of their pods.

A sidecar's request has the header `x-flotilla-relay: POLICY`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, assert_never

from flotilla_api import names

from .credentials import ApiKeys, bearer_token
from .errors import quote
from .incoming import Incoming, Problem
from .reviews import Reviews
from .settings import Role
from .verdicts import Admitted, Refused, Unavailable, Verdict

RELAY_HEADER = names.RELAY_HEADER.encode()
_BEARER_LINE = b"www-authenticate: Bearer\r\n"


class Waiting:
    """A request whose body is there before what it takes to serve it. Implements serving.Running."""

    def __init__(self, missing: asyncio.Future[Any], serve: Callable[[], None]) -> None:
        """serve: serves the request, if its client is still there."""
        self._serve = serve
        missing.add_done_callback(self._go_on)

    def client_gone(self) -> None:
        """Nothing has been begun."""

    def pause(self) -> None:
        """Nothing is being sent."""

    def resume(self) -> None:
        """Nothing is being sent."""

    def _go_on(self, _missing: asyncio.Future[Any]) -> None:
        self._serve()


class Access:
    """Decides on each request by its headers; a verdict on a sidecar's token may come later."""

    def __init__(self, role: Role, policy: str, keys: ApiKeys, reviews: Reviews | None) -> None:
        self._role = role
        self._policy = policy.encode()
        self._keys = keys
        self._reviews = reviews
        """None: there is no control API that could say whose a token is."""

    def admit(self, incoming: Incoming) -> Problem | None:
        """Why a client may not pass, by its API key; only its own pod reaches a sidecar, which asks for none."""
        if self._role == "Sidecar":
            return None
        key = bearer_token(incoming.headers.get(b"authorization", b""))
        incoming.client = self._keys.client_of(key) if key else None
        if incoming.client is not None:
            return None
        message = "Incorrect API key provided." if key else "No API key provided: send it as a bearer token."
        return Problem(status=401, message=message, code="invalid_api_key", headers=_BEARER_LINE)

    def admit_relay(self, incoming: Incoming, peer: str, *, here: bool, allowed: bool) -> Problem | None:
        """Why a sidecar may not pass, as far as it is known; the review goes on in `incoming.review`.

        peer: the address that it asks from. here: whether sidecars ask for anything at this path. allowed: whether the
        policy has any.
        """
        if self._role == "Sidecar":
            return _refused("a sidecar passes on requests of its own pod only")
        if not here:
            return _refused("a sidecar may ask for completions only")
        if incoming.headers[RELAY_HEADER] != self._policy:
            return _refused("this is the gateway of another policy")
        if not allowed:
            message = "the policy allows no sidecars: make the pod anew, without one"
            return Problem(status=403, message=message, code="sidecars_disabled")
        if self._reviews is None:
            return _unavailable("this gateway has no control API (FLOTILLA_CONTROL_URL) to ask about the token")
        token = bearer_token(incoming.headers.get(b"authorization", b""))
        review = incoming.review = self._reviews.of(token, peer)
        return judge(review.result(), incoming) if review.done() else None


def judge(verdict: Verdict, incoming: Incoming) -> Problem | None:
    """Why a sidecar may not pass; None: it may, and `incoming` names its pod."""
    match verdict:
        case Admitted(pod):
            incoming.client = pod
            return None
        case Refused(reason):
            message = f"the token is not of a pod with this policy's sidecar: {quote(reason)}"
            return Problem(status=401, message=message, code="invalid_relay_token", headers=_BEARER_LINE)
        case Unavailable(reason):
            return _unavailable(f"the token cannot be reviewed: {quote(reason)}")
        case _:
            assert_never(verdict)


def _refused(message: str) -> Problem:
    return Problem(status=403, message=message, code="relay_refused")


def _unavailable(message: str) -> Problem:
    return Problem(status=503, message=message, code="relay_unavailable", type="server_error")
