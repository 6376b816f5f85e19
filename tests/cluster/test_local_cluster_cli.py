"""`python -m localcluster`: clusters that outlive the shell that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from localcluster import daemon
from localcluster.__main__ import main
from localcluster.tools import CommandError, Kubectl, python_environment, run


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty place for clusters' files; what a test leaves running there is stopped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    for entry in daemon.clusters():
        daemon.down(entry.name)


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A file that asks for a cluster without nodes."""
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({"nodes": [], "runner": False}))
    return str(path)


def command_line(*arguments: str) -> str:
    command = [sys.executable, "-m", "localcluster", *arguments]
    return run(command, python_environment(), input=None, timeout_seconds=120)


def test_up_prints_a_kubeconfig_that_works_until_down(state_home: Path, bare: str) -> None:
    """The cluster outlives the command that started it, is found by name, and ends with its files on `down`."""
    kubeconfig = state_home / "flotilla" / "clusters" / "mine" / "cluster" / "credentials" / "admin.kubeconfig"

    started = command_line("up", "--name", "mine", "--contents", bare)
    again = command_line("up", "--name", "mine")
    namespaces = Kubectl(kubeconfig, state_home / "cache")("get", "namespaces", "-o=name")
    status = command_line("status")
    stopped = command_line("down", "--name", "mine")

    assert started.splitlines()[0].startswith("cluster mine is running at https://127.")
    assert started.splitlines()[1] == f"export KUBECONFIG={kubeconfig}"
    assert again == started.replace("is running", "was already running")
    assert "namespace/default" in namespaces
    assert status == f"NAME  STATUS   KUBECONFIG\nmine  Running  {kubeconfig}\n"
    assert stopped == "cluster mine stopped\n"
    assert not kubeconfig.exists()


def test_killed_daemon_is_shown_dead_and_started_anew(state_home: Path, bare: str) -> None:
    """A cluster whose process was killed is Dead; `up` starts a new one in its place."""
    contents = daemon.Contents(nodes=[], runner=False)
    _, first = daemon.up("mine", contents)
    pid = int((state_home / "flotilla" / "clusters" / "mine" / "lock").read_text())

    os.kill(pid, signal.SIGKILL)
    while (status := next(daemon.clusters()).status) == "Running":
        time.sleep(0.02)
    already, second = daemon.up("mine", contents)

    assert status == "Dead"
    assert not already
    assert first.kubeconfig == second.kubeconfig
    with daemon.connect("mine") as access:
        assert "namespace/default" in access.kubectl("get", "namespaces", "-o=name")


def test_connecting_to_an_absent_cluster_says_what_to_do(state_home: Path) -> None:
    """A cluster that is not running cannot be used; the error names the command that starts it."""
    with pytest.raises(daemon.DaemonError, match="start it with: python -m localcluster up --name absent"):
        daemon.connect("absent")


def test_down_of_a_cluster_that_is_not_there_says_so(state_home: Path) -> None:
    """Nothing to stop is not an error."""
    assert command_line("down", "--name", "absent") == "cluster absent was not running\n"


def test_status_without_clusters_is_a_header(state_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No clusters: the table is empty."""
    assert main(["status"]) == 0

    assert capsys.readouterr().out == "NAME  STATUS  KUBECONFIG\n"


def test_start_that_fails_shows_the_log(state_home: Path, monkeypatch: pytest.MonkeyPatch, bare: str) -> None:
    """When a program of the cluster ends instead of starting, `up` fails with the reason and leaves nothing running."""
    assets = state_home / "assets"
    assets.mkdir()
    for program in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        (assets / program).write_text("#!/bin/sh\necho no disk today >&2\nexit 1\n")
        (assets / program).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))

    with pytest.raises(CommandError, match=r"cluster mine did not start:[^$]*exit code 1: no disk today"):
        command_line("up", "--name", "mine", "--contents", bare)

    assert [entry.status for entry in daemon.clusters()] == ["Dead"]


@pytest.mark.parametrize("name", ["Upper", "-a", "a/b", "a" * 41, ""])
def test_name_must_be_a_label(name: str) -> None:
    """A name that cannot be a directory and a host label is a usage error."""
    result = subprocess.run(
        [sys.executable, "-m", "localcluster", "up", f"--name={name}"],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 2
    assert "is not a lower-case DNS label" in result.stderr
