"""vLLM's command line, as far as operators use it: `serve MODEL --flags`, or `--model MODEL --flags`.

Flags that shape what a client sees are honoured; those that only tune real hardware are accepted with their value; an
unknown one ends with vLLM's usage error and exit code 2.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence

from fakes.engine.settings import Adapter, EngineSettings, SettingsError, read_behaviour

_WITH_VALUE = [
    "allowed-headers",
    "allowed-methods",
    "allowed-origins",
    "api-server-count",
    "attention-backend",
    "block-size",
    "chat-template",
    "chat-template-content-format",
    "code-revision",
    "compilation-config",
    "config-format",
    "cpu-offload-gb",
    "data-parallel-size",
    "default-chat-template-kwargs",
    "disable-access-log-for-endpoints",
    "distributed-executor-backend",
    "download-dir",
    "dtype",
    "generation-config",
    "guided-decoding-backend",
    "hf-config-path",
    "hf-overrides",
    "hf-token",
    "kv-cache-dtype",
    "kv-cache-memory-bytes",
    "kv-transfer-config",
    "limit-mm-per-prompt",
    "load-format",
    "log-config-file",
    "long-prefill-token-threshold",
    "lora-dtype",
    "max-cpu-loras",
    "max-lora-rank",
    "max-log-len",
    "max-num-partial-prefills",
    "model-impl",
    "model-loader-extra-config",
    "num-gpu-blocks-override",
    "override-generation-config",
    "pipeline-parallel-size",
    "quantization",
    "reasoning-parser",
    "response-role",
    "revision",
    "root-path",
    "runner",
    "scheduling-policy",
    "seed",
    "speculative-config",
    "ssl-ca-certs",
    "ssl-cert-reqs",
    "structured-outputs-config",
    "swap-space",
    "task",
    "tensor-parallel-size",
    "tokenizer",
    "tokenizer-mode",
    "tokenizer-revision",
    "tool-parser-plugin",
    "uvicorn-log-level",
]

_SWITCHES = [
    "async-scheduling",
    "disable-custom-all-reduce",
    "disable-fastapi-docs",
    "disable-frontend-multiprocessing",
    "disable-log-requests",
    "disable-log-stats",
    "enable-chunked-prefill",
    "enable-expert-parallel",
    "enable-log-outputs",
    "enable-log-requests",
    "enable-sleep-mode",
    "enable-ssl-refresh",
    "enforce-eager",
    "fully-sharded-loras",
    "language-model-only",
    "return-tokens-as-token-ids",
    "skip-tokenizer-init",
    "trust-remote-code",
]

_HONOURED_SWITCHES = [
    "disable-uvicorn-access-log",
    "enable-auto-tool-choice",
    "enable-force-include-usage",
    "enable-lora",
    "enable-prefix-caching",
    "enable-prompt-tokens-details",
    "enable-request-id-headers",
    "enable-server-load-tracking",
]


_SHORT = {
    "compilation-config": ("-O",),
    "data-parallel-size": ("-dp",),
    "pipeline-parallel-size": ("-pp",),
    "quantization": ("-q",),
    "tensor-parallel-size": ("-tp",),
}


def parse(argv: Sequence[str], env: Mapping[str, str]) -> EngineSettings:
    """Return the engine that `argv` and the environment describe; wrong input exits with code 2 and usage on stderr."""
    parser = _parser()
    args = parser.parse_args([_with_dashes(argument) for argument in _without_command(argv)])
    try:
        return _settings(args, env)
    except SettingsError as error:
        parser.error(str(error))


def _settings(args: argparse.Namespace, env: Mapping[str, str]) -> EngineSettings:
    if args.enable_auto_tool_choice and not args.tool_call_parser:
        raise SettingsError("--enable-auto-tool-choice requires --tool-call-parser")
    model: str = args.model or args.model_tag or "Qwen/Qwen3-0.6B"
    keys: list[str] = args.api_key or ([env["VLLM_API_KEY"]] if env.get("VLLM_API_KEY") else [])
    return EngineSettings(
        model=model,
        served_names=tuple(args.served_model_name or [model]),
        host=args.host,
        port=args.port,
        max_model_len=args.max_model_len,
        max_num_seqs=args.max_num_seqs,
        max_batched_tokens=args.max_num_batched_tokens,
        max_queued_requests=args.max_num_queued_reqs,
        max_queued_tokens=args.max_num_queued_tokens,
        max_logprobs=args.max_logprobs,
        gpu_memory_utilization=args.gpu_memory_utilization,
        api_keys=tuple(keys),
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        enable_auto_tool_choice=bool(args.enable_auto_tool_choice),
        tool_call_parser=args.tool_call_parser,
        enable_lora=bool(args.enable_lora),
        max_loras=args.max_loras,
        adapters=tuple(_adapter(text) for text in args.lora_modules or ()),
        enable_prefix_caching=args.enable_prefix_caching is not False,
        enable_prompt_tokens_details=bool(args.enable_prompt_tokens_details),
        enable_force_include_usage=bool(args.enable_force_include_usage),
        enable_server_load_tracking=bool(args.enable_server_load_tracking),
        enable_request_id_headers=bool(args.enable_request_id_headers),
        access_log=not args.disable_uvicorn_access_log,
        shutdown_timeout_seconds=args.shutdown_timeout,
        dev_mode=env.get("VLLM_SERVER_DEV_MODE") == "1",
        runtime_lora=env.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() in {"1", "true"},
        behaviour=read_behaviour(env),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False, description="simulated vLLM 0.32 server")
    parser.add_argument("model_tag", nargs="?", help="the model to serve")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-model-len", type=_size, default=8192)
    parser.add_argument("--max-num-seqs", type=_size, default=256)
    parser.add_argument("--max-num-batched-tokens", type=_size, default=2048)
    parser.add_argument("--max-num-queued-reqs", type=int)
    parser.add_argument("--max-num-queued-tokens", type=_size)
    parser.add_argument("--max-logprobs", type=int, default=20)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    parser.add_argument("--api-key", nargs="+")
    parser.add_argument("--ssl-keyfile")
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--lora-modules", nargs="+")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    for name in _HONOURED_SWITCHES + _SWITCHES:
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None)
    for name in _WITH_VALUE:
        parser.add_argument(*_SHORT.get(name, ()), f"--{name}")
    return parser


def _without_command(argv: Sequence[str]) -> Sequence[str]:
    return argv[1:] if argv[:1] == ["serve"] else argv


def _with_dashes(argument: str) -> str:
    """vLLM takes `--max_model_len` for `--max-model-len`; values after `=` stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _size(text: str) -> int:
    """Read `8192`, `8k` (8000) or `8K` (8192), as vLLM does."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text} is not a size")
    unit = match[2]
    factor = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}[unit]
    return int(float(match[1]) * factor)


def _adapter(text: str) -> Adapter:
    name, equals, path = text.partition("=")
    if not equals:
        raise SettingsError(f"--lora-modules takes name=path, not {text}")
    return Adapter(name, path)
