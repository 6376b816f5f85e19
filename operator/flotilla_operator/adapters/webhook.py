"""The admission webhook that adds the sidecar to agents' pods: `POST /v1/inject`, AdmissionReview v1, over TLS.

Callers are not authenticated, and need not be: whoever calls sends a pod and gets back a patch for it, made of that
pod, the chart's values and what `placement.sidecar` of a policy says. No credential is among them, nothing is written
anywhere, whether `dryRun` or not, and a call costs at most one read of a RoutingPolicy, of which few run at a time.

A pod is never refused and never waits for long: a pod that gets no sidecar is admitted as it is, with a warning.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flotilla_operator.ports import NotFoundError, OperatorError
from flotilla_operator.reconcile.types import Key, Manifest
from flotilla_operator.resources.additive_patch import Operation, make_additive_patch
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar, wanted_policy
from flotilla_operator.resources.specs import InvalidSpecError, parse_policy
from flotilla_operator.telemetry import LOGGER, Telemetry, fields

from .certificates import Certificates
from .client import Client
from .kinds import KINDS, ref_of
from .store import Store

INJECT_PATH = "/v1/inject"
ANSWER_SECONDS = 1.2
"""Within this every review is answered; the API server waits for 2 s, and creating a pod waits with it."""
BODY_MAX_BYTES = 4 * 1024 * 1024
"""The API server takes objects of 3 MiB; the rest is for the review around one."""
REVIEWS_AT_A_TIME = 64
READS_AT_A_TIME = 4
"""So that a flood of pods that name no policy leaves connections for reconciling."""
IDLE_SECONDS = 120.0
"""Longer than the API server keeps an idle connection (90 s): it closes first, and never sends a review into a
connection that is just being closed, which it would not send again."""
SETTLE_SECONDS = 3.0
"""For how long a replica that ends still answers: until its address is gone from the Service."""
DRAIN_SECONDS = 2.0
WARNING_MAX_CHARACTERS = 256
"""The API server may cut longer ones."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Result = Literal["injected", "unchanged", "not_found", "disabled", "refused", "unavailable", "failed"]

logger = logging.getLogger(LOGGER)


class _Part(BaseModel):
    """What is read of a review; everything else of it is let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Part):
    name: str = ""


class _Container(_Part):
    name: str
    env: list[_Named] | None = None


class _Metadata(_Part):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _PodSpec(_Part):
    containers: Annotated[list[_Container], Field(min_length=1)]
    initContainers: list[_Container] | None = None  # noqa: N815 - Kubernetes' name
    volumes: list[_Named] | None = None
    imagePullSecrets: list[_Named] | None = None  # noqa: N815 - as above
    os: _Named | None = None


class _Pod(_Part):
    metadata: _Metadata
    spec: _PodSpec


class _GroupVersionKind(_Part):
    group: str = ""
    kind: str


class _Request(_Part):
    uid: Annotated[str, Field(min_length=1)]
    kind: _GroupVersionKind
    operation: str
    sub_resource: Annotated[str, Field(alias="subResource")] = ""
    namespace: str = ""
    manifest: Annotated[dict[str, Any] | None, Field(alias="object")] = None

    @property
    def creates_a_pod(self) -> bool:
        """Nothing else can be given a sidecar: containers of a pod cannot be added later."""
        kind = (self.kind.group, self.kind.kind)
        return (*kind, self.operation, self.sub_resource) == ("", "Pod", "CREATE", "")


class _Review(_Part):
    apiVersion: Literal["admission.k8s.io/v1"]  # noqa: N815 - Kubernetes' name
    kind: Literal["AdmissionReview"]
    request: _Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a pod."""

    result: Result
    warnings: tuple[str, ...] = ()
    patch: tuple[Operation, ...] = ()


