"""Programs that run under a supervisor of their own and never outlive the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SUPERVISOR = Path(__file__).with_name("supervise.py")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, with which environment, where it logs (appending), and the seconds from SIGTERM to SIGKILL."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    grace_seconds: float = 0.0


class Process:
    """A running program; `pid` is the program's own process id, not its supervisor's."""

    def __init__(self, program: Program, supervisor: subprocess.Popen[bytes], pid: int) -> None:
        self.program = program
        self.pid = pid
        self._supervisor = supervisor

    @classmethod
    def start(cls, program: Program, *, held: Iterable[int] = ()) -> Self:
        """The program runs; the descriptors in `held` stay open until it and all that it started are gone."""
        reader, writer = os.pipe()
        command = [str(os.getpid()), str(program.grace_seconds), str(writer), "--", *program.argv]
        try:
            with program.log.open("ab") as log:
                supervisor = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SUPERVISOR), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(program.env),
                    start_new_session=True,
                    pass_fds=[writer, *held],
                )
        finally:
            os.close(writer)
        with os.fdopen(reader) as report:
            pid = report.read()
        if not pid:
            supervisor.wait()
            raise ProcessError(f"{program.name} could not be started: {read_tail(program.log)}")
        return cls(program, supervisor, int(pid))

    @property
    def exit_code(self) -> int | None:
        """None while anything of the program is left; then its exit code, or 128 + the signal that ended it."""
        return self._supervisor.poll()

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's process id; it is also that of the program's process group and session."""
        return self._supervisor.pid

    def wait(self, *, timeout_seconds: float) -> int:
        """The exit code, once nothing of the program is left.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        return self._supervisor.wait(timeout_seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the program; on return nothing of it is left."""
        self.signal(signal.SIGKILL)
        self._supervisor.wait()

    def request_stop(self) -> None:
        """Ask the program to end, by force after its grace; does not wait."""
        self._supervisor.terminate()

    def stop(self) -> None:
        """End the program, by force after its grace; on return nothing of it is left."""
        self.request_stop()
        self._supervisor.wait()


class ProcessError(RuntimeError):
    """A program did not start or ended too early; the message holds the end of its log."""


def stop_all(processes: Iterable[Process]) -> None:
    """End all of them at once; on return nothing of them is left."""
    stopping = list(processes)
    for process in stopping:
        process.request_stop()
    for process in stopping:
        process.stop()


def read_tail(log: Path, *, max_bytes: int = 4000) -> str:
    """The end of a log file, at most `max_bytes` bytes of it; empty when there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - max_bytes))
        return file.read().decode(errors="replace").strip()
