"""Learned routing in a RoutingPolicy: how an expert is chosen, what is tried beside it, and what is kept to learn from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .meta import (
    AS_SET,
    HOST_PATTERN,
    Cel,
    DataKey,
    HeaderName,
    Model,
    Ratio,
    SecretName,
    Url,
    cel_is_ratio,
    checked,
    keys_at_most,
)

StrategyType = Literal["Static", "WinRate", "QualityGap", "Cluster"]
LoggedPrompts = Literal["Features", "Text", "Redacted"]

DEFAULT_LOGGED_PROMPTS: LoggedPrompts = "Features"
DEFAULT_LOG_MAX_BYTES = "64Mi"

_PAIR = "self.type in ['WinRate', 'QualityGap']"
_REPOSITORY = "(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"

Digest = Annotated[
    str,
    checked(
        Cel("self.matches('^sha256:[0-9a-f]{64}$')", "must be sha256: and 64 hexadecimal digits in lower case"),
        max_length=71,
    ),
]
"""A SHA-256 digest as text."""

Models = Annotated[
    dict[str, Annotated[str, Field(max_length=63)]],
    checked(
        keys_at_most(128),
        Cel("size(self) >= 2", "must name at least two models, else there is nothing to choose"),
        Cel(
            "self.all(id, !self.exists(other, other != id && self[other] == self[id]))",
            "must not give two models of the artifact the same name",
        ),
        max_length=64,
    ),
]
"""A model's id in an artifact -> the name of an Expert or a Fallback of the policy."""

LogSize = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[1-9][0-9]{0,9}(Ki|Mi|Gi)?$') && quantity(self).compareTo(quantity('1Mi')) >= 0"
            " && quantity(self).compareTo(quantity('1Gi')) <= 0",
            "must be a whole number of bytes from 1Mi to 1Gi, quoted, such as 64Mi",
        ),
        max_length=10,
    ),
]
"""As a `ByteSize`, and large enough that a log holds some requests."""


class ConfigMapRef(Model):
    """A whole ConfigMap in the same namespace."""

    name: SecretName = Field(description="Name of the ConfigMap; its keys are the artifact's files.")


class ArtifactRef(Model):
    """Where a trained artifact is, and what pins its content."""

    configMapRef: ConfigMapRef | None = Field(
        None, description="A ConfigMap with the artifact's files, for small ones: at most 1 MiB."
    )
    file: str | None = checked(
        Cel(
            "self.matches('^/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$') && !self.contains('..')",
            "must be the absolute path of a file: letters, digits and . _ - / without '..'",
        ),
        default=None,
        description="Path of the artifact's tar in the routers' own file system, such as one that their image brings.",
        max_length=256,
    )
    url: Url | None = Field(
        None,
        description="Where routers fetch the artifact's tar from, such as https://models.example.com/router.tar.",
    )
    oci: str | None = checked(
        Cel(
            f"self.matches('^{HOST_PATTERN}{_REPOSITORY}@sha256:[0-9a-f]{{64}}$')",
            "must be HOST/REPOSITORY@sha256: and 64 hexadecimal digits, such as registry.example.com/routers@sha256:...",
        ),
        default=None,
        description="An OCI artifact by the digest of its image manifest, which routers fetch.",
        max_length=512,
    )
    digest: Digest = Field(
        description="Digest of the artifact's manifest.json, as `flotilla pack` prints it. Whatever has another is refused."
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "[has(self.configMapRef), has(self.file), has(self.url), has(self.oci)].filter(given, given).size() == 1",
            "set exactly one of configMapRef, file, url and oci",
        ),
    )


class ThresholdHeader(Model):
    """Bounds of the threshold that a request may ask for."""

    min: Ratio = Field(description='Lowest threshold; lower ones are raised to it. A quoted decimal, such as "0.2".')
    max: Ratio = Field(description='Highest threshold; higher ones are lowered to it. A quoted decimal, such as "0.8".')

    cel: ClassVar[tuple[Cel, ...]] = (
        # Where one is no decimal, its own rule says so, and double() would fail.
        Cel(
            f"!({cel_is_ratio('self.min')} && {cel_is_ratio('self.max')}) || double(self.min) <= double(self.max)",
            "header.min must not be above header.max",
        ),
    )


class Explore(Model):
    """Random choices, from which other strategies can be judged later."""

    ratio: Ratio = Field(
        description="Share of the requests whose model is drawn at random among the eligible ones of `models`, as a quoted "
        'decimal, such as "0.02". Each is logged with its propensity.'
    )


