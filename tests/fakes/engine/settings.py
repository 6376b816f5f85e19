"""What one simulated engine is: the part given by vLLM's own flags, and the part given by `SIM_*` variables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fakes.engine.model import Limits

LoadFailure = Literal["oom", "crash"]

_LOAD_FAILURES: Mapping[str, LoadFailure] = {"oom": "oom", "crash": "crash"}


class SettingsError(ValueError):
    """A variable or flag has a value that the simulator cannot take."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the made-up hardware and weights behave; every field is read from the variable named in its docstring."""

    load_seconds: float = 0.0
    """SIM_LOAD_SECONDS: weights load this long before the port opens."""
    prefill_rate: float = math.inf
    """SIM_PREFILL_TOKENS_PER_SECOND, 0 (default) takes no time."""
    decode_rate: float = math.inf
    """SIM_DECODE_TOKENS_PER_SECOND of the whole batch, 0 (default) takes no time."""
    sequence_rate: float = math.inf
    """SIM_SEQUENCE_TOKENS_PER_SECOND of one sequence alone, 0 (default) takes no time."""
    skill: float = 1.0
    """SIM_SKILL: share of prompts, 0 to 1, that are answered with confidence."""
    kv_tokens: int = 262_144
    """SIM_KV_TOKENS: size of the KV cache."""
    output_tokens: int = 32
    """SIM_OUTPUT_TOKENS: about how long a made-up answer is."""
    seed: int = 0
    """SIM_SEED: another seed gives other answers and other confident prompts."""
    fail_at_load: LoadFailure | None = None
    """SIM_FAIL_AT_LOAD: `oom` or `crash`."""
    answers: Path | None = None
    """SIM_ANSWERS: JSON object prompt -> answer, or JSON lines {prompt, answer, wrong?}."""
    check_model_files: bool = True
    """SIM_CHECK_MODEL_FILES: 0 starts although the files of a local or offline model are absent."""
    embedding_dimensions: int = 0
    """SIM_EMBEDDING_DIMENSIONS: above 0 it serves /v1/embeddings, with vectors of so many numbers, and nothing else."""
    refuse_params: frozenset[str] = frozenset()
    """SIM_REFUSE_PARAMS: comma-separated request fields answered with a 400 (external provider only)."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that requests can name as their model."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One engine, ready to start."""

    model: str
    served_names: tuple[str, ...]
    host: str = "0.0.0.0"
    port: int = 8000
    max_model_len: int = 8192
    max_num_seqs: int = 256
    max_batched_tokens: int = 2048
    max_queued_requests: int | None = None
    """Most choices in flight, waiting or running; more are refused with 503."""
    max_queued_tokens: int | None = None
    """Prompt tokens not yet computed from which on requests are refused with 503."""
    max_logprobs: int = 20
    gpu_memory_utilization: float = 0.92
    api_keys: tuple[str, ...] = ()
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    enable_auto_tool_choice: bool = False
    tool_call_parser: str | None = None
    enable_lora: bool = False
    max_loras: int = 1
    adapters: tuple[Adapter, ...] = ()
    enable_prefix_caching: bool = True
    enable_prompt_tokens_details: bool = False
    enable_force_include_usage: bool = False
    enable_server_load_tracking: bool = False
    enable_request_id_headers: bool = False
    access_log: bool = True
    shutdown_timeout_seconds: float = 0.0
    dev_mode: bool = False
    """VLLM_SERVER_DEV_MODE=1: /sleep, /wake_up, /pause, /resume and their questions exist."""
    runtime_lora: bool = False
    """VLLM_ALLOW_RUNTIME_LORA_UPDATING=1: adapters can be loaded and unloaded."""
    behaviour: Behaviour = field(default_factory=Behaviour)

    @property
    def limits(self) -> Limits:
        """The queueing model's view."""
        sim = self.behaviour
        return Limits(
            max_num_seqs=self.max_num_seqs,
            max_batched_tokens=max(self.max_batched_tokens, self.max_num_seqs),
            kv_tokens=sim.kv_tokens,
            prefill_rate=sim.prefill_rate,
            decode_rate=sim.decode_rate,
            sequence_rate=sim.sequence_rate,
            max_loras=self.max_loras,
        )


def read_behaviour(env: Mapping[str, str]) -> Behaviour:
    """Read the `SIM_*` variables.

    Raises:
        SettingsError: one of them has no usable value.
    """
    unknown = sorted(name for name in env if name.startswith("SIM_") and name not in _VARIABLES)
    if unknown:
        raise SettingsError(f"unknown variable {unknown[0]}; known are {', '.join(sorted(_VARIABLES))}")
    failure = env.get("SIM_FAIL_AT_LOAD") or None
    if failure and failure not in _LOAD_FAILURES:
        raise SettingsError(f"SIM_FAIL_AT_LOAD={failure} is neither oom nor crash")
    answers = env.get("SIM_ANSWERS")
    refused = (name.strip() for name in env.get("SIM_REFUSE_PARAMS", "").split(","))
    return Behaviour(
        load_seconds=_number(env, "SIM_LOAD_SECONDS", 0.0),
        prefill_rate=_number(env, "SIM_PREFILL_TOKENS_PER_SECOND", 0.0) or math.inf,
        decode_rate=_number(env, "SIM_DECODE_TOKENS_PER_SECOND", 0.0) or math.inf,
        sequence_rate=_number(env, "SIM_SEQUENCE_TOKENS_PER_SECOND", 0.0) or math.inf,
        skill=_number(env, "SIM_SKILL", 1.0, most=1.0),
        kv_tokens=int(_number(env, "SIM_KV_TOKENS", 262_144, least=1)),
        output_tokens=int(_number(env, "SIM_OUTPUT_TOKENS", 32, least=1)),
        seed=int(_number(env, "SIM_SEED", 0)),
        fail_at_load=_LOAD_FAILURES[failure] if failure else None,
        answers=Path(answers) if answers else None,
        check_model_files=env.get("SIM_CHECK_MODEL_FILES", "1") != "0",
        embedding_dimensions=int(_number(env, "SIM_EMBEDDING_DIMENSIONS", 0)),
        refuse_params=frozenset(name for name in refused if name),
    )


_VARIABLES = frozenset(
    {
        "SIM_ANSWERS",
        "SIM_CHECK_MODEL_FILES",
        "SIM_DECODE_TOKENS_PER_SECOND",
        "SIM_DOWNLOAD_SECONDS",
        "SIM_EMBEDDING_DIMENSIONS",
        "SIM_FAIL_AT_LOAD",
        "SIM_KV_TOKENS",
        "SIM_LOAD_SECONDS",
        "SIM_OUTPUT_TOKENS",
        "SIM_PREFILL_TOKENS_PER_SECOND",
        "SIM_REFUSE_PARAMS",
        "SIM_SEED",
        "SIM_SEQUENCE_TOKENS_PER_SECOND",
        "SIM_SKILL",
    }
)


def _number(env: Mapping[str, str], name: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
    text = env.get(name)
    if text is None or text == "":
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name}={text} is not a number") from None
    if not least <= value <= most:
        raise SettingsError(f"{name}={text} is not between {least:g} and {most:g}")
    return value
