"""Container processes: started under a private root, signalled, entered, measured and awaited."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from localcluster.runner.environment import Command
from localcluster.runner.volumes import Bind

SANDBOX = Path(__file__).with_name("sandbox.py")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that a container's process needs. `directory` is its own, new for every run; `log` is appended to."""

    command: Command
    directory: Path
    state_dir: Path
    log: Path
    hostname: str
    binds: Sequence[Bind]
    links: Mapping[str, str]
    folders: Sequence[str] = ()
    read_only_root: bool = False
    user_namespace: bool = field(default_factory=lambda: os.geteuid() != 0)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: exit code (128 + signal if a signal ended it), the signal or 0, seconds since the epoch."""

    code: int
    signal: int
    at: float


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command in a container ended (None: it took too long), with what it wrote."""

    code: int | None
    output: str


class StartError(RuntimeError):
    """A container's process could not be started; the message says why."""


@dataclass(frozen=True, slots=True)
class _Channel:
    """Both ends are kept: a stream whose writer is forgotten closes."""

    reports: asyncio.StreamReader
    writer: asyncio.StreamWriter


class ContainerProcess:
    """A running container. `pid` is its first process, as seen from the host."""

    def __init__(self, spec: ContainerSpec, sandbox: asyncio.subprocess.Process, pid: int, channel: _Channel) -> None:
        self.spec, self.pid = spec, pid
        self._sandbox, self._channel = sandbox, channel
        self._ended = asyncio.ensure_future(self._await_exit())

    @classmethod
    async def start(cls, spec: ContainerSpec) -> ContainerProcess:
        """The container's program runs, or has just ended.

        Raises:
            StartError: it could not be started.
        """
        spec.directory.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        with theirs, spec.log.open("ab") as log:
            sandbox = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(SANDBOX), str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                cwd="/",
            )
        try:
            channel = await _instruct(spec, ours)
            kind, _, rest = (await channel.reports.readline()).decode().partition(" ")
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                sandbox.kill()
            raise
        if kind != "pid":
            channel.writer.close()
            await sandbox.wait()
            raise StartError(rest.strip() or "the container's supervisor was killed")
        return cls(spec, sandbox, int(rest), channel)

    async def wait(self) -> Exit:
        """How the process ended; nothing that it started is left then."""
        return await asyncio.shield(self._ended)

    async def _await_exit(self) -> Exit:
        lines = (await self._channel.reports.read()).decode().splitlines()
        self._channel.writer.close()
        await self._sandbox.wait()
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "exit":
                code, number = map(int, rest.split())
                return Exit(code, number, time.time())
        return Exit(128 + signal.SIGKILL, int(signal.SIGKILL), time.time())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the first process; the kernel drops those that it does not handle, but for SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def execute(self, argv: Sequence[str], timeout_seconds: float) -> ExecResult:
        """Run a command in the container, with its root, its environment and its process tree."""
        script = 'cd -- "$1" && shift && exec "$@"'
        entered = await asyncio.create_subprocess_exec(
            *(
                "nsenter",
                f"--target={self.pid}",
                *_namespaces(user=self.spec.user_namespace),
                "--",
                "/bin/sh",
                "-c",
                script,
                "sh",
            ),
            *(self.spec.command.cwd or "/", *argv),
            env=dict(self.spec.command.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                output, _ = await entered.communicate()
        except TimeoutError:
            return ExecResult(None, "")
        finally:
            if entered.returncode is None:
                _kill_tree(entered.pid)
                await entered.wait()
        return ExecResult(entered.returncode, output.decode(errors="replace"))

    def memory_bytes(self) -> int:
        """Memory of the container's own, in bytes: that of all its processes without what they map from files."""
        return sum(_anonymous_bytes(pid) for pid in process_tree(self.pid))

    def discard(self) -> None:
        """What the container wrote to its root is gone."""
        for work in self.spec.directory.glob("work*/work"):
            with contextlib.suppress(OSError):
                work.chmod(0o700)  # the kernel leaves it without permissions
        shutil.rmtree(self.spec.directory, ignore_errors=True)


def require_namespaces() -> None:
    """Return if containers can be given a root of their own.

    Raises:
        RuntimeError: they cannot; the message says what is missing.
    """
    if shutil.which("nsenter") is None:
        raise RuntimeError("the pod runner needs nsenter, which util-linux brings")
    if os.geteuid() == 0:
        return
    for setting, needed in (("kernel.unprivileged_userns_clone", "1"), ("user.max_user_namespaces", "more than 0")):
        value = _read_setting(setting)
        if value == "0":
            raise RuntimeError(f"the pod runner needs root or user namespaces: set sysctl {setting} to {needed}")
    if _read_setting("kernel.apparmor_restrict_unprivileged_userns") == "1":
        raise RuntimeError(
            "the pod runner needs root or user namespaces: set sysctl kernel.apparmor_restrict_unprivileged_userns to 0"
        )


def _read_setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return None


async def _instruct(spec: ContainerSpec, ours: socket.socket) -> _Channel:
    reports, writer = await asyncio.open_connection(sock=ours)
    writer.write(json.dumps(_instructions(spec)).encode())
    writer.write_eof()
    return _Channel(reports, writer)


def _instructions(spec: ContainerSpec) -> dict[str, object]:
    return {
        "directory": str(spec.directory),
        "state_dir": str(spec.state_dir),
        "parent": os.getpid(),
        "user_namespace": spec.user_namespace,
        "read_only_root": spec.read_only_root,
        "hostname": spec.hostname,
        "binds": [asdict(bind) for bind in spec.binds],
        "links": dict(spec.links),
        "folders": list(spec.folders),
        "argv": list(spec.command.argv),
        "env": dict(spec.command.env),
        "cwd": spec.command.cwd or "/",
    }


def _namespaces(*, user: bool) -> list[str]:
    own = ["--mount", "--uts", "--pid"]
    return ["--user", "--preserve-credentials", *own] if user else own


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants; orphans of a PID namespace are children of its first process."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _kill_tree(pid: int) -> None:
    for member in reversed(process_tree(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _anonymous_bytes(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * PAGE_BYTES
