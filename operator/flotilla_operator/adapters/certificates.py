"""The serving certificates of the control API and the webhook, and the authority behind them.

One Secret holds the authority that all replicas share; it is created once, and whoever comes second reads the first's.
Each replica issues its own serving certificate from it, for the Service and for its own address, and renews it while it
serves; that key never leaves the process's memory and a file that only its user may read.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from flotilla_operator.ports import Clock, NotFoundError, OperatorError, OutdatedError
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.telemetry import LOGGER, fields

from .authority import (
    SECRET_NAME,
    Authority,
    Serving,
    authority_secret,
    make_authority,
    make_serving,
    read_authority,
    renew,
)
from .client import Client
from .kinds import SECRET

SERVING_RENEW_BEFORE = timedelta(days=30)
CHECK_SECONDS = 300.0
RETRY_SECONDS = 2.0

logger = logging.getLogger(LOGGER)


class Certificates:
    """What the control API and the webhook serve with, and what their callers trust.

    Loaded by `load`, kept valid by `run`. `changed` is called whenever `bundle` became another.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        namespace: str,
        names: Sequence[str],
        address: str,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._changed = changed
        self._clock = clock
        self._namespace = namespace
        self._names = tuple(names)
        self._address = address
        self._authority: Authority | None = None
        self._serving: Serving | None = None
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """For the listener; new handshakes use the newest certificate."""
        self.server_context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """For dialling another replica; replaced when the authority is."""

    @property
    def loaded(self) -> bool:
        """Whether the listener can serve."""
        return self._serving is not None

    @property
    def bundle(self) -> str:
        """PEM of the authorities that callers are to trust; '' before the first load."""
        return self._authority.bundle if self._authority else ""

    async def load(self) -> None:
        """The certificates are loaded; waits, saying so, for an API server that does not answer."""
        while not self.loaded:
            try:
                await self.refresh()
            except OperatorError as error:
                logger.warning("waiting for certificates", extra=fields(reason=str(error)))
                await self._clock.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        """Renews for ever, well before anything runs out."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            try:
                await self.refresh()
            except OperatorError as error:
                logger.warning("certificates not checked", extra=fields(reason=str(error)))

    async def refresh(self) -> None:
        """The authority is the Secret's, made or renewed where need be; the serving certificate is valid under it."""
        authority = await self._shared_authority()
        known = self._authority is not None and self._authority.bundle == authority.bundle
        self._authority = authority
        if not self._serves_under(authority):
            self._issue(authority)
        if not known:
            self.client_context = ssl.create_default_context(cadata=authority.bundle)
            self._changed()

    def _serves_under(self, authority: Authority) -> bool:
        """Whether callers that trust `authority` go on to accept what is served, for a while.

        What a predecessor signed is served on: some callers do not trust another yet.
        """
        serving = self._serving
        if serving is None or serving.issuer not in authority.trusted:
            return False
        return serving.not_after - self._clock.now() > SERVING_RENEW_BEFORE

    def _issue(self, authority: Authority) -> None:
        self._serving = make_serving(authority, self._clock.now(), names=self._names, address=self._address)
        _load_chain(self.server_context, self._serving)
        logger.info("serving certificate issued", extra=fields(not_after=self._serving.not_after.isoformat()))

    async def _shared_authority(self) -> Authority:
        secret = await self._secret()
        if secret is None:
            made = authority_secret(make_authority(self._clock.now()), self._namespace)
            return read_authority(await self._store_first(made))
        try:
            authority = read_authority(secret)
        except ValueError as error:
            logger.warning("certificate Secret is broken, it is replaced", extra=fields(reason=str(error)))
            return read_authority(await self._replace(secret, make_authority(self._clock.now())))
        renewed = renew(authority, self._clock.now())
        return read_authority(await self._replace(secret, renewed)) if renewed else authority

    async def _secret(self) -> Manifest | None:
        try:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))
        except NotFoundError:
            return None

    async def _store_first(self, secret: Manifest) -> Manifest:
        """`secret`, or the one that another replica stored meanwhile."""
        try:
            return await self._client.create(SECRET, self._namespace, secret)
        except OutdatedError:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))

    async def _replace(self, before: Manifest, authority: Authority) -> Manifest:
        """The Secret with `authority`, or the one that another replica stored meanwhile."""
        version = before["metadata"]["resourceVersion"]
        secret = authority_secret(authority, self._namespace)
        secret["metadata"]["resourceVersion"] = version
        try:
            return await self._client.update(SECRET, secret)
        except OutdatedError:
            return await self._client.get(SECRET.path(self._namespace, SECRET_NAME))


def _load_chain(context: ssl.SSLContext, serving: Serving) -> None:
    """`context` serves with `serving`. The ssl module reads files only: one that only we may read, for a moment."""
    with tempfile.TemporaryDirectory(prefix="flotilla-tls-") as directory:
        path = Path(directory, "serving.pem")
        path.touch(mode=0o600)
        path.write_bytes(serving.private_key + serving.chain)
        context.load_cert_chain(path)
