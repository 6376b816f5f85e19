"""Clusters that outlive the shell: each is held by a process of its own and found again through its files.

A cluster NAME has the directory NAME with `contents.json` (its nodes and images), `lock` (held by the process that
serves it, whose id it contains), `state.json` (written once the cluster is ready), `daemon.log` and `cluster/`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from pydantic import TypeAdapter

from localcluster.access import ClusterAccess
from localcluster.binaries import cache_directory
from localcluster.cluster import LocalCluster, default_nodes
from localcluster.config import ImageSpec, NodeSpec
from localcluster.processes import read_tail
from localcluster.tools import python_environment

STOP_TIMEOUT_SECONDS = 60.0


class DaemonError(RuntimeError):
    """A cluster could not be started or stopped; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cluster is started with."""

    nodes: list[NodeSpec] = field(default_factory=default_nodes)
    images: dict[str, ImageSpec] = field(default_factory=dict[str, ImageSpec])
    runner: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """Where a ready cluster is found."""

    directory: Path
    kubeconfig: Path
    url: str


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """One line of `status`: Running, Starting, or Dead (its process ended without `down`)."""

    name: str
    status: str
    kubeconfig: Path | None


def clusters_directory() -> Path:
    """`$XDG_STATE_HOME/flotilla/clusters` if that is set, else `clusters` in the cache."""
    state_home = os.environ.get("XDG_STATE_HOME")
    return (Path(state_home) / "flotilla" if state_home else cache_directory()) / "clusters"


def valid_name(name: str) -> str:
    """`name`, when it can be a cluster's.

    Raises:
        argparse.ArgumentTypeError: it is not a DNS label.
    """
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is not a lower-case DNS label of at most 40 characters")
    return name


def up(name: str, contents: Contents | None = None) -> tuple[bool, State]:
    """The cluster is running; True beside its state when it already was (`contents` then change nothing).

    Raises:
        DaemonError: it did not start; the message ends with its log.
    """
    directory = clusters_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    already = _server(directory) is not None
    process = None if already else _launch(name, directory, contents or Contents())
    while True:
        state, server = _read_state(directory), _server(directory)
        if state is not None and server is not None:
            return already, state
        if server is None and (process is None or _ended(process)):
            raise DaemonError(f"cluster {name} did not start:\n{read_tail(directory / 'daemon.log')}")
        time.sleep(0.05)


def down(name: str) -> bool:
    """The cluster is not running and its files are deleted; True when it was running.

    Raises:
        DaemonError: it did not end in time.
    """
    directory = clusters_directory() / name
    server = _server(directory)
    if server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)
        _await_end(name, directory)
    shutil.rmtree(directory, ignore_errors=True)
    return server is not None


def clusters() -> Iterator[ClusterEntry]:
    """All clusters that have files, by name."""
    for directory in sorted(clusters_directory().glob("*/")):
        state = _read_state(directory)
        running = _server(directory) is not None
        status = "Dead" if not running else "Starting" if state is None else "Running"
        yield ClusterEntry(directory.name, status, state.kubeconfig if state and running else None)


def connect(name: str) -> ClusterAccess:
    """Access to a running cluster that `up` started; close it.

    Raises:
        DaemonError: it is not running or not ready yet.
    """
    directory = clusters_directory() / name
    state = _read_state(directory)
    if state is None or _server(directory) is None:
        raise DaemonError(f"cluster {name} is not running; start it with: python -m localcluster up --name {name}")
    return ClusterAccess(state.directory)


def serve(name: str) -> None:
    """Run the cluster that `up` described, or one with default contents, in this process until SIGTERM or SIGINT.

    Raises:
        DaemonError: it is already running.
        ProcessError: one of its programs ended.
    """
    directory = clusters_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    with (directory / "lock").open("a+") as lock:
        _take(lock, name)
        (directory / "state.json").unlink(missing_ok=True)
        shutil.rmtree(directory / "cluster", ignore_errors=True)
        contents = _read_contents(directory)
        with LocalCluster.start(
            contents.nodes, contents.images, name=name, directory=directory / "cluster", runner=contents.runner
        ) as cluster:
            _write(directory / "state.json", State(cluster.directory, cluster.kubeconfig, cluster.url))
            while True:
                cluster.control_plane.require_running()
                time.sleep(1)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _take(lock: IO[str], name: str) -> None:
    """Hold the lock. Who only looks whether it is held holds it for an instant, hence more than one attempt."""
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.05)
    else:
        raise DaemonError(f"cluster {name} is already running")
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _server(directory: Path) -> int | None:
    """The process that serves the cluster, if one lives."""
    try:
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int((directory / "lock").read_text() or 0) or None
    return None


def _launch(name: str, directory: Path, contents: Contents) -> int:
    """The process id of a new process, in a session of its own, that serves the cluster."""
    (directory / "state.json").unlink(missing_ok=True)
    _write(directory / "contents.json", contents)
    log = os.fspath(directory / "daemon.log")
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-m", "localcluster", "serve", "--name", name]
    return os.posix_spawn(command[0], command, python_environment(), file_actions=files, setsid=True)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:  # seen before
        return True


def _await_end(name: str, directory: Path) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while _server(directory) is not None:
        if time.monotonic() > deadline:
            raise DaemonError(f"cluster {name} did not end in {STOP_TIMEOUT_SECONDS:.0f} s; see {directory}/daemon.log")
        time.sleep(0.05)


def _read_state(directory: Path) -> State | None:
    try:
        return TypeAdapter(State).validate_json((directory / "state.json").read_bytes())
    except FileNotFoundError:
        return None


def _read_contents(directory: Path) -> Contents:
    try:
        return TypeAdapter(Contents).validate_json((directory / "contents.json").read_bytes())
    except FileNotFoundError:
        return Contents()


def _write(path: Path, content: State | Contents) -> None:
    """Written whole or not at all: others poll for it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(TypeAdapter(type(content)).dump_json(content))
    unfinished.rename(path)
