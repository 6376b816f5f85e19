"""Child processes with a processor of their own, and what the kernel says they used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ALLOWED = sorted(os.sched_getaffinity(0))
SERVER, CLIENT = _ALLOWED[0], _ALLOWED[-1]
"""Of the processors that this process may use, one for what is measured, another for the rest if there is one."""


@contextmanager
def on_processor(cpu: int) -> Generator[None]:
    """What is started in the block runs on this processor alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str], *, cpu: int, log: Path, env: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """The command runs on one processor until the block ends."""
    with log.open("wb") as out, on_processor(cpu):
        process = subprocess.Popen(command, env={**environment(), **(env or {})}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """This process's, in which a child Python finds this package."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def cpu_seconds(pid: int) -> float:
    """User and system time of the process, all its threads, so far; in steps of 10 ms."""
    return _cpu_seconds(Path(f"/proc/{pid}/stat"))


def loop_cpu_seconds(pid: int) -> float:
    """The same of its first thread alone, on which an event loop runs."""
    return _cpu_seconds(Path(f"/proc/{pid}/task/{pid}/stat"))


def _cpu_seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory that the process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once somebody listens on the loopback port.

    Raises:
        RuntimeError: the process ended, or nobody listens after 30 s; the message holds the end of its log.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}: {log.read_text()[-2000:]}")


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def module(name: str, *args: str) -> list[str]:
    """The command that runs a Python module."""
    return [sys.executable, "-m", name, *args]
