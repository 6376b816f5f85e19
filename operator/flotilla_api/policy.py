"""RoutingPolicy: which requests go to which expert, and when an answer is escalated to a fallback."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from .causes import Boundary, Cause, ColdStartMode
from .meta import (
    AS_SET,
    ByteSize,
    Cel,
    HeaderName,
    Model,
    Name,
    PositiveDuration,
    Quantity,
    Ratio,
    SecretRef,
    as_map_by,
    checked,
)
from .strategy import Canary, RequestLog, Shadow, Strategy

EscalationCause = Literal[
    Cause.LOW_CONFIDENCE,
    Cause.EMPTY_ANSWER,
    Cause.CONTEXT_OVERFLOW,
    Cause.OVERLOADED,
    Cause.NO_READY_REPLICA,
    Cause.TIMEOUT,
    Cause.UPSTREAM_ERROR,
]
"""What `on` may list: every cause but ColdStart, about which `coldStart` decides."""

DEFAULT_CAUSES: tuple[Cause, ...] = get_args(EscalationCause)
DEFAULT_BOUNDARY: Boundary = "Any"
DEFAULT_WEIGHT = 1
DEFAULT_COMMIT_TOKENS = 12
DEFAULT_COMMIT_MAX_WAIT = "200ms"
DEFAULT_NO_SIGNAL: Literal["Accept", "Escalate"] = "Accept"
DEFAULT_STRUCTURED_MAX_WAIT = "5s"
DEFAULT_STRUCTURED_MAX_BYTES = "64Ki"
DEFAULT_MIN_CONFIDENCE = "0.5"
DEFAULT_DEADLINE = "20s"
DEFAULT_ON_FALLBACK_FAILURE: Literal["UseExpert", "Error"] = "UseExpert"
DEFAULT_CONNECT_TIMEOUT = "1s"
DEFAULT_FIRST_TOKEN_TIMEOUT = "10s"  # noqa: S105 - a time
DEFAULT_IDLE_TIMEOUT = "15s"
DEFAULT_TOTAL_TIMEOUT = "5m"
DEFAULT_KEEP_ALIVE_AFTER = "15s"
DEFAULT_COLD_START_MODE: ColdStartMode = "Bridge"
DEFAULT_MAX_HOLD = "5s"
DEFAULT_MAX_BODY_BYTES = "8Mi"
DEFAULT_GATEWAY_REPLICAS = 2

ModelAlias = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",
            "must be a model's name as clients write it: letters, digits and . _ : / @ -",
        ),
        max_length=128,
    ),
]
MAP_BY_NAME = as_map_by("name")
_ALIASES = "(has(self.models) ? self.models : ['auto'])"
_LEARNED = "(has(self.strategy) && self.strategy.type != 'Static')"


def _has_model(name: str) -> str:
    """A CEL expression over a policy or a rule: `name` is one of its experts or fallbacks."""

    def named(owner: str, field: str) -> str:
        return f"(has({owner}.{field}) && {owner}.{field}.exists(each, each.name == {name}))"

    own = f"{named('self', 'experts')} || {named('self', 'fallbacks')}"
    of_rules = f"{named('rule', 'experts')} || {named('rule', 'fallbacks')}"
    return f"({own} || (has(self.rules) && self.rules.exists(rule, {of_rules})))"


def _models_are_named(owner: str) -> Cel:
    models = f"self.{owner}.models"
    return Cel(
        f"!has(self.{owner}) || !has({models}) || {models}.all(id, {_has_model(f'{models}[id]')})",
        f"{owner}.models may only name experts and fallbacks of this policy or its rules",
    )


class WeightedExpert(Model):
    """An expert and its share of the draw."""

    name: Name = Field(description="Name of an Expert in the same namespace.")
    weight: int | None = Field(
        None,
        description="Share of the draw among eligible experts; 0: only when pinned. Default: 1.",
        ge=0,
        le=1_000_000,
    )


class FallbackRef(Model):
    """A fallback, in the order in which they are tried."""

    name: Name = Field(description="Name of a Fallback in the same namespace.")


class IntRange(Model):
    """Whole numbers from `gte` up to but not including `lt`."""

    gte: int | None = Field(None, description="At least this many.", ge=0, le=10_000_000)
    lt: int | None = Field(None, description="Fewer than this many.", ge=1, le=10_000_000)

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.gte) || has(self.lt)", "set gte, lt or both"),
        Cel("!has(self.gte) || !has(self.lt) || self.gte < self.lt", "gte must be below lt"),
    )


class ToolCount(Model):
    """How many tools a request offers."""

    min: int | None = Field(None, description="At least this many.", ge=0, le=10_000)
    max: int | None = Field(None, description="At most this many; 0: requests without tools.", ge=0, le=10_000)

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.min) || has(self.max)", "set min, max or both"),
        Cel("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be above max"),
    )


class HeaderMatch(Model):
    """A request header and the values that match; names compare without case, values exactly."""

    name: HeaderName = Field(description="Name of the header.")
    values: list[Annotated[str, Field(max_length=256)]] = Field(
        alias="in", description="Values that match.", min_length=1, max_length=32, json_schema_extra=AS_SET
    )


class When(Model):
    """Conditions of a rule, joined with AND."""

    models: list[Annotated[str, Field(max_length=128)]] | None = Field(
        None,
        description="Aliases of the policy, one of which the client asked for.",
        min_length=1,
        max_length=16,
        json_schema_extra=AS_SET,
    )
    tools: ToolCount | None = Field(None, description="How many tools the request offers.")
    promptTokens: IntRange | None = Field(
        None, description="Estimated prompt length in tokens: bytes / 4, give or take 30 %."
    )
    headers: list[HeaderMatch] | None = Field(
        None,
        description="Headers, every one of which matches.",
        min_length=1,
        max_length=8,
        json_schema_extra=MAP_BY_NAME,
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.models) || has(self.tools) || has(self.promptTokens) || has(self.headers)",
            "set at least one condition",
        ),
    )


class StructuredCommit(Model):
    """Bounds for answers that can only be judged whole: tool calls and JSON schemas."""

    maxWait: PositiveDuration | None = Field(
        None, description="Longest wait from the first content token to the finish. Default: 5s."
    )
    maxBytes: ByteSize | None = Field(None, description="Most bytes held back. Default: 64Ki.")


class Commit(Model):
    """When an expert's stream is good enough to be sent on."""

    tokens: int | None = Field(
        None, description="Answer tokens that are judged before the first is sent. Default: 12.", ge=1, le=512
    )
    maxWait: PositiveDuration | None = Field(
        None, description="Longest wait from the first content token. Default: 200ms."
    )
    noSignal: Literal["Accept", "Escalate"] | None = Field(
        None, description="What happens to an answer without logprobs. Default: Accept."
    )
    structured: StructuredCommit | None = Field(
        None, description="Bounds for tool calls and JSON schemas, which are judged whole."
    )


