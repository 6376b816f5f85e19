"""Expert: a small model served by vLLM on the right GPU. `ServedModel` is shared with a Fallback in the cluster."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .accelerator import MAX_LABEL_KEY, Labels, Toleration
from .meta import (
    AS_SET,
    PRESERVED,
    USD,
    Cel,
    DataKey,
    Duration,
    Model,
    Name,
    PositiveDuration,
    Quantity,
    SecretKeyRef,
    SecretName,
    WeightCount,
    as_map_by,
    checked,
    keys_at_most,
)
from .scaling import Scaling

ServingApi = Literal["chat", "completions", "embeddings"]

DEFAULT_APIS: tuple[ServingApi, ...] = ("chat", "completions")
DEFAULT_REPLICAS = 1
DEFAULT_ACCELERATOR_COUNT = 1
DEFAULT_MAX_NUM_SEQS = 64
DEFAULT_STARTUP_TIMEOUT = "15m"
DEFAULT_DRAIN_TIMEOUT = "60s"
DEFAULT_MAX_SURGE = 0
DEFAULT_MAX_UNAVAILABLE = 1

RESERVED_FLAGS = (
    "--model",
    "--port",
    "--host",
    "--served-model-name",
    "--revision",
    "--tensor-parallel-size",
    "-tp",
    "--max-model-len",
    "--max-num-seqs",
    "--api-key",
)
"""vLLM flags that Flotilla sets itself."""

BREAKING_FLAGS = (
    "--disable-log-stats",
    "--ssl-certfile",
    "--ssl-keyfile",
    "--uds",
    "--grpc",
    "--headless",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
)
"""vLLM flags with which Flotilla cannot work: it reads the metrics, speaks plain HTTP to the pod's address, and asks
for as many GPUs as tensor parallelism needs."""

RESERVED_VARIABLES = ("HF_HUB_OFFLINE", "POD_IP", "VLLM_API_KEY")
"""Variables that `engine.env` may not set: engines run offline at the pod's address, and a key would lock the router
out."""


class ModelSource(Model):
    """Where the weights come from."""

    uri: str = checked(
        Cel(
            "self.matches('^hf://[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$') || self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9_./-]+$')",
            "must be hf://ORGANISATION/MODEL or pvc://CLAIM/PATH",
        ),
        Cel("!self.contains('..')", "must not contain '..'"),
        description="hf://ORGANISATION/MODEL is downloaded when a pod starts; pvc://CLAIM/PATH is read from a PersistentVolumeClaim in the same namespace.",
        max_length=512,
    )
    revision: str | None = Field(
        None,
        description="Commit, tag or branch of a hf:// model; pin a commit so that every replica runs the same weights. Default: the repository's default branch.",
        min_length=1,
        max_length=128,
    )
    tokenSecretRef: SecretKeyRef | None = Field(
        None, description="Token for a gated hf:// model. Only the download sees it."
    )
    parameters: WeightCount | None = Field(
        None, description="Count of weights, such as 1.5B; without it the fit check says Unknown."
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.uri.startsWith('hf://') || (!has(self.revision) && !has(self.tokenSecretRef))",
            "revision and tokenSecretRef belong to hf:// models only",
        ),
    )


class Accelerator(Model):
    """Which GPUs one replica takes."""

    profile: Name = Field(description="Name of an AcceleratorProfile.")
    count: int | None = Field(
        None, description="GPUs per replica; also the tensor-parallel size. Default: 1.", ge=1, le=64
    )


class KeySelector(Model):
    """One entry of a ConfigMap or Secret in the same namespace."""

    name: SecretName = Field(description="Name of the object.")
    key: DataKey = Field(description="Key within its data.")


class EnvSource(Model):
    """Where a variable's value comes from."""

    secretKeyRef: KeySelector | None = Field(None, description="An entry of a Secret.")
    configMapKeyRef: KeySelector | None = Field(None, description="An entry of a ConfigMap.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)", "set exactly one of secretKeyRef and configMapKeyRef"
        ),
    )


