"""Brings the artifacts that a snapshot names, one task for each, and puts them into use.

One that cannot be had, or is refused, is tried again and again; the previous one stays meanwhile, and the control API
is told why. Reading, checking and numpy's own import happen in threads: the loop never waits for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from flotilla_api.artifact import ArtifactFault
from flotilla_api.control import Problem, ProblemKind
from flotilla_api.snapshot import ArtifactSource, RoutingSnapshot

from .control import ControlError
from .errors import ArtifactError
from .learned import Learned, Role, wanted_by
from .room import lacking_room
from .sources import Fetched, SourceError, bring
from .telemetry import Telemetry

if TYPE_CHECKING:
    from .artifact import Artifact

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
UNREACHABLE = "Unreachable"
"""Reason of an artifact that could not be had."""
UNFIT = "Unfit"
"""Reason of an artifact that does not go with the policy."""
_INSTEAD: dict[Role, str] = {
    "strategy": "Requests are drawn by weight.",
    "canary": "Its sessions stay with the strategy's artifact.",
    "shadow": "Nothing is scored beside the live choice.",
}
_Result = TypeVar("_Result")

AskControl = Callable[[str], Awaitable[bytes]]
"""The tar of the artifact with this digest. Raises ControlError, ArtifactError, OSError or TimeoutError."""
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class _Load:
    """An artifact on its way, or there."""

    source: ArtifactSource
    artifact: Artifact | None
    task: asyncio.Task[None] | None = None
    failure: tuple[ProblemKind, str] | None = None
    """Why it is not there yet."""


def backoff_seconds(failures: int, draw: float) -> float:
    """Wait after n failures in a row, with full jitter over its upper half. draw: uniform in [0, 1)."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_BACKOFF_SECONDS) * (0.5 + draw / 2)