class Strategy(Model):
    """How one of the eligible experts is chosen."""

    type: StrategyType = Field(
        description="Static: a draw by weight. WinRate: the probability that the strong model's answer wins. QualityGap: "
        "that the weak model's is worse. Cluster: quality and cost of every model among similar prompts."
    )
    artifact: ArtifactRef | None = Field(
        None,
        description="What was trained. While no router could load it, requests are drawn by weight, as with Static.",
    )
    models: Models | None = Field(
        None,
        description="The artifact's model ids and the names of this policy's experts or fallbacks that answer for them. "
        "WinRate and QualityGap: both of the pair. Cluster: those to choose among. And where the artifact's embedder is a model "
        "of its own, the Expert with apis: [embeddings] that serves it. Default for that one: its id.",
    )
    threshold: Ratio | None = Field(
        None,
        description="The strong model answers from this score on; higher scores are harder prompts. A quoted decimal, such "
        'as "0.42".',
    )
    targetStrongRatio: Ratio | None = Field(
        None,
        description="Share of requests for the strong model, as a quoted decimal; routers move the threshold with the scores "
        "that they see, and begin with that of the artifact's calibration.",
    )
    alpha: Ratio | None = Field(
        None,
        description='Cluster: weight of quality against cost, from "0", the cheapest, to "1", the best. A quoted decimal.',
    )
    header: ThresholdHeader | None = Field(
        None,
        description="Lets a request set its own threshold with the header x-flotilla-threshold, within these bounds. "
        "Default: the header is ignored.",
    )
    explore: Explore | None = Field(None, description="Random choices to learn from. Default: none.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.type != 'Static' || !(has(self.artifact) || has(self.models) || has(self.threshold)"
            " || has(self.targetStrongRatio) || has(self.alpha) || has(self.header) || has(self.explore))",
            "Static draws by weight: leave out artifact, models, threshold, targetStrongRatio, alpha, header and explore",
        ),
        Cel(
            "self.type == 'Static' || (has(self.artifact) && has(self.models))",
            "WinRate, QualityGap and Cluster need artifact and models",
        ),
        Cel(
            f"!({_PAIR}) || has(self.threshold) != has(self.targetStrongRatio)",
            "WinRate and QualityGap need one of threshold and targetStrongRatio",
        ),
        Cel(f"!({_PAIR}) || !has(self.alpha)", "alpha belongs to Cluster only"),
        Cel(
            f"!({_PAIR}) || !has(self.models) || size(self.models) <= 3",
            "WinRate and QualityGap choose between two models, the artifact's pair; a third can only be its embedder's",
        ),
        Cel("self.type != 'Cluster' || has(self.alpha)", "Cluster needs alpha"),
        Cel(
            "self.type != 'Cluster' || !(has(self.threshold) || has(self.targetStrongRatio) || has(self.header))",
            "Cluster has no threshold: leave out threshold, targetStrongRatio and header",
        ),
    )


class Shadow(Model):
    """An artifact whose scores are logged and counted beside the live choice, which they never change."""

    artifact: ArtifactRef = Field(description="What is tried.")
    models: Models | None = Field(
        None, description="As strategy.models, for this artifact's ids. Default: strategy.models."
    )
    percent: int = Field(description="Share of the requests that are scored.", ge=1, le=100)


class Canary(Model):
    """An artifact that decides in place of strategy.artifact for a share of the sessions."""

    artifact: ArtifactRef = Field(description="What is tried.")
    models: Models | None = Field(
        None, description="As strategy.models, for this artifact's ids. Default: strategy.models."
    )
    percent: int = Field(description="Share of the sessions.", ge=1, le=100)
    sessionHeaders: list[HeaderName] | None = Field(
        None,
        description="Request headers that name a session, such as x-session-id: the first of them that a request has decides. "
        "Requests of one session are always treated alike. Default, and for requests without any: the API key, the "
        "beginning of the first message and the user's first message stand for the session.",
        min_length=1,
        max_length=8,
        json_schema_extra=AS_SET,
    )


class RequestLog(Model):
    """What gateways keep of requests for training and evaluation. Sidecars keep nothing."""

    prompts: LoggedPrompts | None = Field(
        None,
        description="Features: numbers about the prompt, no text. Text: the prompt. Redacted: the prompt without what looks "
        "like personal data or a secret. Default: Features.",
    )
    maxBytes: LogSize | None = Field(
        None,
        description="Disk that the log may fill in each gateway pod; the oldest entries go first, and all with the pod. "
        "Default: 64Mi.",
    )
    readers: list[DataKey] | None = Field(
        None,
        description="Names of the API keys, in auth.apiKeysSecretRef, that may read the log from the gateway. Default: none.",
        max_length=32,
        json_schema_extra=AS_SET,
    )