class Confidence(Model):
    """The bar of LowConfidence."""

    min: Ratio = Field(description='Lowest exp(mean logprob) that is accepted, as a quoted decimal. Default: "0.5".')


class Escalation(Model):
    """When and how an answer is escalated to a fallback."""

    on: list[EscalationCause] | None = Field(
        None,
        description="Causes that escalate; []: none does. Default: all of them.",
        max_length=16,
        json_schema_extra=AS_SET,
    )
    commit: Commit | None = Field(None, description="When a stream is good enough to be sent on.")
    confidence: Confidence | None = Field(None, description="The bar of LowConfidence.")
    deadline: PositiveDuration | None = Field(
        None,
        description="Latest start of an escalation, or of another try after a Timeout, from the request's arrival. "
        "Default: 20s.",
    )
    onFallbackFailure: Literal["UseExpert", "Error"] | None = Field(
        None,
        description="What happens to an expert's answer below the bar when every fallback fails. Default: UseExpert.",
    )


class Timeouts(Model):
    """Bounds on every request."""

    connect: PositiveDuration | None = Field(None, description="To connect to an endpoint. Default: 1s.")
    firstToken: PositiveDuration | None = Field(
        None, description="From sending a streamed request to its first content token. Default: 10s."
    )
    idle: PositiveDuration | None = Field(None, description="Between two events of a stream. Default: 15s.")
    total: PositiveDuration | None = Field(None, description="The whole request, all attempts. Default: 5m.")
    keepAliveAfter: PositiveDuration | None = Field(
        None, description="Silence after which a waiting stream gets keep-alive comments. Default: 15s."
    )