class Artifacts:
    """Those of the snapshot in use."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        learned: Learned,
        telemetry: Telemetry,
        *,
        ask_control: AskControl,
        draw: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
        lacking_room: Callable[[int], str | None] = lacking_room,
    ) -> None:
        self._loop = loop
        self._learned = learned
        self._telemetry = telemetry
        self._ask_control = ask_control
        self._draw = draw
        self._sleep = sleep
        self._lacking_room = lacking_room
        self._loads: dict[str, _Load] = {}
        """By digest."""
        self._snapshot: RoutingSnapshot | None = None
        self._unfit: dict[Role, str] = {}
        self._opening = asyncio.Lock()
        """One is opened at a time: it takes several times its size while it is checked."""

    def want(self, snapshot: RoutingSnapshot) -> None:
        """Bring what this snapshot names and is not there; use what is there, as it says."""
        self._snapshot = snapshot
        known, self._loads = self._loads, {}
        in_use = self._learned.in_use()
        for wanted in wanted_by(snapshot):
            source = wanted.source
            load = known.get(source.digest)
            if source.digest in self._loads:
                continue
            if load is None or (load.artifact is None and load.source != source):
                load = self._start(source, in_use.get(source.digest))
            self._loads[source.digest] = load
        for digest, load in known.items():
            if load.task is not None and self._loads.get(digest) is not load:
                load.task.cancel()
        self._use()

    def problems(self) -> list[Problem]:
        """What keeps artifacts from being used, if only for a moment, and those whose scores have drifted."""
        snapshot = self._snapshot
        if snapshot is None:
            return []
        problems: list[Problem] = []
        for wanted in wanted_by(snapshot):
            role, load = wanted.role, self._loads[wanted.source.digest]
            if load.failure is not None:
                kind, message = load.failure
                problems.append(Problem(kind, role, f"{message} {self._instead(role)}"))
            elif load.artifact is None:
                problems.append(
                    Problem(ProblemKind.ARTIFACT_LOADING, role, "The artifact is being fetched or checked.")
                )
            elif role in self._unfit:
                problems.append(
                    Problem(ProblemKind.ARTIFACT_REFUSED, role, f"{self._unfit[role]} {self._instead(role)}")
                )
        return problems + [Problem(ProblemKind.DRIFTED, role, _drift_text(role)) for role in self._learned.drifted()]

    def close(self) -> None:
        """Nothing is under way."""
        for load in self._loads.values():
            if load.task is not None:
                load.task.cancel()

    def _instead(self, role: Role) -> str:
        digest = self._learned.digest_of(role)
        return _INSTEAD[role] if digest is None else f"The previous one, {digest}, stays."

    def _use(self) -> None:
        assert self._snapshot is not None
        loaded = {digest: load.artifact for digest, load in self._loads.items() if load.artifact is not None}
        before = {figure.role: figure.artifact for figure in self._learned.figures()}
        unfit = self._learned.use(self._snapshot, loaded)
        for role, message in unfit.items():
            if self._unfit.get(role) != message:
                self._refused(role, UNFIT, message)
        self._unfit = unfit
        for figure in self._learned.figures():
            if before.get(figure.role) != figure.artifact:
                self._telemetry.say("artifact in use", role=figure.role, artifact=figure.artifact)

    def _start(self, source: ArtifactSource, artifact: Artifact | None) -> _Load:
        load = _Load(source, artifact)
        if artifact is None:
            load.task = self._loop.create_task(self._bring(load))
        return load

    async def _bring(self, load: _Load) -> None:
        """Bring an artifact, however long it takes."""
        failures = 0
        while load.artifact is None:
            try:
                load.artifact = await self._fetch(load.source)
                load.failure = None
            except ArtifactError as error:
                mismatch = error.reason is ArtifactFault.DIGEST_MISMATCH
                kind = ProblemKind.ARTIFACT_DIGEST_MISMATCH if mismatch else ProblemKind.ARTIFACT_REFUSED
                self._failed(load, kind, error.reason.value, error.message)
            except (SourceError, ControlError, OSError) as error:
                message = f"The artifact cannot be fetched: {error or type(error).__name__}."
                self._failed(load, ProblemKind.ARTIFACT_NOT_FOUND, UNREACHABLE, message)
            except Exception as error:  # our own mistake, about one artifact: requests are answered all the same
                message = f"The router failed on the artifact: {error!r}."
                self._failed(load, ProblemKind.ARTIFACT_REFUSED, "Failed", message)
                context = {"message": "an artifact could not be loaded", "exception": error}
                self._loop.call_exception_handler(context)
            if load.artifact is None:
                failures += 1
                await self._sleep(backoff_seconds(failures, self._draw()))
        self._use()

    async def _fetch(self, source: ArtifactSource) -> Artifact:
        if source.file is None and source.url is None and source.oci is None:
            fetched: Fetched = await self._ask_control(source.digest)
        else:
            fetched = await in_thread(partial(bring, source))
        async with self._opening:
            return await in_thread(partial(self._open, fetched, source.digest))

    def _open(self, fetched: Fetched, digest: str) -> Artifact:
        """The artifact, checked whole; numpy is first needed here."""
        size = len(fetched) if isinstance(fetched, bytes) else sum(map(len, fetched.values()))
        if lacking := self._lacking_room(size):
            raise ArtifactError(ArtifactFault.TOO_LARGE, lacking)
        from .artifact import load_artifact, read_tar  # noqa: PLC0415 - a router without a strategy never loads numpy

        return load_artifact(read_tar(fetched) if isinstance(fetched, bytes) else fetched, digest)

    def _failed(self, load: _Load, kind: ProblemKind, reason: str, message: str) -> None:
        """Counted each time, logged when it is another failure than before."""
        known, load.failure = load.failure, (kind, message)
        for wanted in wanted_by(self._snapshot) if self._snapshot is not None else ():
            if wanted.source.digest == load.source.digest:
                self._telemetry.artifact_refused(wanted.role, reason)
                if known != load.failure:
                    self._say(wanted.role, reason, message)

    def _refused(self, role: Role, reason: str, message: str) -> None:
        self._telemetry.artifact_refused(role, reason)
        self._say(role, reason, message)

    def _say(self, role: Role, reason: str, message: str) -> None:
        self._telemetry.say("artifact refused", role=role, reason=reason, error=message)


def _drift_text(role: Role) -> str:
    return (
        f"The scores of the {role}'s artifact are distributed otherwise than those that it was calibrated on: "
        "label requests of today, and train or calibrate anew."
    )


async def in_thread(call: Callable[[], _Result]) -> _Result:
    """What `call` returns or raises. Its thread holds up nobody who ends the process."""
    done: Future[_Result] = Future()

    def run() -> None:
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

    threading.Thread(target=run, name="artifact", daemon=True).start()
    return await asyncio.wrap_future(done)
