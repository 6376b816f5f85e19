"""What runs in place of each image: our own programs, and simulators for what needs a GPU or money."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from localcluster.config import ImageSpec
from localcluster.prometheus import prometheus_program

OPERATOR_IMAGE = "flotilla-operator"
ROUTER_IMAGE = "flotilla-router"
ENGINE_IMAGE = "vllm/vllm-openai"
PROVIDER_IMAGE = "flotilla-simulated-provider"
PROMETHEUS_IMAGE = "prom/prometheus"
DISCOVERY_IMAGE = "flotilla-prometheus-discovery"
PYTHON_IMAGE = "python-openai"
"""What the agents of examples/sidecar run on: Python and the OpenAI SDK, and nothing of ours."""

_TESTS = str(Path(__file__).parents[1])
_ENGINE_PROGRAMS = Path(__file__).with_name("bin")
_PYTHON = [sys.executable]

ENGINE_SPEED: Mapping[str, str] = {
    "SIM_LOAD_SECONDS": "1",
    "SIM_SEQUENCE_TOKENS_PER_SECOND": "200",
    "SIM_SKILL": "0.6",
}
"""How fast and how sure the simulated small models are."""


def make_images(engine_env: Mapping[str, str] | None = None) -> dict[str, ImageSpec]:
    """Image name -> local program; `engine_env` is added to the simulated engines' and provider's behaviour.

    FLOTILLA_ROUTER_BUILD: a folder with the compiled router, which then runs in place of its sources.
    """
    fakes = {"PYTHONPATH": _TESTS}
    router = {"PYTHONPATH": os.environ["FLOTILLA_ROUTER_BUILD"]} if "FLOTILLA_ROUTER_BUILD" in os.environ else {}
    engine = {**fakes, **ENGINE_SPEED, "PATH": program_path(_ENGINE_PROGRAMS), **(engine_env or {})}
    return {
        OPERATOR_IMAGE: ImageSpec([*_PYTHON, "-m", "flotilla_operator"]),
        ROUTER_IMAGE: ImageSpec([*_PYTHON, "-m", "flotilla_router"], env=router),
        ENGINE_IMAGE: ImageSpec(
            [*_PYTHON, "-m", "fakes.engine"],
            programs={"python3": _PYTHON, "hf": [*_PYTHON, "-m", "fakes.hf"]},
            env=engine,
        ),
        PROVIDER_IMAGE: ImageSpec([*_PYTHON, "-m", "fakes.provider"], env=fakes),
        PROMETHEUS_IMAGE: ImageSpec([str(prometheus_program())]),
        DISCOVERY_IMAGE: ImageSpec([*_PYTHON, "-m", "stack.discovery"], env=fakes),
        PYTHON_IMAGE: ImageSpec(_PYTHON, {"python": _PYTHON}),
    }


def program_path(first: Path) -> str:
    """The PATH of an image whose own programs lie in `first`; then this Python's and the system's."""
    return os.pathsep.join([str(first), str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
