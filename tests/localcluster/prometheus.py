"""A real Prometheus server for tests: the PATH's, or Debian's package, unpacked once into the user's cache.

Its licence is Apache-2.0. Nothing is installed, and no right of root is needed. Debian builds it without Kubernetes'
service discovery; `stack.discovery` stands in for that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from localcluster.binaries import BuildError, cache_directory, locked

PACKAGE = "prometheus"
_SECONDS = 300


def prometheus_program() -> Path:
    """Where the program is, or will be once it was ensured."""
    return Path(shutil.which("prometheus") or cache_directory() / "prometheus" / "prometheus")


def ensure_prometheus() -> Path:
    """The program; the first call on a machine takes some seconds, and 50 MB of disk.

    Raises:
        BuildError: there is none on the PATH, and the package cannot be had.
    """
    program = prometheus_program()
    if not os.access(program, os.X_OK):
        with locked(program.parent):
            if not os.access(program, os.X_OK):
                _unpack(program.parent, program)
    return program


def _unpack(directory: Path, program: Path) -> None:
    """The program is in place at once, or not at all."""
    print("fetching Debian's package of Prometheus, once", file=sys.stderr, flush=True)
    scratch = directory / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if shutil.which("apt-get") is None:
        raise BuildError(
            "no prometheus on the PATH, and no apt-get to fetch it with: put Prometheus 2.42 or newer there"
        )
    apt = _apt_get(scratch)
    _run([*apt, "update"], scratch)
    _run([*apt, "download", PACKAGE], scratch)
    (package,) = scratch.glob("*.deb")
    _run(["dpkg-deb", "-x", str(package), str(scratch / "root")], scratch)
    (scratch / "root/usr/bin/prometheus").rename(program)
    shutil.rmtree(scratch)


def _apt_get(scratch: Path) -> list[str]:
    """apt-get with lists and a cache of its own: the system's belong to root, and may be missing."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    options = {
        "Dir::State::Lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    return ["apt-get", "--quiet", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]


def _run(command: list[str], scratch: Path) -> None:
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, timeout=_SECONDS)
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
