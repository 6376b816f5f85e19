"""The images that a local cluster knows: which local program stands in for which container."""

from __future__ import annotations

import sys
from pathlib import Path

from localcluster.config import ImageSpec

TESTS = str(Path(__file__).parents[1])


def default_images() -> dict[str, ImageSpec]:
    """This project's own programs, and the engine simulator in the place of vLLM."""
    python = {"python": [sys.executable], "python3": [sys.executable], "sh": ["/bin/sh"]}
    return {
        "flotilla-operator": _own("flotilla_operator", python),
        "flotilla-router": _own("flotilla_router", python),
        "vllm/vllm-openai": ImageSpec(
            entrypoint=[sys.executable, "-m", "fakes.engine", "serve"],
            programs={**python, "vllm": [sys.executable, "-m", "fakes.engine"]},
            env={"PYTHONPATH": TESTS},
        ),
    }


def _own(module: str, programs: dict[str, list[str]]) -> ImageSpec:
    return ImageSpec(entrypoint=[sys.executable, "-m", module], programs=dict(programs))
