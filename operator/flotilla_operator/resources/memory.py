"""Will the model fit? An estimate from the count of weights alone; it warns and never blocks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.meta import parse_weight_count

from .specs import Served

GIB = 1024**3
DEFAULT_UTILIZATION = 0.9
"""vLLM's default of --gpu-memory-utilization."""
OVERHEAD_GIB_PER_GPU = 1.0
"""CUDA context, CUDA graphs and activations."""
KV_BYTES_PER_TOKEN = 46_000
"""KV cache of one token for a model of a billion weights, at two bytes per element; it grows with the square root.

Source: 2 x layers x KV heads x head size x 2 bytes from the published configurations of Qwen2.5 (1.5B 28 kB, 7B 57 kB,
32B 262 kB) and Llama 3 (8B 131 kB, 70B 328 kB): the curve lies at or above all but the 32B (260 kB).
"""

_WEIGHT_BYTES = (
    (re.compile(r"awq|gptq|int4|w4a16|4bit|bitsandbytes|nf4|mxfp4|nvfp4|marlin", re.IGNORECASE), 0.56),
    (re.compile(r"fp8|int8|w8a8|8bit", re.IGNORECASE), 1.0),
)
"""Bytes of one weight by quantisation; four bits and their scales are 0.56."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Memory of one replica over all its GPUs, in GiB."""

    weights_gib: float
    kv_cache_gib: float | None
    """For one request of maxModelLen tokens; None: that is not set, and the model's own length is not known."""
    overhead_gib: float
    budget_gib: float
    """memoryGiB x GPUs x --gpu-memory-utilization."""

    @property
    def needed_gib(self) -> float:
        """All that vLLM must hold to start, as far as it is known."""
        return self.weights_gib + (self.kv_cache_gib or 0) + self.overhead_gib

    @property
    def fits(self) -> bool | None:
        """Whether it starts; None: the weights fit, and the KV cache is not known."""
        if self.needed_gib > self.budget_gib:
            return False
        return None if self.kv_cache_gib is None else True


def estimate_memory(served: Served, profile: AcceleratorProfileSpec) -> MemoryEstimate | None:
    """weights = parameters x bytes per weight; KV cache = maxModelLen x bytes per token; None: parameters unknown."""
    if served.spec.model.parameters is None:
        return None
    parameters = parse_weight_count(served.spec.model.parameters)
    engine = served.spec.engine
    args = (engine and engine.args) or []
    tokens = engine and engine.maxModelLen
    per_token = KV_BYTES_PER_TOKEN * math.sqrt(parameters / 1e9) * _kv_factor(args)
    return MemoryEstimate(
        weights_gib=parameters * _bytes_per_weight(served.spec.model.uri, args) / GIB,
        kv_cache_gib=tokens * per_token / GIB if tokens else None,
        overhead_gib=OVERHEAD_GIB_PER_GPU * served.gpus,
        budget_gib=profile.memoryGiB * served.gpus * _utilization(args),
    )


def flag_value(args: list[str], *flags: str) -> str | None:
    """The value of the last of `flags` in a command line, as `--flag value` or `--flag=value`."""
    found = None
    for index, arg in enumerate(args):
        name, _, value = arg.partition("=")
        if name in flags:
            found = value or (args[index + 1] if index + 1 < len(args) else None)
    return found


def _bytes_per_weight(uri: str, args: list[str]) -> float:
    """By --quantization, else by the model's name (vLLM reads quantisation from the model too), else by --dtype."""
    said = flag_value(args, "--quantization", "-q") or uri.rpartition("/")[2]
    for pattern, size in _WEIGHT_BYTES:
        if pattern.search(said):
            return size
    return 4.0 if flag_value(args, "--dtype") in ("float32", "float") else 2.0


def _kv_factor(args: list[str]) -> float:
    return 0.5 if (flag_value(args, "--kv-cache-dtype") or "").startswith("fp8") else 1.0


def _utilization(args: list[str]) -> float:
    try:
        return float(flag_value(args, "--gpu-memory-utilization") or DEFAULT_UTILIZATION)
    except ValueError:
        return DEFAULT_UTILIZATION