class EnvVar(Model):
    """One environment variable of the engine's container."""

    name: str = checked(
        Cel("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')", "must be an environment variable's name"),
        description="Name of the variable.",
        max_length=128,
    )
    value: str | None = Field(None, description="Its value.", max_length=4096)
    valueFrom: EnvSource | None = Field(None, description="Where its value comes from.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.value) != has(self.valueFrom)", "set exactly one of value and valueFrom"),
    )


def _refused_flag_rule(flags: tuple[str, ...], message: str) -> Cel:
    """No argument is one of `flags` or short for one: vLLM reads '_' as '-', and a flag's beginning as the flag."""
    listed = ", ".join(f"'{flag}'" for flag in flags)
    return Cel(
        f"self.all(arg, !arg.startsWith('-') || "
        f"![{listed}].exists(flag, flag.startsWith(arg.split('=')[0].replace('_', '-'))))",
        message,
    )


def _reserved_flag_rule() -> Cel:
    flags = " ".join(RESERVED_FLAGS)
    return _refused_flag_rule(
        RESERVED_FLAGS, f"Flotilla sets {flags} itself: use the fields of model, accelerator and engine"
    )


def _breaking_flag_rule() -> Cel:
    flags = " ".join(BREAKING_FLAGS)
    return _refused_flag_rule(
        BREAKING_FLAGS, f"Flotilla does not work with {flags}: it needs metrics, plain HTTP and one engine in a pod"
    )


def _reserved_variable_rule() -> Cel:
    names = ", ".join(f"'{name}'" for name in RESERVED_VARIABLES)
    return Cel(
        f"!self.exists(variable, variable.name in [{names}])",
        "must not set "
        + ", ".join(RESERVED_VARIABLES)
        + ": engines run offline, listen at the pod's address, and routers send no key",
    )


class Engine(Model):
    """How vLLM runs."""

    image: str | None = Field(
        None,
        description="vLLM image. Default: the operator's (chart value images.engine).",
        min_length=1,
        max_length=512,
    )
    args: list[Annotated[str, Field(max_length=1024)]] | None = checked(
        _reserved_flag_rule(),
        _breaking_flag_rule(),
        default=None,
        description="More vLLM flags, one per entry, such as --enable-auto-tool-choice or --quantization=awq.",
        max_length=64,
    )
    env: list[EnvVar] | None = checked(
        _reserved_variable_rule(),
        default=None,
        description="More environment variables.",
        max_length=64,
        extra=as_map_by("name"),
    )
    maxModelLen: int | None = Field(
        None,
        description="Longest prompt plus answer, in tokens. Default: the model's own; then the fit check says Unknown.",
        ge=1,
        le=10_000_000,
    )
    maxNumSeqs: int | None = Field(
        None, description="Requests that run at once on one replica. Default: 64.", ge=1, le=4096
    )
    startupTimeout: PositiveDuration | None = Field(
        None,
        description="From a container's start to its first real answer, after which it is restarted. Default: 15m.",
    )


class Capabilities(Model):
    """What the model can do; the router sends it nothing else."""

    apis: list[ServingApi] | None = checked(
        Cel(
            "!('embeddings' in self) || size(self) == 1",
            "a model that embeds answers nothing: leave chat and completions out beside embeddings",
        ),
        default=None,
        description="APIs that it serves; the start-up probe uses the first. [embeddings]: it answers no request, and makes the "
        "vectors by which a learned strategy chooses. Default: [chat, completions].",
        min_length=1,
        max_length=2,
        extra=AS_SET,
    )
    tools: bool | None = Field(None, description="Whether it may be sent requests with tools. Default: false.")
    jsonSchema: bool | None = Field(
        None,
        description="Whether it may be sent requests with a JSON schema or object as response format. Default: true, vLLM constrains the answer.",
    )
    maxContextTokens: int | None = Field(
        None,
        description="Longest prompt plus answer that is sent to it, in tokens. Default: engine.maxModelLen; without either, no limit.",
        ge=1,
        le=10_000_000,
    )


class TokenCost(Model):
    """Dollars per million tokens."""

    inputPerMillionUSD: USD = Field(description="Dollars per million prompt tokens, as a quoted decimal.")
    outputPerMillionUSD: USD = Field(description="Dollars per million answer tokens, as a quoted decimal.")