class ColdStart(Model):
    """What becomes of a request when no expert is ready, and one that is scaled to zero is woken by it."""

    mode: ColdStartMode | None = Field(
        None,
        description="Bridge: the first fallback that may answer does so at once; without one, as Hold. Hold: the request "
        "waits for the expert, then goes to the fallbacks. Reject: a 503 that asks to come back. A request for the "
        "expert's own name waits, unless this is Reject: nobody else may answer it. Default: Bridge.",
    )
    maxHold: PositiveDuration | None = Field(
        None,
        description="Longest wait of a request for the expert that it wakes; timeouts.total ends it too. Default: 5s.",
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.maxHold) || !has(self.mode) || self.mode != 'Reject'",
            "maxHold has no meaning with mode: Reject, by which no request waits",
        ),
    )


class Rule(Model):
    """The first rule that matches replaces whole fields of the policy; the stricter boundary wins."""

    name: Name = Field(description="Name of the rule, shown in logs and explanations.")
    when: When = Field(description="Conditions, joined with AND.")
    experts: list[WeightedExpert] | None = Field(
        None,
        description="Replaces the policy's experts; [] goes straight to the fallbacks.",
        max_length=64,
        json_schema_extra=MAP_BY_NAME,
    )
    fallbacks: list[FallbackRef] | None = Field(
        None, description="Replaces the policy's fallbacks.", max_length=8, json_schema_extra=MAP_BY_NAME
    )
    boundary: Boundary | None = Field(None, description="May only tighten the policy's.")
    escalation: Escalation | None = Field(None, description="Replaces the policy's escalation.")


class Auth(Model):
    """Who may call the gateway."""

    apiKeysSecretRef: SecretRef | None = Field(
        None, description="Secret whose every entry is a name and its API key, shown by clients as a bearer token."
    )
    anonymous: bool | None = Field(None, description="true: anyone who reaches the gateway may call it.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.apiKeysSecretRef) != (has(self.anonymous) && self.anonymous)",
            "set apiKeysSecretRef, or anonymous: true to let anyone call",
        ),
    )


class GatewayTls(Model):
    """The gateway's certificate."""

    secretRef: SecretRef = Field(
        description="A kubernetes.io/tls Secret: tls.crt and tls.key. Renewals are picked up without a restart."
    )


class Gateway(Model):
    """The router as a Deployment of its own."""

    replicas: int | None = Field(None, description="Router pods. Default: 2.", ge=1, le=100)


class Amounts(Model):
    """CPU and memory."""

    cpu: Quantity | None = Field(None, description="Cores, such as 100m.")
    memory: Quantity | None = Field(None, description="Bytes, such as 64Mi.")


def _within_limit(amount: str) -> Cel:
    request, limit = f"self.requests.{amount}", f"self.limits.{amount}"
    both = f"has(self.requests) && has(self.limits) && has({request}) && has({limit})"
    well_formed = f"isQuantity({request}) && isQuantity({limit})"  # the fields' own rule says so where they are not
    within = f"quantity({request}).compareTo(quantity({limit})) <= 0"
    return Cel(f"!({both} && {well_formed}) || {within}", f"requests.{amount} must not be more than limits.{amount}")


class SidecarResources(Model):
    """What a sidecar asks for and what it may use."""

    requests: Amounts | None = Field(
        None, description="What a node sets aside. Default: the chart's, and at most what limits say."
    )
    limits: Amounts | None = Field(
        None, description="What it may use. Default: the chart's, and at least what requests say."
    )

    cel: ClassVar[tuple[Cel, ...]] = (_within_limit("cpu"), _within_limit("memory"))


class Sidecar(Model):
    """The router beside an agent."""

    enabled: bool | None = Field(
        None,
        description="false: pods with this policy's label start without a sidecar, and those that have one get neither "
        "snapshots nor external fallbacks any more. Default: true.",
    )
    port: int | None = Field(
        None,
        description="Port for the agent, on 127.0.0.1 of its pod. Default: the chart's sidecar.port (18080).",
        ge=1024,
        le=65535,
    )
    adminPort: int | None = Field(
        None,
        description="Port of /healthz, /readyz and /metrics, on the pod's address. Default: the chart's sidecar.adminPort (19090).",
        ge=1024,
        le=65535,
    )
    image: str | None = Field(
        None,
        description="Image of the router, of the operator's release. Default: the chart's images.router.",
        min_length=1,
        max_length=512,
    )
    resources: SidecarResources | None = Field(None, description="CPU and memory of the sidecar.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("!has(self.port) || !has(self.adminPort) || self.port != self.adminPort", "port and adminPort must differ"),
    )


class Placement(Model):
    """Where routers run."""

    gateway: Gateway | None = Field(None, description="The gateway, which every policy has.")
    sidecar: Sidecar | None = Field(
        None,
        description="Routers beside agents: in every pod of this namespace with the label flotilla.dev/policy and this policy's name.",
    )


