"""kubectl and Helm as their wheels bring them, bound to one cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = str(Path(__file__).parents[1])  # where `localcluster` is found
CALL_TIMEOUT_SECONDS = 60.0


class CommandError(RuntimeError):
    """A command failed; the message is what it printed to standard error."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl as the cluster's administrator. Its discovery cache is the cluster's own: addresses are used again."""

    kubeconfig: Path
    cache: Path

    def __call__(self, *args: str, input: str | None = None, timeout_seconds: float = CALL_TIMEOUT_SECONDS) -> str:  # noqa: A002
        """What `kubectl ARGS` prints, given `input` on its standard input (`-f -`).

        Raises:
            CommandError: it failed.
            subprocess.TimeoutExpired: it did not end in time.
        """
        return run([kubectl_path(), *args], self.environment(), input=input, timeout_seconds=timeout_seconds)

    def environment(self) -> dict[str, str]:
        """For a kubectl or another client that a test starts itself."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}


def kubectl_path() -> str:
    """The wheel's program in this environment, else the PATH's."""
    return shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"


def run(command: list[str], environment: Mapping[str, str], *, input: str | None, timeout_seconds: float) -> str:  # noqa: A002
    """The command's standard output.

    Raises:
        CommandError: it failed.
        subprocess.TimeoutExpired: it did not end in time.
    """
    result = subprocess.run(
        command,
        env=environment,
        input=input or "",
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if result.returncode != 0:
        raise CommandError(result.stderr.strip() or f"{command[0]} ended with exit code {result.returncode}")
    return result.stdout


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm 4 as the cluster's administrator. Each call is a process: Go's runtime does not belong into a test's."""

    kubectl: Kubectl

    def install(
        self,
        release: str,
        chart: Path,
        *,
        namespace: str,
        values: Mapping[str, Any] | None = None,
        wait_seconds: int | None = None,
    ) -> str:
        """The manifest that was installed; its namespace is made if absent, and awaited ready with `wait_seconds`."""
        request = {"action": "install", "release": release, "chart": str(chart), "namespace": namespace}
        return self._call({**request, "values": dict(values or {})}, wait_seconds)

    def upgrade(
        self,
        release: str,
        chart: Path,
        *,
        namespace: str,
        values: Mapping[str, Any] | None = None,
        wait_seconds: int | None = None,
    ) -> str:
        """The manifest of the release's new revision."""
        request = {"action": "upgrade", "release": release, "chart": str(chart), "namespace": namespace}
        return self._call({**request, "values": dict(values or {})}, wait_seconds)

    def uninstall(self, release: str, *, namespace: str, wait_seconds: int | None = None) -> None:
        """The release and its objects are deleted; what its chart says to keep stays."""
        self._call({"action": "uninstall", "release": release, "namespace": namespace}, wait_seconds)

    def _call(self, request: Mapping[str, Any], wait_seconds: int | None) -> str:
        where = {"kubeconfig": str(self.kubectl.kubeconfig), "wait_seconds": wait_seconds}
        timeout_seconds = (wait_seconds or 0) + CALL_TIMEOUT_SECONDS
        return _call_helm({**request, **where}, self.kubectl.environment(), timeout_seconds=timeout_seconds)


def helm_template(
    chart: Path, release: str = "release", *, namespace: str = "default", values: Mapping[str, Any] | None = None
) -> str:
    """The chart rendered offline, as one YAML stream.

    Raises:
        CommandError: the values break the chart's schema, or a template fails.
    """
    request = {"action": "template", "chart": str(chart), "release": release, "namespace": namespace}
    return _call_helm(request | {"values": dict(values or {})}, dict(os.environ), timeout_seconds=CALL_TIMEOUT_SECONDS)


def helm_lint(chart: Path, *, values: Mapping[str, Any] | None = None) -> list[str]:
    """What `helm lint --strict` has to say, warnings and errors only; empty: the chart is clean."""
    request = {"action": "lint", "chart": str(chart), "values": dict(values or {})}
    report: list[str] = json.loads(_call_helm(request, dict(os.environ), timeout_seconds=CALL_TIMEOUT_SECONDS))
    return report


def _call_helm(request: Mapping[str, Any], environment: Mapping[str, str], *, timeout_seconds: float) -> str:
    command = [sys.executable, "-m", "localcluster.helm"]
    environment = python_environment(environment)
    return run(command, environment, input=json.dumps(request), timeout_seconds=timeout_seconds)


def python_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`environment`, this process's by default, in which a child Python finds `localcluster`."""
    given = dict(os.environ if environment is None else environment)
    return given | {"PYTHONPATH": os.pathsep.join(filter(None, [SOURCES, given.get("PYTHONPATH")]))}
