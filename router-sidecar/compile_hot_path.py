"""A build hook that compiles the router's hot path with mypyc into the wheel; the sources stay what they are.

It runs with HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 and needs a C compiler.
Why: docs/decisions/2026-11-23-compiled-hot-path.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "flotilla_router"
INTERPRETED = frozenset(
    (
        "__init__.py",
        "__main__.py",  # runs once
        "settings.py",  # runs once
        "control.py",  # coroutines that mostly wait
        "control_client.py",  # the same
        "reviews.py",  # the same
        "artifacts.py",  # the same
        "sources.py",  # runs once for each artifact
        "room.py",  # the same
        "vectors.py",  # coroutines that mostly wait
        "learned.py",  # numpy's calls take the time
        "wakes.py",  # the same
        "splice.py",  # calls C through ctypes
        "logs.py",  # its structs have required fields, which mypyc's classes lose
        "chunks.py",  # msgspec reads its structs' annotations, which mypyc makes coarser
        "responses.py",  # the same
        "wire.py",  # the same
        "claims.py",  # the same
        "rows.py",  # the same
        "requestlog.py",  # a thread that mostly waits; mypyc cannot derive from threading.Thread
        "segments.py",  # what that thread calls
        "text.py",  # msgspec reads its structs' annotations
        "artifact.py",  # numpy's calls take the time, and the same
        "weights.py",  # runs once for each artifact
        "embedders/__init__.py",  # numpy's calls take the time
        "embedders/embedding.py",  # the same
        "embedders/hashed.py",  # the same
        "embedders/remote.py",  # msgspec reads its structs' annotations
        "embedders/static.py",  # numpy's calls take the time
        "embedders/surface.py",  # the same
        "embedders/tokens.py",  # the same
        "strategies/__init__.py",
        "strategies/winrate.py",  # numpy's calls take the time
        "strategies/qualitygap.py",  # one of a pair with winrate
        "strategies/cluster.py",  # numpy's calls take the time
        "strategies/scores.py",  # its dataclasses are made by what is not compiled
    )
)


class CompileHotPath(BuildHookInterface[Any]):
    """Adds a compiled twin of each module of the hot path to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's name
        """Compile a copy, so that no compiled module ever shadows a source that is edited."""
        root = Path(self.root)
        self._copy = tempfile.TemporaryDirectory(prefix="flotilla-compiled-")
        self._built = Path(self._copy.name)
        package = shutil.copytree(
            root / "router-sidecar" / PACKAGE, self._built / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
        )
        modules = sorted(
            path for path in package.rglob("*.py") if path.relative_to(package).as_posix() not in INTERPRETED
        )
        self._compile([str(path.relative_to(self._built)) for path in modules], root / "operator")
        for library in (*self._built.glob("*.so"), *package.rglob("*.so")):
            build_data["force_include"][str(library)] = str(library.relative_to(self._built))
        build_data["infer_tag"] = True
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the copy."""
        self._copy.cleanup()

    def _compile(self, modules: list[str], contract: Path) -> None:
        command = [sys.executable, "-m", "mypyc", "--ignore-missing-imports", "--follow-imports=silent", *modules]
        environment = {**os.environ, "MYPYPATH": str(contract), "MYPYC_OPT_LEVEL": "3"}
        done = subprocess.run(command, cwd=self._built, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"mypyc failed:\n{done.stdout}{done.stderr}")
