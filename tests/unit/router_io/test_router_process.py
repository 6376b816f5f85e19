"""The real process: how it starts and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rig import NAMESPACE, POLICY, a_snapshot


def start(folder: Path, *, before: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
    """The real process; before: a command that runs it."""
    settings = {
        "FLOTILLA_NAMESPACE": NAMESPACE,
        "FLOTILLA_POLICY": POLICY,
        "FLOTILLA_DATA_HOST": "127.0.0.1",
        "FLOTILLA_DATA_PORT": "0",
        "FLOTILLA_ADMIN_HOST": "127.0.0.1",
        "FLOTILLA_ADMIN_PORT": "0",
        "FLOTILLA_SETTLE_SECONDS": "0",
        "FLOTILLA_SNAPSHOT_DIR": str(folder),
    }
    return subprocess.Popen(
        [*before, sys.executable, "-m", "flotilla_router"],
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_process_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    """It says where it listens, drains, and ends well."""
    (tmp_path / "snapshot.json").write_bytes(a_snapshot().to_json())
    process = start(tmp_path)
    assert process.stdout is not None
    events: list[dict[str, Any]] = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "router started":
            process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=20)[1]

    assert process.returncode == 0
    assert [event["event"] for event in events] == ["snapshot applied", "router started", "draining", "router ended"]
    assert events[1]["data_port"] > 0
    assert errors == ""


def test_a_certificate_that_is_missing_never_means_plain_http(tmp_path: Path) -> None:
    """With a folder for one, but nothing in it, the process does not start."""
    (tmp_path / "tls").mkdir()
    process = start(tmp_path, FLOTILLA_TLS_DIR=str(tmp_path / "tls"))
    errors = process.communicate(timeout=20)[1]

    assert process.returncode == 1
    assert errors.startswith("flotilla-router: cannot start: ")


def test_the_process_may_open_as_many_files_as_its_connections_need(tmp_path: Path) -> None:
    """Container runtimes allow 1,024 files unless a process asks for more."""
    before = ("sh", "-c", 'ulimit -Sn 300; exec "$@"', "sh")
    process = start(tmp_path, before=before, FLOTILLA_MAX_CONNECTIONS="200")
    assert process.stdout is not None
    process.stdout.readline()
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert (400 <= soft <= hard, process.returncode) == (True, 0)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    """The process ends with 2 and says what to set."""
    process = start(tmp_path, FLOTILLA_POLICY="")
    errors = process.communicate(timeout=20)[1]

    assert process.returncode == 2
    assert errors.startswith("flotilla-router: FLOTILLA_POLICY is not set")


def test_a_router_loads_no_kinds_model() -> None:
    """Their schemas take memory that every pod with a sidecar would pay for."""
    code = "import sys, flotilla_router.__main__; print(*(name for name in sys.modules if 'flotilla_api.' in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    kinds = {f"flotilla_api.{name}" for name in ("policy", "expert", "fallback", "accelerator", "status", "crds")}
    assert "flotilla_api.snapshot" in loaded
    assert kinds.isdisjoint(loaded)
