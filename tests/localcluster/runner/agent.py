"""Runs one pod: carries out what `lifecycle` decides and reports what happens back to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, assert_never

from localcluster.config import ImageSpec, find_image
from localcluster.runner.api import ApiError, Unreachable
from localcluster.runner.containers import ContainerProcess, ContainerSpec, StartError
from localcluster.runner.environment import make_command
from localcluster.runner.happenings import apply
from localcluster.runner.host import Host
from localcluster.runner.lifecycle import advance, first_state
from localcluster.runner.model import Container, Pod, container_named
from localcluster.runner.pod_volumes import OWN_FILES, PodVolumes
from localcluster.runner.probes import HOOK_TIMEOUT_SECONDS, Target
from localcluster.runner.probing import probes_of
from localcluster.runner.quantity import parse_quantity
from localcluster.runner.sources import UnresolvedError
from localcluster.runner.state import (
    Action,
    Emit,
    Exited,
    Happening,
    PostStartFailed,
    PrepareVolumes,
    PreStopEnded,
    Probed,
    RemovePod,
    RunPreStop,
    RunProbe,
    SendSignal,
    SourcesChanged,
    StartContainer,
    Started,
    StartFailed,
    Terminated,
    VolumesFailed,
    VolumesPrepared,
)
from localcluster.runner.status import make_status, read_state
from localcluster.runner.status_writer import StatusWriter
from localcluster.runner.volumes import Bind, plan_mounts

log = logging.getLogger(__name__)

SMALL_LIMIT_BYTES = 512 << 20
MEMORY_POLL_SECONDS = (0.2, 1.0)  # under small limits, which are soon exceeded, and others
MAX_MESSAGE_BYTES, MAX_LOG_MESSAGE_BYTES = 4096, 2048
RETRY_SECONDS = 1.0
PARTING_SECONDS = 1.0  # from SIGTERM to SIGKILL when the runner itself is told to end


@dataclass(slots=True)
class _Run:
    """One run of a container. `over_memory` says why it was killed."""

    container: Container
    process: ContainerProcess
    image: ImageSpec
    started_at: float
    container_id: str
    message_file: Path
    over_memory: bool = False


class PodAgent:
    """One pod on this host. All that happens to it passes through one queue, so decisions never overlap."""

    def __init__(self, pod: Pod, pod_ip: str, host: Host) -> None:
        self.pod, self.pod_ip, self._host = pod, pod_ip, host
        now = time.time()
        self._state = read_state(pod, pod_ip, now) if pod.status.get("podIP") else first_state(pod, pod_ip, now)
        self.volumes = PodVolumes(pod, pod_ip, host)
        self._writer = StatusWriter(pod, host.api)
        self._inbox: asyncio.Queue[Happening | None] = asyncio.Queue()
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._wake_at: float | None = None
        self._parting = False

    def part(self) -> None:
        """When cancelled, processes get SIGTERM and a moment before they are killed."""
        self._parting = True

    def update(self, pod: Pod) -> None:
        """The API server has a new version of the pod."""
        if pod.metadata.labels != self.pod.metadata.labels or pod.metadata.annotations != self.pod.metadata.annotations:
            self.volumes.wake()
        self.pod = self.volumes.pod = pod
        self._inbox.put_nowait(None)

    def note_sources_changed(self) -> None:
        """A ConfigMap, Secret or claim that the pod refers to came, went or changed."""
        self.volumes.wake()
        self._inbox.put_nowait(SourcesChanged())

    async def run(self) -> None:
        """Run the pod until it is removed from the API, or until cancelled: then its processes are killed at once."""
        self._spawn(self._writer.run())
        try:
            while not self._over.is_set():
                self._follow()
                happening = await self._next()
                if happening is not None:
                    self._take(happening)
        finally:
            await self._abandon()

    # --- deciding

    def _follow(self) -> None:
        """Do what is due, and tell the API server how the pod stands."""
        step = advance(self.pod, self._state, self._host.settings, time.time())
        self._state, self._wake_at = step.state, step.wake_at
        self._tell()
        for action in step.actions:
            self._do(action)

    def _tell(self) -> None:
        host_ip, previous = self._host.config.node_address, self._writer.conditions
        self._writer.want(make_status(self.pod, self._state, host_ip=host_ip, previous=previous, now=time.time()))

    async def _next(self) -> Happening | None:
        timeout = None if self._wake_at is None else max(0.0, self._wake_at - time.time())
        try:
            async with asyncio.timeout(timeout):
                return await self._inbox.get()
        except TimeoutError:
            return None

    def _take(self, happening: Happening) -> None:
        step = apply(self.pod, self._state, happening, self._host.settings, time.time())
        self._state = step.state
        for action in step.actions:
            self._do(action)

    # --- doing

    def _do(self, action: Action) -> None:
        match action:
            case Emit():
                self._host.events.post(self.pod, action)
            case SendSignal():
                if action.name in self._runs:
                    self._runs[action.name].process.send(action.number)
            case PrepareVolumes():
                self._spawn(self._prepare_volumes())
            case StartContainer():
                self._spawn(self._start(action))
            case RunProbe():
                self._spawn(self._probe(action))
            case RunPreStop():
                self._spawn(self._pre_stop(action))
            case RemovePod():
                self._spawn(self._remove())
            case _:
                assert_never(action)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_done)

    def _note_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("pod %s: a defect of the runner", self.pod.key, exc_info=error)

    async def _prepare_volumes(self) -> None:
        try:
            await self.volumes.prepare()
        except (UnresolvedError, ApiError, Unreachable, OSError) as error:
            self._inbox.put_nowait(VolumesFailed(str(error)))
            return
        self._spawn(self.volumes.keep_current(self._complain))
        self._inbox.put_nowait(VolumesPrepared())

    def _complain(self, message: str) -> None:
        self._host.events.post(self.pod, Emit("FailedMount", message, warning=True))

    async def _start(self, action: StartContainer) -> None:
        container = self._container(action.name)
        image = find_image(container.image, self._host.settings.images)
        assert image is not None
        began = time.time()
        container_id = f"localcluster://{uuid.uuid4().hex}{uuid.uuid4().hex}"
        try:
            spec, message_file = await self._make_spec(container, image, action.restarts)
            process = await ContainerProcess.start(spec)
        except (UnresolvedError, ApiError, Unreachable) as error:
            self._inbox.put_nowait(StartFailed(container.name, "CreateContainerConfigError", str(error)))
            return
        except (StartError, OSError) as error:
            message = f"failed to start container: {error}"
            ended = Terminated(128, "StartError", began, time.time(), container_id, message=message)
            self._inbox.put_nowait(Exited(container.name, ended))
            return
        run = _Run(container, process, image, time.time(), container_id, message_file)
        self._runs[container.name] = run
        (self._directory_of(container) / "pid").write_text(str(process.pid))
        self._spawn(self._watch_memory(run))
        self._spawn(self._await_exit(run))

    async def _make_spec(self, container: Container, image: ImageSpec, restarts: int) -> tuple[ContainerSpec, Path]:
        sources = await self.volumes.gather()
        command = make_command(container, image, self._host.base_env, sources)
        binds = plan_mounts(container, self.volumes.contents, self.volumes.hosted, command.env)
        directory = self._directory_of(container)
        directory.mkdir(parents=True, exist_ok=True)
        for bind in binds:
            _make_sub_path(bind.source)
        message_file = directory / f"{restarts}.termination-message"
        message_file.touch()
        spec = ContainerSpec(
            command=command,
            directory=directory / f"run-{restarts}",
            state_dir=self._host.config.state_dir,
            log=directory / f"{restarts}.log",
            hostname=self.pod.hostname,
            binds=[*binds, self.volumes.own_bind, Bind(str(message_file), container.termination_message_path)],
            links={"/etc/hosts": f"{OWN_FILES}/hosts"},
            folders=image.folders,
            read_only_root=container.security_context.read_only_root_filesystem,
        )
        shutil.rmtree(spec.directory, ignore_errors=True)
        return spec, message_file

    async def _await_exit(self, run: _Run) -> None:
        """Report the start, once its hook has run, and then the end."""
        name = run.container.name
        if hook := run.container.lifecycle.post_start:
            outcome = await self._host.prober.run_hook(hook, self._target(run), HOOK_TIMEOUT_SECONDS)
            self._inbox.put_nowait(Started(name, run.container_id))
            if not outcome.success:
                self._inbox.put_nowait(PostStartFailed(name, f"PostStartHook failed: {outcome.message}"))
        else:
            self._inbox.put_nowait(Started(name, run.container_id))
        exited = await run.process.wait()
        (self._directory_of(run.container) / "pid").unlink(missing_ok=True)
        del self._runs[name]
        reason = "OOMKilled" if run.over_memory else "Completed" if exited.code == 0 else "Error"
        message = read_message(run.container, run.message_file, run.process.spec.log, exited.code)
        ended = Terminated(exited.code, reason, run.started_at, exited.at, run.container_id, exited.signal, message)
        self._inbox.put_nowait(Exited(name, ended))
        await asyncio.to_thread(run.process.discard)

    async def _watch_memory(self, run: _Run) -> None:
        """Kill the container when it uses more than its limit."""
        limit = run.container.resources.limits.get("memory")
        if limit is None:
            return
        allowed = parse_quantity(limit)
        pause = MEMORY_POLL_SECONDS[0] if allowed < SMALL_LIMIT_BYTES else MEMORY_POLL_SECONDS[1]
        while self._runs.get(run.container.name) is run:
            if run.process.memory_bytes() > allowed:
                run.over_memory = True
                run.process.send(SIGKILL)
                return
            await asyncio.sleep(pause)

    async def _probe(self, action: RunProbe) -> None:
        run = self._runs.get(action.name)
        if run is None:
            return
        outcome = await self._host.prober.probe(dict(probes_of(run.container))[action.kind], self._target(run))
        self._inbox.put_nowait(Probed(action.name, action.restarts, action.kind, outcome.success, outcome.message))

    async def _pre_stop(self, action: RunPreStop) -> None:
        run = self._runs.get(action.name)
        hook = self._container(action.name).lifecycle.pre_stop
        if run is None or hook is None:
            return
        outcome = await self._host.prober.run_hook(hook, self._target(run), action.timeout_seconds)
        failure = None if outcome.success else f"PreStopHook failed: {outcome.message}"
        self._inbox.put_nowait(PreStopEnded(action.name, failure))

    async def _remove(self) -> None:
        """Tell the last status, then take this very pod from the API server, however long that is away."""
        await self._writer.settled()
        meta = self.pod.metadata
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}}
        while True:
            try:
                await self._host.api.delete(f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}", options)
                break
            except (ApiError, Unreachable) as error:
                log.info("pod %s was not removed: %s", self.pod.key, error)
                await asyncio.sleep(RETRY_SECONDS)
        self._over.set()
        self._inbox.put_nowait(None)

    async def _abandon(self) -> None:
        """Nothing of the pod is left on this host but its logs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        runs = list(self._runs.values())
        if self._parting and runs:
            for run in runs:
                run.process.send(SIGTERM)
            await asyncio.wait([asyncio.ensure_future(run.process.wait()) for run in runs], timeout=PARTING_SECONDS)
        for run in runs:
            run.process.send(SIGKILL)
        for run in runs:
            await run.process.wait()
            await asyncio.to_thread(run.process.discard)
            (self._directory_of(run.container) / "pid").unlink(missing_ok=True)
        await asyncio.to_thread(self.volumes.discard)

    def _target(self, run: _Run) -> Target:
        return Target(run.container, run.process, run.image, self.pod_ip)

    def _container(self, name: str) -> Container:
        container = container_named(self.pod, name)
        assert container is not None
        return container

    def _directory_of(self, container: Container) -> Path:
        return self.volumes.directory / container.name


def _make_sub_path(path: str) -> None:
    """A subPath that is not there yet becomes a directory, as in the kubelet."""
    with contextlib.suppress(FileExistsError, OSError):
        if not Path(path).exists():
            Path(path).mkdir(parents=True)


def read_message(container: Container, message_file: Path, log_file: Path, code: int) -> str:
    """The container's last words: its termination message, or if it asks for that the end of a failed run's log."""
    with contextlib.suppress(OSError):
        text = message_file.read_bytes()[:MAX_MESSAGE_BYTES].decode(errors="replace")
        if text or container.termination_message_policy != "FallbackToLogsOnError" or code == 0:
            return text
        return log_file.read_bytes()[-MAX_LOG_MESSAGE_BYTES:].decode(errors="replace")
    return ""
