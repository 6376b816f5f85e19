"""kopf's watches, in a thread and an event loop of their own.

kopf, when it ends, cancels every task of its loop that is younger than itself, and it ends on any error of a watch that
is not its own idea of a normal one. So it gets a loop that holds nothing else, and is started again when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf

from flotilla_operator.telemetry import LOGGER, fields

from .kinds import KINDS, MANAGED_SELECTOR

RESTART_SECONDS = 2.0
STOP_SECONDS = 5.0

logger = logging.getLogger(LOGGER)


def make_settings() -> kopf.OperatorSettings:
    """kopf as a source of watch events and nothing else: it writes nothing and looks for no CRDs."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.connect_timeout = 3.0
    settings.networking.error_backoffs = (0.2, 0.5, 1.0)
    for kind in KINDS.values():
        if kind.managed:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = MANAGED_SELECTOR
    return settings


class WatchThread:
    """Runs kopf with the handlers of `registry` until it is stopped."""

    def __init__(self, registry: kopf.OperatorRegistry, *, namespaces: Sequence[str]) -> None:
        self._registry = registry
        self._namespaces = tuple(namespaces)
        self._stopping = threading.Event()
        self._end_run: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """The watches start."""
        self._thread.start()

    def restart(self) -> None:
        """Every watch is made anew, of the kinds that the API server serves now."""
        self._end_run()

    async def stop(self) -> None:
        """The watches have ended, or are left behind after a moment."""
        self._stopping.set()
        self._end_run()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                asyncio.run(self._watch())
            except Exception as error:
                logger.warning("watches ended, they are restarted", extra=fields(reason=repr(error)))
            self._stopping.wait(RESTART_SECONDS)

    async def _watch(self) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        self._end_run = lambda: _call_threadsafe(loop, ended.set)
        if self._stopping.is_set():
            return
        await kopf.operator(
            registry=self._registry,
            settings=make_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            identity=cast("Any", "flotilla"),  # else it looks for the name of our user, which may have none
            stop_flag=ended,
        )


def _call_threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """`call` is made in `loop`, unless that is closed: then there is nothing left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
