"""kind's own command line, built once with Go into the user's cache, to check what kind makes of kind-config.yaml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from localcluster.binaries import BuildError, cache_directory, ensure_go, go_environment, locked

MODULE = Path(__file__).parent


def ensure_kind() -> Path:
    """kind, from the cache or a new build of about half a minute; one process builds, the others wait.

    Raises:
        BuildError: Go is missing and its wheel cannot be installed, or the build failed.
    """
    match = re.search(r"sigs\.k8s\.io/kind (v\S+)", (MODULE / "go.mod").read_text())
    assert match, "go.mod requires no kind"
    program = cache_directory() / "kind" / match[1] / "kind"
    if not os.access(program, os.X_OK):
        with locked(program.parent):
            if not os.access(program, os.X_OK):
                _build(program)
    return program


def _build(program: Path) -> None:
    scratch = program.with_name(".building")
    environment = go_environment(scratch)
    command = [
        ensure_go(environment, scratch / "go"),
        "build",
        "-trimpath",
        "-ldflags",
        "-s -w",
        "-o",
        str(scratch),
        "tool",
    ]
    scratch.mkdir(exist_ok=True)
    result = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    (scratch / "kind").rename(program)
    shutil.rmtree(scratch)
