"""The `Engines` port: vLLM's development paths /sleep and /wake_up, which exist where sleep is asked for.

Both do nothing where it is so already: vLLM's executor says so in its log and returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import aiohttp

from flotilla_operator.ports import EngineError, NotLeadingError

TIMEOUT_SECONDS = 60.0
"""For either: weights are copied between the GPU and the machine's memory, at some GB a second."""
CONNECT_TIMEOUT_SECONDS = 3.0
SLEEP_PATH = "/sleep?level=1"
"""Level 1 keeps the weights in the machine's memory; level 2 would discard them, and waking would be a start."""
WAKE_PATH = "/wake_up"


class VllmEngines:
    """Calls engines by their pods' addresses. An async context manager.

    Both calls raise NotLeadingError without the Lease: whoever holds it decides what engines do.
    """

    def __init__(self, leading: Callable[[], bool], *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._leading = leading
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def sleep(self, address: str) -> None:
        """The engine has given its accelerator's memory back, and ended what it was doing.

        Raises:
            EngineError: it did not; one that was started without sleep mode never does.
        """
        status = await self._post(address, SLEEP_PATH)
        if status != 200:
            raise EngineError(f"{address} answered {status} to {SLEEP_PATH}")

    async def wake_up(self, address: str) -> None:
        """The engine answers again; one that was started without sleep mode never slept.

        Raises:
            EngineError: it does not.
        """
        status = await self._post(address, WAKE_PATH)
        if status not in (200, 404):
            raise EngineError(f"{address} answered {status} to {WAKE_PATH}")

    async def _post(self, address: str, path: str) -> int:
        assert self._session, "outside of the context manager's block"
        if not self._leading():
            raise NotLeadingError
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds, sock_connect=CONNECT_TIMEOUT_SECONDS)
        try:
            async with self._session.post(
                f"http://{address}{path}", timeout=timeout, allow_redirects=False
            ) as response:
                return response.status
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{address} does not answer {path}: {error or type(error).__name__}") from error
