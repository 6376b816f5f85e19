"""What the API server trusts when it calls the webhook: our authorities, in the MutatingWebhookConfiguration.

The object is the chart's. Of it only `caBundle` is written, by the leader, and only where it is another than ours.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable

from flotilla_api.names import FIELD_MANAGER
from flotilla_operator.ports import Clock, OperatorError
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import WEBHOOK_CONFIGURATION as KIND

CHECK_SECONDS = 15.0

logger = logging.getLogger(LOGGER)


class WebhookTrust:
    """Keeps `caBundle` of the configuration `name` equal to `bundle`, while this replica leads; '': there is none."""

    def __init__(
        self, client: Client, clock: Clock, *, name: str, bundle: Callable[[], str], leading: Callable[[], bool]
    ) -> None:
        self._client = client
        self._clock = clock
        self._name = name
        self._bundle = bundle
        self._leading = leading
        self._woken = asyncio.Event()
        self._trouble = ""

    def wake(self) -> None:
        """The configuration is looked at now: this replica leads since a moment ago, or its authorities changed."""
        self._woken.set()

    async def run(self) -> None:
        """Looks for ever, where there is a configuration; what goes wrong is said once."""
        while self._name:
            self._woken.clear()
            if self._leading():
                await self._try_refresh()
            await self._rest()

    async def refresh(self) -> None:
        """The API server trusts our authorities; nothing was written where it did before.

        Raises:
            OperatorError: see the tree; NotFoundError where there is no such configuration.
        """
        live = await self._client.get(KIND.path("", self._name))
        patch = make_trust_patch(live, base64.b64encode(self._bundle().encode()).decode())
        if patch and self._leading():
            await self._client.merge(KIND, patch, manager=FIELD_MANAGER, strategic=True)
            logger.info("webhook configuration trusts our authorities", extra=fields(name=self._name))

    async def _try_refresh(self) -> None:
        trouble = ""
        try:
            await self.refresh()
        except OperatorError as error:
            trouble = str(error)
        if trouble not in ("", self._trouble):
            logger.warning("webhook configuration not checked", extra=fields(name=self._name, reason=trouble))
        self._trouble = trouble

    async def _rest(self) -> None:
        """Until the next look is due, or `wake` was called."""
        resting = [asyncio.ensure_future(self._clock.sleep(CHECK_SECONDS)), asyncio.ensure_future(self._woken.wait())]
        try:
            await asyncio.wait(resting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in resting:
                task.cancel()


def make_trust_patch(live: Manifest, bundle: str) -> Manifest | None:
    """A strategic merge patch, for this version of the object alone, after which every webhook has `bundle`."""
    webhooks: list[Manifest] = live.get("webhooks") or []
    outdated = [each["name"] for each in webhooks if each["clientConfig"].get("caBundle") != bundle]
    if not outdated:
        return None
    identity = {"name": live["metadata"]["name"], "resourceVersion": live["metadata"]["resourceVersion"]}
    return {
        "metadata": identity,
        "webhooks": [{"name": name, "clientConfig": {"caBundle": bundle}} for name in outdated],
    }
