"""Tells the API server a pod's status: only when it changed, the newest only, and until it has heard it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from localcluster.runner.api import STRATEGIC, Api, ApiError, Unreachable
from localcluster.runner.model import Pod

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.1, 2.0)


class StatusWriter:
    """Writes one pod's status behind the decisions that lead to it."""

    def __init__(self, pod: Pod, api: Api) -> None:
        self._pod, self._api = pod, api
        self._wanted: dict[str, Any] | None = None
        self._told: dict[str, Any] | None = None
        self._changed, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()

    @property
    def conditions(self) -> list[dict[str, Any]]:
        """The conditions that were last to be written, or before that the pod's own."""
        status: dict[str, Any] = self._wanted if self._wanted is not None else self._pod.status
        return status.get("conditions", [])

    def want(self, status: dict[str, Any]) -> None:
        """The API server will be told this, unless it knows it already or is told something newer first."""
        if status != self._wanted:
            self._wanted = status
            self._idle.clear()
            self._changed.set()

    async def settled(self) -> None:
        """Return when the API server knows all, or does not know the pod any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled."""
        delay = RETRY_SECONDS[0]
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._write()
                delay = RETRY_SECONDS[0]
            except (ApiError, Unreachable) as error:
                log.info("status of %s was not written: %s", self._pod.key, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_SECONDS[1])
                self._changed.set()

    async def _write(self) -> None:
        status = self._wanted
        if status is not None and status != self._told:
            try:
                await self._api.patch(_status_path(self._pod), make_patch(self._pod, status), STRATEGIC)
            except ApiError as error:
                if error.status not in {404, 409, 422}:
                    raise
                log.info("status of %s was refused: %s", self._pod.key, error)
            self._told = status
        if self._told == self._wanted:
            self._idle.set()


def _status_path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}/status"


def make_patch(pod: Pod, status: dict[str, Any]) -> dict[str, Any]:
    """A patch that sets this status on that very pod. Conditions merge, so what one no longer has is said."""
    conditions = [{"reason": None, "message": None, **condition} for condition in status["conditions"]]
    return {"metadata": {"uid": pod.metadata.uid}, "status": {**status, "conditions": conditions}}