class Webhook:
    """The webhook's server. Every replica runs one: it needs no Lease."""

    def __init__(
        self,
        store: Store,
        client: Client,
        *,
        certificates: Certificates,
        settings: OperatorSettings,
        telemetry: Telemetry,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._store = store
        self._client = client
        self._certificates = certificates
        self._settings = settings
        self._telemetry = telemetry
        self._answer_seconds = answer_seconds
        self._reviews = asyncio.Semaphore(REVIEWS_AT_A_TIME)
        self._reads = asyncio.Semaphore(READS_AT_A_TIME)
        self._runner: web.AppRunner | None = None
        self._settling = False
        self.port = 0
        """The port that it listens on, once it does."""

    @property
    def listening(self) -> bool:
        """Whether it serves."""
        return self.port > 0

    async def start(self, host: str, port: int) -> None:
        """It listens on `host`:`port` (0: any free one). The certificates must have been loaded."""
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app.router.add_post(INJECT_PATH, self._inject)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=DRAIN_SECONDS,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=self._certificates.server_context).start()
        self.port = self._runner.addresses[0][1]

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Callers were told to use other connections for `seconds`, and were all answered."""
        if self.listening:
            self._settling = True
            await asyncio.sleep(seconds)

    async def stop(self) -> None:
        """It no longer listens."""
        self.port = 0
        if self._runner:
            await self._runner.cleanup()

    async def _inject(self, request: web.Request) -> web.Response:
        deadline = asyncio.get_running_loop().time() + self._answer_seconds
        try:
            async with asyncio.timeout_at(deadline), self._reviews:
                review = _Review.model_validate_json(await request.read()).request
                pod = _pod_of(review)
        except TimeoutError:
            return self._answered(web.Response(status=503, text="the review was not read in time"))
        except ValidationError as error:
            return self._answered(web.Response(status=400, text=f"not a review of a pod: {_sentence(error)}"))
        outcome = await self._decide_always(review.namespace, pod, deadline) if pod else Outcome("unchanged")
        self._telemetry.injections.labels(outcome.result).inc()
        if pod and outcome.result != "unchanged":
            _log(review.namespace, pod, outcome)
        return self._answered(_response(review.uid, outcome))

    def _answered(self, response: web.Response) -> web.Response:
        if self._settling:
            response.force_close()
        return response

    async def _decide_always(self, namespace: str, pod: Manifest, deadline: float) -> Outcome:
        """A mistake of ours never keeps a pod from being created."""
        try:
            return await self._decide(namespace, pod, deadline)
        except Exception:
            logger.exception("review failed", extra=fields(namespace=namespace, policy=wanted_policy(pod)))
            return _without("the operator failed to make one; its log says why", "failed")

    async def _decide(self, namespace: str, pod: Manifest, deadline: float) -> Outcome:
        policy = wanted_policy(pod)
        if policy is None:
            return Outcome("unchanged")
        key = Key("RoutingPolicy", namespace, policy)
        try:
            async with asyncio.timeout_at(deadline):
                manifest = await self._policy(key)
        except (OperatorError, TimeoutError) as error:
            logger.warning("policy not read", extra=fields(policy=str(key), reason=str(error) or type(error).__name__))
            return _without(f"{key} could not be read; the operator's log says why", "unavailable")
        if manifest is None:
            return _without(f"{key} does not exist; create it, then this pod anew", "not_found")
        return self._decide_by(manifest, pod)

    def _decide_by(self, manifest: Manifest, pod: Manifest) -> Outcome:
        metadata = manifest["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            inputs = SidecarInputs(namespace, name, parse_policy(manifest), self._settings)
        except InvalidSpecError:
            return _without(f"RoutingPolicy {namespace}/{name} was written under another schema; apply it again")
        if not inputs.enabled:
            says = f"RoutingPolicy {namespace}/{name} says placement.sidecar.enabled: false"
            return _without(says, "disabled")
        injection = inject_sidecar(pod, inputs)
        if injection.refused:
            return _without(injection.refused)
        patch = tuple(make_additive_patch(pod, injection.pod))
        return Outcome("injected" if patch else "unchanged", injection.warnings, patch)

    async def _policy(self, key: Key) -> Manifest | None:
        """From the store; where it lacks the policy, which may be a moment old, by a live read."""
        if stored := self._store.get(ref_of(key)):
            return stored
        if not (_NAME.fullmatch(key.namespace) and _NAME.fullmatch(key.name)):
            return None
        try:
            async with self._reads:
                return await self._client.get(KINDS[key.kind].path(key.namespace, key.name))
        except NotFoundError:
            return None


def _pod_of(request: _Request) -> Manifest | None:
    """The pod that is to be created; None: it is something else.

    Raises:
        ValidationError: it is no pod that the API server would take.
    """
    if not request.creates_a_pod:
        return None
    _Pod.model_validate(request.manifest)
    return request.manifest


def _without(why: str, result: Result = "refused") -> Outcome:
    return Outcome(result, (f"no sidecar: {why}",))


def _response(uid: str, outcome: Outcome) -> web.Response:
    answer: Manifest = {"uid": uid, "allowed": True}
    if outcome.warnings:
        answer["warnings"] = [warning[:WARNING_MAX_CHARACTERS] for warning in outcome.warnings]
    if outcome.patch:
        answer["patchType"] = "JSONPatch"
        answer["patch"] = base64.b64encode(json.dumps(outcome.patch).encode()).decode()
    return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})


def _log(namespace: str, pod: Manifest, outcome: Outcome) -> None:
    metadata = cast("dict[str, str]", pod["metadata"])
    name = metadata.get("name") or metadata.get("generateName", "")
    result = fields(namespace=namespace, pod=name, policy=wanted_policy(pod), result=outcome.result)
    logger.info("pod reviewed", extra=result)


def _sentence(error: ValidationError) -> str:
    found: list[Any] = list(error.errors(include_url=False, include_context=False, include_input=False))
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:5])
