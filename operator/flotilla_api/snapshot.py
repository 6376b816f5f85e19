"""RoutingSnapshot: all that a router needs to route for one policy. The operator writes it, routers read it.

Every default of a spec is resolved and every duration is in seconds, so that a router never interprets one. It holds no secret:
credentials, API keys and certificates are mounted files whose paths follow from `names`.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .artifact import LearnedStrategy
from .causes import Boundary, Cause, ColdStartMode
from .strategy import LoggedPrompts

SCHEMA_VERSION: Final = 1
"""Raised for what a router must not ignore: one that does not know the version keeps its last good snapshot."""


class _Part(BaseModel):
    """Base of the snapshot's parts: frozen.

    Operators and routers are of different releases for as long as their pods live. So a field that is added later has a
    default, which never changes and is left out of what is written; and a field that a router does not know is ignored.
    The exception is what raises SCHEMA_VERSION.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)


class Endpoint(_Part):
    """One ready replica."""

    address: str
    """host:port; an IPv6 host is in brackets."""
    pod: str


class TokenPrice(_Part):
    """Dollars per million tokens."""

    inputPerMillionUSD: float = Field(ge=0)
    outputPerMillionUSD: float = Field(ge=0)


class TimePrice(_Part):
    """Dollars for one second of one request on a replica: hourlyUSD x count / 3600 / maxNumSeqs."""

    perSecondUSD: float = Field(ge=0)


class RequestEdits(_Part):
    """Top-level changes that a provider needs, applied in the order drop, rename, set."""

    drop: tuple[str, ...] = ()
    rename: dict[str, str] = {}
    set: dict[str, JsonValue] = {}


class ExternalTarget(_Part):
    """How an API outside our pods is reached."""

    url: str
    credentials: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,126}$")
    """Folder below CREDENTIALS_DIR. Its name changes with the url and with the Secrets that are referred to: a router
    whose mounts are older than its snapshot finds no folder, and never sends one provider's key to another."""
    hasCredentials: bool
    """A bearer token is in the folder's `api-key`."""
    hasCa: bool
    """Trusted authorities are in the folder's `ca.crt`; otherwise the system's are."""
    edits: RequestEdits = RequestEdits()


class Target(_Part):
    """One model that may answer."""

    kind: Literal["Expert", "Fallback"]
    name: str
    location: Literal["Local", "External"]
    model: str
    """What is put into the request's `model`."""
    endpoints: tuple[Endpoint, ...] = ()
    """Ready replicas of a served model, sorted by address; empty for an external one."""
    service: str | None = None
    """host:port of the Service of a served model, tried when every endpoint refuses to connect."""
    external: ExternalTarget | None = None
    apis: tuple[Literal["chat", "completions", "embeddings"], ...]
    """(embeddings,): it is asked for the vectors by which a learned strategy chooses, and for no answer."""
    tools: bool
    jsonSchema: bool
    maxContextTokens: int | None = None
    price: TokenPrice | TimePrice | None = None
    logprobs: bool = True
    """Whether it can be asked for logprobs; False for external targets, whose answers are never judged."""
    wakes: bool = False
    """Whether it has no replica, where it has none, because nobody asked for it, and a request wakes it; Experts only.
    One whose replicas fail is to be mended, and not woken."""

    @property
    def asleep(self) -> bool:
        """Whether a request would have to wake it first."""
        return self.wakes and not self.endpoints


class WeightedTarget(_Part):
    """An expert and its share of the draw; 0: only when pinned."""

    name: str
    weight: int = Field(ge=0)


class EscalationConfig(_Part):
    """Escalation with every default resolved; seconds and bytes."""

    on: tuple[Cause, ...]
    commitTokens: int = Field(ge=1)
    commitMaxWaitSeconds: float = Field(gt=0)
    noSignal: Literal["Accept", "Escalate"]
    structuredMaxWaitSeconds: float = Field(gt=0)
    structuredMaxBytes: int = Field(ge=1)
    minConfidence: float = Field(ge=0, le=1)
    deadlineSeconds: float = Field(gt=0)
    onFallbackFailure: Literal["UseExpert", "Error"]


class TimeoutConfig(_Part):
    """Timeouts in seconds."""

    connectSeconds: float = Field(gt=0)
    firstTokenSeconds: float = Field(gt=0)
    idleSeconds: float = Field(gt=0)
    totalSeconds: float = Field(gt=0)
    keepAliveAfterSeconds: float = Field(gt=0)


class ColdStartConfig(_Part):
    """What becomes of a request whose expert has to be woken."""

    mode: ColdStartMode = "Bridge"
    maxHoldSeconds: float = Field(default=5.0, gt=0)
    """Longest wait for a replica, where a request waits for one."""