class RoutingPolicySpec(Model):
    """Requests, experts, fallbacks and the rules between them."""

    models: list[ModelAlias] | None = Field(
        None,
        description="Aliases that clients may ask for. An expert's own name always pins it. Default: [auto].",
        min_length=1,
        max_length=32,
        json_schema_extra=AS_SET,
    )
    pinnable: list[Annotated[str, Field(max_length=63)]] | None = Field(
        None, description="Fallbacks that clients may ask for by name.", max_length=8, json_schema_extra=AS_SET
    )
    boundary: Boundary | None = Field(
        None,
        description="LocalOnly: nothing is sent to an External fallback. The header x-flotilla-boundary may tighten it. Default: Any.",
    )
    experts: list[WeightedExpert] = Field(
        description="Experts that answer first.", max_length=64, json_schema_extra=MAP_BY_NAME
    )
    fallbacks: list[FallbackRef] | None = Field(
        None, description="Fallbacks in the order in which they are tried.", max_length=8, json_schema_extra=MAP_BY_NAME
    )
    rules: list[Rule] | None = Field(
        None,
        description="The first rule that matches decides; without a match the policy's own fields do.",
        max_length=32,
        json_schema_extra=MAP_BY_NAME,
    )
    strategy: Strategy | None = Field(
        None, description="How one of the eligible experts is chosen. Default: {type: Static}."
    )
    shadow: Shadow | None = Field(None, description="An artifact that is scored beside the live choice.")
    canary: Canary | None = Field(None, description="An artifact that decides for a share of the sessions.")
    escalation: Escalation | None = Field(None, description="When an answer is escalated to a fallback.")
    timeouts: Timeouts | None = Field(None, description="Bounds on every request.")
    coldStart: ColdStart | None = Field(
        None, description="What becomes of requests for experts that are scaled to zero."
    )
    maxBodyBytes: ByteSize | None = Field(
        None, description="Largest request body; a larger one is a 413. Default: 8Mi."
    )
    requestLog: RequestLog | None = Field(
        None,
        description="What gateways keep of requests to learn from; sidecars keep nothing. Default: nothing is kept.",
    )
    auth: Auth = Field(description="Who may call the gateway.")
    tls: GatewayTls | None = Field(None, description="Default: plain HTTP within the cluster.")
    placement: Placement | None = Field(None, description="Where routers run.")

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "size(self.experts) > 0 || (has(self.fallbacks) && size(self.fallbacks) > 0)",
            "name at least one expert or fallback",
        ),
        Cel(
            "!has(self.pinnable) || self.pinnable.all(p, has(self.fallbacks) && self.fallbacks.exists(f, f.name == p))",
            "pinnable may only name fallbacks of this policy",
        ),
        Cel(
            f"!self.experts.exists(e, e.name in {_ALIASES})"
            f" && (!has(self.rules) || !self.rules.exists(r, has(r.experts) && r.experts.exists(e, e.name in {_ALIASES})))"
            f" && (!has(self.pinnable) || !self.pinnable.exists(p, p in {_ALIASES}))",
            "models must not hold the name of an expert or a pinnable fallback: that name pins it anyway (the default is [auto])",
        ),
        Cel(
            f"!has(self.rules) || self.rules.all(r, !has(r.when.models) || r.when.models.all(m, m in {_ALIASES}))",
            "when.models of a rule may only name aliases from models",
        ),
        Cel(
            "!has(self.rules) || self.rules.all(r, (has(r.experts) ? size(r.experts) : size(self.experts)) + (has(r.fallbacks) ? size(r.fallbacks) : has(self.fallbacks) ? size(self.fallbacks) : 0) > 0)",
            "every rule must leave at least one expert or fallback",
        ),
        _models_are_named("strategy"),
        _models_are_named("shadow"),
        _models_are_named("canary"),
        Cel(f"!has(self.canary) || {_LEARNED}", "canary needs a strategy of another type than Static"),
        Cel(
            f"!has(self.shadow) || has(self.shadow.models) || {_LEARNED}",
            "shadow needs models of its own beside the strategy Static",
        ),
        Cel(
            "!has(self.requestLog) || !has(self.requestLog.readers) || has(self.auth.apiKeysSecretRef)",
            "requestLog.readers are names of API keys: set auth.apiKeysSecretRef",
        ),
    )


DEFAULT_MODELS: tuple[str, ...] = ("auto",)
