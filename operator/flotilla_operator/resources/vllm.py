"""vLLM's command line and environment, from a spec."""

from __future__ import annotations

from flotilla_api.expert import DEFAULT_MAX_NUM_SEQS, Engine, ModelSource
from flotilla_api.names import ENGINE_PORT

from .manifest import Manifest
from .specs import Served

MODELS_DIR = "/models"
CACHE_DIR = "/cache"
HF_SCHEME = "hf://"
PVC_SCHEME = "pvc://"
FETCH_BUFFER_LIMIT = "4gb"
"""What the download may hold in memory; hf_xet's own limit is 8 GB in some versions, whatever the container's."""


def vllm_args(served: Served) -> list[str]:
    """Arguments after `vllm serve`: the model, what Flotilla sets, then the user's own."""
    engine = served.spec.engine or Engine.model_validate({})
    args = [
        model_path(served.spec.model),
        *("--served-model-name", served.name),
        *("--host", "$(POD_IP)"),
        *("--port", str(ENGINE_PORT)),
        *("--tensor-parallel-size", str(served.gpus)),
        *("--max-num-seqs", str(engine.maxNumSeqs or DEFAULT_MAX_NUM_SEQS)),
    ]
    if engine.maxModelLen:
        args += ["--max-model-len", str(engine.maxModelLen)]
    if served.may_sleep:
        args.append("--enable-sleep-mode")
    return [*args, *(engine.args or [])]


def model_path(source: ModelSource) -> str:
    """Where the engine's container finds the weights."""
    if source.uri.startswith(HF_SCHEME):
        return f"{MODELS_DIR}/{source.uri.removeprefix(HF_SCHEME)}"
    return f"{MODELS_DIR}/{source.uri.removeprefix(PVC_SCHEME).partition('/')[2].strip('/')}"


def claim_name(source: ModelSource) -> str | None:
    """The PersistentVolumeClaim that holds the weights; None: they are downloaded."""
    if not source.uri.startswith(PVC_SCHEME):
        return None
    return source.uri.removeprefix(PVC_SCHEME).partition("/")[0]


def fetch_command(source: ModelSource) -> list[str]:
    """The command that puts a hf:// model where `model_path` says.

    Some repositories hold the weights a second time, in the form of their makers, under original/.
    """
    revision = ["--revision", source.revision] if source.revision else []
    repository = source.uri.removeprefix(HF_SCHEME)
    return ["hf", "download", repository, *revision, "--exclude", "original/*", "--local-dir", model_path(source)]


def engine_env(served: Served) -> list[Manifest]:
    """The engine's environment: its address, caches in a writable place, no way to the internet; the user's wins."""
    defaults = [*_writable_env(), _value("HF_HUB_OFFLINE", "1"), _value("VLLM_NO_USAGE_STATS", "1")]
    if served.may_sleep:  # /sleep and /wake_up are among the paths that only this opens
        defaults.append(_value("VLLM_SERVER_DEV_MODE", "1"))
    return [_pod_ip(), *_with_user_env(served, defaults)]


def fetch_env(served: Served) -> list[Manifest]:
    """The download's environment: the user's, for proxies and mirrors, and the token, which only the download sees."""
    token = served.spec.model.tokenSecretRef
    secret = (
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": token.name, "key": token.key}}} if token else None
    )
    defaults = [
        *_writable_env(),
        _value("HF_HUB_DISABLE_TELEMETRY", "1"),
        _value("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT", FETCH_BUFFER_LIMIT),
    ]
    env = [*_with_user_env(served, defaults), *([secret] if secret else [])]
    own = {"HF_HUB_OFFLINE"} | ({"HF_TOKEN"} if secret else set[str]())
    return [each for each in env if each is secret or each["name"] not in own]


def _with_user_env(served: Served, defaults: list[Manifest]) -> list[Manifest]:
    wanted = (served.spec.engine and served.spec.engine.env) or []
    given = [each.model_dump(exclude_none=True) for each in wanted]
    names = {each["name"] for each in given}
    return [*(each for each in defaults if each["name"] not in names), *given]


def _writable_env() -> list[Manifest]:
    # The root file system is read-only and the user has no passwd entry, so everything that libraries derive from
    # either is said here.
    return [
        _value("HOME", CACHE_DIR),
        _value("USER", "vllm"),
        _value("LOGNAME", "vllm"),
        _value("XDG_CACHE_HOME", CACHE_DIR),
        _value("HF_HOME", f"{CACHE_DIR}/huggingface"),
        _value("VLLM_CACHE_ROOT", f"{CACHE_DIR}/vllm"),
        _value("TRITON_CACHE_DIR", f"{CACHE_DIR}/triton"),
        _value("TORCHINDUCTOR_CACHE_DIR", f"{CACHE_DIR}/inductor"),
    ]


def _pod_ip() -> Manifest:
    return {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}


def _value(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}