class Rollout(Model):
    """How replicas are replaced."""

    maxSurge: int | None = Field(
        None,
        description="Replicas above the wanted number during a rollout; each needs free GPUs. Default: 0.",
        ge=0,
        le=1000,
    )
    maxUnavailable: int | None = Field(
        None, description="Replicas that may be missing during a rollout. Default: 1.", ge=0, le=1000
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "(has(self.maxSurge) ? self.maxSurge : 0) + (has(self.maxUnavailable) ? self.maxUnavailable : 1) > 0",
            "maxSurge and maxUnavailable must not both be 0: no replica could be replaced",
        ),
    )


class Drain(Model):
    """How a replica ends."""

    timeout: Duration | None = Field(
        None, description="Longest wait for running requests before a replica ends. Default: 60s."
    )


FreeFormObject = Annotated[dict[str, Any], Field(json_schema_extra=PRESERVED)]
Quantities = dict[str, Quantity]


class LocalObjectReference(Model):
    """The name of an object in the same namespace."""

    name: SecretName = Field(description="Name of the object.")


class Resources(Model):
    """CPU and memory of the engine's container; GPUs come from the accelerator."""

    requests: Quantities | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description='What the scheduler reserves, such as {cpu: "4", memory: 16Gi}.',
        max_length=8,
    )
    limits: Quantities | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description="What the container may use at most, such as {memory: 32Gi}.",
        max_length=8,
    )


class PodOverrides(Model):
    """What a platform team may add to the engine's pods."""

    labels: Labels | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description="More pod labels; Flotilla's own win.",
        max_length=32,
    )
    annotations: dict[str, Annotated[str, Field(max_length=4096)]] | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description="More pod annotations; Flotilla's own win.",
        max_length=32,
    )
    nodeSelector: Labels | None = checked(
        keys_at_most(MAX_LABEL_KEY),
        default=None,
        description="More node labels, on top of the profile's; these win.",
        max_length=32,
    )
    tolerations: list[Toleration] | None = Field(
        None, description="More tolerations, on top of the profile's.", max_length=32
    )
    affinity: FreeFormObject | None = Field(None, description="A core/v1 Affinity.")
    topologySpreadConstraints: list[FreeFormObject] | None = Field(
        None, description="core/v1 TopologySpreadConstraints.", max_length=8
    )
    priorityClassName: SecretName | None = Field(None, description="PriorityClass of the pods.")
    imagePullSecrets: list[LocalObjectReference] | None = Field(
        None,
        description="Secrets for pulling the engine's image.",
        max_length=8,
        json_schema_extra=as_map_by("name"),
    )
    resources: Resources | None = Field(
        None,
        description="CPU and memory of the engine's container. Default: none are asked for. The download of a hf:// model gets the same; "
        "of what is not said here, 500m and 1Gi, at most 8Gi.",
    )


class ServedModel(Model):
    """A model that Flotilla serves with vLLM in the cluster."""

    model: ModelSource = Field(description="The weights.")
    accelerator: Accelerator = Field(description="The GPUs of one replica.")
    engine: Engine | None = Field(None, description="How vLLM runs.")
    capabilities: Capabilities | None = Field(None, description="What the model can do.")
    replicas: int | None = Field(
        None, description="How many replicas run; 0 stops them all. Default: 1.", ge=0, le=1000
    )
    rollout: Rollout | None = Field(
        None, description="How replicas are replaced. Default: one at a time with no spare GPU."
    )
    drain: Drain | None = Field(None, description="How a replica ends.")
    podOverrides: PodOverrides | None = Field(None, description="What is added to the pods.")


class ExpertSpec(ServedModel):
    """A small model and how it is served."""

    cost: TokenCost | None = Field(
        None,
        description="Token prices. Default: the profile's hourlyUSD x count x seconds of the attempt / 3600 / maxNumSeqs.",
    )
    scaling: Scaling | None = Field(
        None, description="How the number of replicas follows demand; instead of replicas. Default: replicas says it."
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("!has(self.replicas) || !has(self.scaling)", "set replicas or scaling, not both"),
    )
