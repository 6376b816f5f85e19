"""What runs in place of each image: our own programs, and simulators for what needs a GPU or money."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from localcluster.config import ImageSpec

OPERATOR_IMAGE = "flotilla-operator"
ROUTER_IMAGE = "flotilla-router"
ENGINE_IMAGE = "vllm/vllm-openai"
PROVIDER_IMAGE = "flotilla-simulated-provider"

_TESTS = str(Path(__file__).parents[1])
_PYTHON = [sys.executable]

ENGINE_SPEED: Mapping[str, str] = {
    "SIM_LOAD_SECONDS": "1",
    "SIM_SEQUENCE_TOKENS_PER_SECOND": "200",
    "SIM_SKILL": "0.6",
}
"""How fast and how sure the simulated small models are."""


def make_images(engine_env: Mapping[str, str] | None = None) -> dict[str, ImageSpec]:
    """Image name -> local program; `engine_env` is added to the simulated engines' and provider's behaviour."""
    fakes = {"PYTHONPATH": _TESTS}
    engine = {**fakes, **ENGINE_SPEED, **(engine_env or {})}
    return {
        OPERATOR_IMAGE: ImageSpec([*_PYTHON, "-m", "flotilla_operator"]),
        ROUTER_IMAGE: ImageSpec([*_PYTHON, "-m", "flotilla_router"]),
        ENGINE_IMAGE: ImageSpec(
            [*_PYTHON, "-m", "fakes.engine", "serve"],
            programs={"python3": _PYTHON, "hf": [*_PYTHON, "-m", "fakes.hf"]},
            env=engine,
        ),
        PROVIDER_IMAGE: ImageSpec([*_PYTHON, "-m", "fakes.provider"], env=fakes),
    }
