"""kopf's watches, in a thread and an event loop of their own.

kopf, when it ends, cancels every task of its loop that is younger than itself, and it ends on any error of a watch that
is not its own idea of a normal one. So it gets a loop that holds nothing else, and is started again when it ends. It
asks only once which kinds there are; just after a start of the API server some may not be served yet, and are never
watched. So it is also started again when a watch has been missing for a while.
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
MISSING_SECONDS = 20.0
"""How long watches may take to begin: kopf needs seconds for that, more on a busy API server."""
LOST_SECONDS = 3.0
"""How long a watch may be missing once all were there; kopf does not begin it again."""
LOOK_SECONDS = 1.0
EXIT_SECONDS = 7.0
"""How long kopf may take to end; it gives itself 5."""

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
    """Runs kopf with the handlers of `registry` until it is stopped.

    `namespaces` says which ones to watch, none means all; it is asked at each start.
    """

    def __init__(
        self,
        registry: kopf.OperatorRegistry,
        *,
        namespaces: Callable[[], Sequence[str]],
        missing_seconds: float = MISSING_SECONDS,
    ) -> None:
        self._registry = registry
        self._namespaces = namespaces
        self._missing_seconds = missing_seconds
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
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(self._watch())
            except Exception as error:
                logger.warning("watches ended, they are restarted", extra=fields(reason=repr(error)))
            finally:
                _close(loop)
            self._stopping.wait(RESTART_SECONDS)

    async def _watch(self) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        self._end_run = lambda: _call_threadsafe(loop, ended.set)
        if self._stopping.is_set():
            return
        namespaces = tuple(self._namespaces())
        asked = asyncio.create_task(ended.wait())  # older than kopf, which waits at its end for all that is younger
        running = asyncio.create_task(
            kopf.operator(
                registry=self._registry,
                settings=make_settings(),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=namespaces,
                identity=cast("Any", "flotilla"),  # else it looks for the name of our user, which may have none
                stop_flag=ended,
            )
        )
        await self._until_incomplete(expected_watches(namespaces), running, asked)
        ended.set()
        await _leave(running)

    async def _until_incomplete(
        self, expected: frozenset[str], running: asyncio.Task[None], asked: asyncio.Task[Any]
    ) -> None:
        """Return when kopf has ended, is to end, or a watch has been missing for too long."""
        clock = asyncio.get_running_loop().time
        complete_at, patience = clock(), self._missing_seconds
        while not (await asyncio.wait((running, asked), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
            missing = missing_watches(expected)
            if not missing:
                complete_at, patience = clock(), min(patience, LOST_SECONDS)
            elif clock() - complete_at >= patience:
                logger.warning("watches are missing, all are made anew", extra=fields(missing=sorted(missing)))
                return


async def _leave(running: asyncio.Task[None]) -> None:
    """kopf has ended, by itself or by being cancelled, or is left behind: once a task of it failed, some never end."""
    for end in (lambda: None, running.cancel):
        end()
        await asyncio.wait((running,), timeout=EXIT_SECONDS)
        if running.done():
            await running
            return
    logger.warning("watches hang, they are left behind")


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop whose tasks and generators end now; those that do not end when cancelled are left behind."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=EXIT_SECONDS))
    with contextlib.suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), EXIT_SECONDS))
    loop.run_until_complete(asyncio.sleep(0))  # connections that were closed just now have callbacks to run
    loop.close()


def missing_watches(expected: frozenset[str]) -> frozenset[str]:
    """Those of `expected` for which no task of this loop runs."""
    return expected - {task.get_name() for task in asyncio.all_tasks()}


def expected_watches(namespaces: Sequence[str]) -> frozenset[str]:
    """Names of the tasks in which kopf watches our kinds in `namespaces`, none means all."""
    return frozenset(
        f"watcher for {f'{kind.plural}.{kind.version}.{kind.group}'.strip('.')}@{namespace}"
        for kind in KINDS.values()
        for namespace in ((namespaces or (None,)) if kind.namespaced else (None,))
    )


def _call_threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """`call` is made in `loop`, unless that is closed: then there is nothing left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