class HeaderCondition(_Part):
    """A header, in lower case, and the values that match."""

    name: str
    values: tuple[str, ...]


class Conditions(_Part):
    """Conditions of a rule, joined with AND; None matches everything. Ranges include min and exclude `below`."""

    models: tuple[str, ...] | None = None
    minTools: int | None = None
    maxTools: int | None = None
    minPromptTokens: int | None = None
    belowPromptTokens: int | None = None
    headers: tuple[HeaderCondition, ...] = ()


class Route(_Part):
    """What applies to a request: the policy's own fields, or those fields with a rule's in their place."""

    experts: tuple[WeightedTarget, ...]
    fallbacks: tuple[str, ...]
    boundary: Boundary
    escalation: EscalationConfig


class RuleRoute(_Part):
    """A rule, already merged with the policy: the first whose conditions hold gives the route."""

    name: str
    when: Conditions
    route: Route


class ArtifactSource(_Part):
    """Where a trained artifact is. With neither file, url nor oci: the control API has it, see `control.ARTIFACT_PATH`."""

    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    """Of the artifact's manifest.json, which pins all its files."""
    file: str | None = None
    """Path of its tar."""
    url: str | None = None
    """Of its tar."""
    oci: str | None = None
    """HOST/REPOSITORY@sha256:DIGEST; the digest is that of the image manifest."""


class StrategyConfig(_Part):
    """A learned strategy. Of threshold, targetStrongRatio and alpha exactly one is set: alpha for Cluster only."""

    type: LearnedStrategy
    artifact: ArtifactSource
    models: dict[str, str]
    """A model's id in the artifact, its embedder's among them -> name of a target; one that is not among `targets` does
    not exist (yet)."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    targetStrongRatio: float | None = Field(default=None, ge=0, le=1)
    alpha: float | None = Field(default=None, ge=0, le=1)
    header: tuple[float, float] | None = None
    """Lowest and highest threshold that the request header may set; None: the header is ignored."""
    exploreRatio: float = Field(default=0, ge=0, le=1)
    """Share of the requests whose model is drawn at random."""


class TrialConfig(_Part):
    """An artifact that is tried beside the strategy's: of its type and at its operating point, where there is a strategy."""

    artifact: ArtifactSource
    models: dict[str, str]
    """As StrategyConfig.models, for this artifact's ids."""
    percent: int = Field(ge=1, le=100)
    """A shadow's share of the requests, a canary's of the sessions."""
    sessionHeaders: tuple[str, ...] = ()
    """Of a canary: request headers, in lower case, of which the first that a request has names its session."""


class RequestLogConfig(_Part):
    """What a gateway keeps of its requests; a sidecar keeps nothing."""

    prompts: LoggedPrompts
    maxBytes: int = Field(ge=1)
    """Disk that it may fill."""
    readers: tuple[str, ...] = ()
    """Names of the API keys that may read it."""


class RoutingSnapshot(_Part):
    """Everything about one policy."""

    schemaVersion: Literal[1]
    namespace: str
    policy: str
    uid: str
    generation: int
    models: tuple[str, ...]
    """Aliases that clients may ask for."""
    pinnable: tuple[str, ...]
    targets: tuple[Target, ...]
    """Every expert and fallback that the policy or a rule names and that exists, sorted by kind and name."""
    route: Route
    rules: tuple[RuleRoute, ...]
    timeouts: TimeoutConfig
    coldStart: ColdStartConfig = ColdStartConfig()
    maxBodyBytes: int = Field(ge=1)
    anonymous: bool
    """True: no API key is asked for. False: a key is in API_KEYS_DIR."""
    gateway: str | None = None
    """Base URL of the policy's gateway: sidecars send it their calls to external fallbacks, as they hold no credentials."""
    sidecars: bool = True
    """False: the policy allows no sidecars, and its gateway passes nothing on for one."""
    strategy: StrategyConfig | None = None
    """None: Static, a draw by weight."""
    shadow: TrialConfig | None = None
    """Scored and logged beside the live choice, whatever the strategy."""
    canary: TrialConfig | None = None
    """Decides in place of the strategy's artifact for a share of the sessions; None where strategy is."""
    requestLog: RequestLogConfig | None = None
    """None: nothing is kept."""

    def to_json(self) -> bytes:
        """Canonical bytes: the same snapshot always gives the same; what holds its default is left out."""
        return self.model_dump_json(exclude_defaults=True).encode()

    @staticmethod
    def digest_of(data: bytes) -> str:
        """`sha256:` and the hex digest of a snapshot's canonical bytes."""
        return "sha256:" + hashlib.sha256(data).hexdigest()
