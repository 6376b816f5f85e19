"""`make demo`, `make up` and `make down`, each on clusters of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from demo.bringup import BROUGHT_UP, UP_NAME
from localcluster import daemon
from localcluster.tools import SOURCES, Kubectl
from stack.flotilla import ROOT

SECONDS = 240


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty place for the files of `make up`; what a test leaves running there is stopped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    daemon.down(UP_NAME)


@pytest.fixture(autouse=True)
def dump_after_failure() -> None:
    """The suite's shared cluster has nothing to do with these tests."""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python -m demo ARGUMENTS` printed."""
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_the_demo_ends_well_and_says_who_answered() -> None:
    """Forty questions are answered, and pods that are deleted or killed in the middle of requests break no promise."""
    done = demo()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
    assert done.stdout.count("gsm8k-") == done.stdout.count("mmlu-") == 20
    assert done.stdout.count("error event:") == 3
    assert "external: ok" in done.stdout


def test_up_starts_over_after_an_interrupted_one_and_leaves_a_whole_one_alone(state_home: Path) -> None:
    """A cluster on which an earlier `make up` came half way is no obstacle, for `make up` nor for `make down`."""
    _, half_way = daemon.up(UP_NAME)
    kubectl = Kubectl(half_way.kubeconfig, state_home / "cache")
    kubectl("create", "namespace", "agents")

    anew, again = demo("up"), demo("up")
    ready = kubectl("get", "routingpolicies", "-n", "agents", "-o=name") if anew.returncode == 0 else anew.stderr
    ended, nothing = demo("down"), demo("down")

    assert "an earlier make up was interrupted: starting over" in anew.stdout
    assert (anew.returncode, again.returncode) == (0, 0), anew.stderr + again.stderr
    assert "already running" in again.stdout
    assert ready == "routingpolicy.flotilla.dev/support\n"
    assert (
        anew.stdout[anew.stdout.index("export KUBECONFIG") :] == again.stdout[again.stdout.index("export KUBECONFIG") :]
    )
    assert (ended.stdout, nothing.stdout) == ("ended\n", "was not running\n")
    assert not (half_way.directory / BROUGHT_UP).exists()
