"""The supervisor that keeps a cluster's programs from outliving it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from localcluster.processes import Process, ProcessError, Program, read_tail
from localcluster.tools import python_environment


def start(log: Path, *argv: str, grace_seconds: float = 0.0) -> Process:
    return Process.start(Program("program", argv, os.environ, log, grace_seconds))


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_process_reports_exit_code(tmp_path: Path) -> None:
    """A program that ends by itself leaves its exit code and its output."""
    process = start(tmp_path / "log", "sh", "-c", "echo done; exit 3")

    wait_until(lambda: process.exit_code is not None)

    assert process.exit_code == 3
    assert read_tail(tmp_path / "log") == "done"


def test_stop_lets_the_program_finish_within_its_grace(tmp_path: Path) -> None:
    """SIGTERM comes first, and a program that heeds it ends with its own exit code."""
    script = f"trap 'exit 7' TERM; echo $$ > {tmp_path}/ready; while :; do sleep 0.01; done"
    process = start(tmp_path / "log", "sh", "-c", script, grace_seconds=60)
    read_pid(tmp_path / "ready")

    process.stop()

    assert process.exit_code == 7


def test_stop_kills_a_program_that_ignores_sigterm(tmp_path: Path) -> None:
    """After its grace a program is killed."""
    script = f"trap '' TERM; echo $$ > {tmp_path}/ready; while :; do sleep 0.01; done"
    process = start(tmp_path / "log", "sh", "-c", script, grace_seconds=0.05)
    read_pid(tmp_path / "ready")

    process.stop()

    assert process.exit_code == 128 + signal.SIGKILL


def test_kill_ends_orphans_in_their_own_session(tmp_path: Path) -> None:
    """What a program started and left to itself, in a session of its own, ends with the program."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/orphan; exec sleep 1000' & sleep 1000"
    process = start(tmp_path / "log", "sh", "-c", script)
    orphan = read_pid(tmp_path / "orphan")

    process.kill()

    assert not is_alive(orphan)


def test_program_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    """A program belongs to the process, not to the thread that started it."""
    started: list[Process] = []
    thread = threading.Thread(target=lambda: started.append(start(tmp_path / "log", "cat", "/dev/zero")))
    thread.start()
    thread.join()

    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(timeout_seconds=0.2)

    started[0].kill()


def test_program_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Killing the supervisor kills its program."""
    process = start(tmp_path / "log", "sleep", "1000")

    os.kill(process.supervisor_pid, signal.SIGKILL)

    wait_until(lambda: not is_alive(process.pid))
    assert process.wait(timeout_seconds=60) == -signal.SIGKILL


def test_program_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """SIGKILL of the parent ends program and orphans."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/orphan; exec sleep 1000' & echo $$ > {tmp_path}/program; sleep 1000"
    code = (
        "import os, pathlib, time; from localcluster.processes import Process, Program\n"
        f"Process.start(Program('p', ['sh', '-c', {script!r}], os.environ, pathlib.Path('{tmp_path}/log'), 0.05))\n"
        "time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=python_environment())
    program, orphan = read_pid(tmp_path / "program"), read_pid(tmp_path / "orphan")

    parent.kill()
    parent.wait()

    wait_until(lambda: not is_alive(program) and not is_alive(orphan))


def test_absent_program_is_reported(tmp_path: Path) -> None:
    """A program that does not exist ends at once, and its log says so."""
    process = start(tmp_path / "log", "/no/such/program")

    assert process.wait(timeout_seconds=60) == 127
    assert read_tail(tmp_path / "log") == "/no/such/program: No such file or directory"


def test_held_descriptor_is_not_seen_by_the_program(tmp_path: Path) -> None:
    """The supervisor keeps a held descriptor open; the program itself does not get it."""
    reader, writer = os.pipe()
    program = Program("ls", ["sh", "-c", "ls /proc/self/fd | wc -w"], os.environ, tmp_path / "log")
    process = Process.start(program, held=[writer])
    os.close(writer)

    closed = os.read(reader, 1) == b""
    os.close(reader)

    assert closed
    assert process.wait(timeout_seconds=60) == 0
    assert read_tail(tmp_path / "log") == "4"  # standard streams, and the directory that ls reads


def test_failing_supervisor_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When not even the supervisor starts, the error names the program and says why."""
    monkeypatch.setattr("localcluster.processes.SUPERVISOR", tmp_path / "absent.py")

    with pytest.raises(ProcessError, match=r"program could not be started: .*absent.py"):
        start(tmp_path / "log", "true")
