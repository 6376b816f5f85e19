"""A gateway and a sidecar of one policy, and a control API that knows sidecars' tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rig import NAMESPACE, POLICY, ModelServer, Peer, Received, Rig, model_server, response, router

from flotilla_api.control import TOKEN_REFUSED
from flotilla_api.names import GATEWAY_AUDIENCE
from flotilla_api.snapshot import RoutingSnapshot

REVIEWS = f"/v1/tokens/{NAMESPACE}/{POLICY}"


def a_token(name: str, *, expires: float = 4e9, audience: str = GATEWAY_AUDIENCE, namespace: str = NAMESPACE) -> str:
    """A ServiceAccount token, as far as a router reads it."""
    pod = {"namespace": namespace, "pod": {"name": name}}
    claims = json.dumps({"aud": [audience], "exp": expires, "kubernetes.io": pod}).encode()
    return f"eyJ9.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


class TokenReviews:
    """A control API that reviews tokens; polls for snapshots are never answered."""

    def __init__(self, pods: dict[str, str] | None = None) -> None:
        self.pods = pods or {}
        """The pod of each good token."""
        self.received: list[Received] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.status = 0
        """If it is set, every review is answered with it."""
        self.reason = TOKEN_REFUSED
        """Of the refusals."""

    async def __call__(self, received: Received, peer: Peer) -> None:
        if received.path != REVIEWS:
            await peer.closed()
            return
        self.received.append(received)
        await self.answers.wait()
        pod = self.pods.get(received.json["token"])
        if self.status:
            await peer.write(response(b"{}", status=self.status))
        elif pod is None:
            error = {"error": {"reason": self.reason, "message": "pod stranger has no label"}}
            await peer.write(response(json.dumps(error).encode(), status=403))
        else:
            await peer.write(response(json.dumps({"pod": pod}).encode()))


def write(path: Path, text: str) -> Path:
    """A file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@asynccontextmanager
async def gateway(
    folder: Path, snapshot: RoutingSnapshot, reviews: TokenReviews, **changes: Any
) -> AsyncGenerator[tuple[Rig, ModelServer]]:
    """A gateway and its control API."""
    write(folder / "gateway" / "token" / "token", "control-token")
    async with (
        model_server(reviews) as control,
        router(folder / "gateway", snapshot, control_url=f"http://{control.address}", **changes) as rig,
    ):
        yield rig, control


@asynccontextmanager
async def sidecar(
    folder: Path, snapshot: RoutingSnapshot, url: str | None, *, token: str = a_token("agent-1"), **changes: Any
) -> AsyncGenerator[Rig]:
    """A sidecar whose gateway is at `url`."""
    if token:
        write(folder / "sidecar" / "gateway-token" / "token", token)
    told = snapshot.model_copy(update={"gateway": url})
    async with router(folder / "sidecar", told, role="Sidecar", **changes) as rig:
        yield rig


@asynccontextmanager
async def pair(folder: Path, snapshot: RoutingSnapshot, **changes: Any) -> AsyncGenerator[tuple[Rig, Rig]]:
    """A sidecar and its gateway, which lets it in."""
    reviews = TokenReviews({a_token("agent-1"): "agent-1"})
    async with (
        gateway(folder, snapshot, reviews, **changes) as (outer, _),
        sidecar(folder, snapshot, f"http://127.0.0.1:{outer.port}/v1") as inner,
    ):
        yield inner, outer


def relay_lines(token: str = a_token("agent-1"), policy: str = POLICY) -> list[str]:
    """The header lines of a sidecar's request."""
    return [f"x-flotilla-relay: {policy}", f"authorization: Bearer {token}"]
