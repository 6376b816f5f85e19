"""What tests may ask about, or do to, running pods."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def container_pid(state_dir: Path, namespace: str, pod: str, container: str) -> int:
    """The process id, on this host, of a running container's first process.

    Raises:
        LookupError: no such container runs.
    """
    files = sorted(
        (state_dir / "pods").glob(f"{namespace}_{pod}_*/{container}/pid"), key=lambda file: file.stat().st_mtime
    )
    if not files:
        raise LookupError(f"no container {container} of pod {namespace}/{pod} runs")
    return int(files[-1].read_text())


def kill_container(state_dir: Path, namespace: str, pod: str, container: str) -> None:
    """SIGKILL the container's first process, and with it all that it started.

    Raises:
        LookupError: no such container runs.
    """
    os.kill(container_pid(state_dir, namespace, pod, container), signal.SIGKILL)


def container_log(state_dir: Path, namespace: str, pod: str, container: str, *, restart: int = 0) -> str:
    """What the container wrote in its run after that many restarts; empty if there was none yet."""
    logs = list((state_dir / "pods").glob(f"{namespace}_{pod}_*/{container}/{restart}.log"))
    return max(logs, key=lambda log: log.stat().st_mtime).read_text(errors="replace") if logs else ""
