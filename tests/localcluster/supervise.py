"""Runs one program and leaves nothing of it behind: `python supervise.py PARENT GRACE REPORT_FD -- PROGRAM [ARG...]`.

The program ends when this script is told to (SIGTERM, SIGINT), and when the process PARENT is gone, however it went:
first SIGTERM, after GRACE seconds SIGKILL. Whatever the program started, in its own session or orphaned, is then killed
too. If this script itself is killed, the kernel kills the program. The program's process id is written to REPORT_FD.

Why not PR_SET_PDEATHSIG in the parent's own child: that signal fires when the *thread* that made the child ends, and it
does not reach grandchildren. Only the standard library, and one thread: forking is safe here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str]) -> int:
    """Supervise until the program has ended; its exit code, or 128 + the signal that ended it."""
    parent, grace, report, program = int(argv[1]), float(argv[2]), int(argv[3]), argv[5:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeups = _wake_on_signals()
    parent_gone = _watch(parent)
    child = _spawn(program)
    os.write(report, str(child).encode())
    os.close(report)
    code = _wait(child, parent_gone, wakeups, grace)
    _kill_descendants()
    return code


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _wake_on_signals() -> socket.socket:
    """A socket that becomes readable, with the signal's number, on SIGCHLD and on a request to stop."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _note)
    return reader


def _note(_number: int, _frame: FrameType | None) -> None:
    """Nothing: a signal without a handler would not reach the wakeup descriptor."""


def _watch(parent: int) -> int:
    """A descriptor that is readable once the process `parent` is gone."""
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        sys.exit("the parent is gone")
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    return descriptor


def _spawn(program: list[str]) -> int:
    supervisor = os.getpid()
    for descriptor in _open_descriptors():
        with contextlib.suppress(OSError):  # the directory listing's own descriptor
            os.set_inheritable(descriptor, descriptor <= 2)
    child = os.fork()
    if child == 0:
        _become(program, supervisor)
    return child


def _open_descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


def _become(program: list[str], supervisor: int) -> NoReturn:
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(program[0], program)
    except OSError as error:
        print(f"{program[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


def _wait(child: int, parent_gone: int, wakeups: socket.socket, grace: float) -> int:
    deadline: float | None = None  # of the SIGTERM that was sent
    while True:
        sources = [wakeups, parent_gone] if deadline is None else [wakeups]
        timeout = None if deadline is None else max(0.01, deadline - time.monotonic())
        readable, _, _ = select.select(sources, [], [], timeout)
        signals = set(wakeups.recv(4096)) if wakeups in readable else set[int]()
        code = _reap(child)
        if code is not None:
            return code
        if deadline is None and (parent_gone in readable or signals - {signal.SIGCHLD}):
            os.kill(child, signal.SIGTERM)
            deadline = time.monotonic() + grace
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)


def _reap(child: int) -> int | None:
    """The child's exit code once it ended; ended orphans that were handed to this process are collected on the way."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            exit_code = os.waitstatus_to_exitcode(status)
            code = exit_code if exit_code >= 0 else 128 - exit_code


def _kill_descendants() -> None:
    """Kill what the program left: orphans become this process's children, so repeat until there are none."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    me = str(os.getpid())
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if fields[1] == me:
                found.append(int(entry.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
