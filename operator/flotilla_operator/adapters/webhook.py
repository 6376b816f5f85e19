"""The admission webhook that adds the sidecar to agents' pods: `POST /v1/inject`, AdmissionReview v1, over TLS.

Callers are not authenticated: whoever calls sends a pod and gets back a patch for it, made of that pod, the chart's
values and what `placement.sidecar` and `tls` of a policy say. No credential is among them, and nothing is written
anywhere, whether `dryRun` or not. What callers can cost together is bounded: bytes are counted as they arrive, one body
is decoded at a time, nothing decoded is kept while a policy is read, and few of those reads run at a time.

The webhook refuses no pod and holds none up for long: a pod that gets no sidecar is admitted as it is, with a warning.
What a quota says of a pod that got one is another matter: see `docs/sidecars.md`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

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
from .reviews import InvalidReviewError, parse_review
from .store import Store
from .tokens import ExpiringCache

INJECT_PATH = "/v1/inject"
ANSWER_SECONDS = 1.2
"""Within this every review is answered; the API server waits for 2 s, and creating a pod waits with it."""
BODY_MAX_BYTES = 1536 * 1024
"""etcd holds no larger object."""
HELD_MAX_BYTES = 3 * 1024 * 1024
"""Of all reviews together, as far as they have arrived: hundreds of usual ones, or two of the largest. Decoding that
much takes the loop some 70 ms. What does not fit is refused at once."""
READS_AT_A_TIME = 4
"""So that a flood of pods that name no policy leaves connections for reconciling."""
ABSENT_SECONDS = 2.0
"""For how long a policy that a live read did not find is not read again; the store hears of a new one before that."""
ABSENT_MAX = 1024
LOG_SECONDS = 10.0
"""Between two lines of one policy with one result; the counter has them all."""
LOGS_MAX = 4096
IDLE_SECONDS = 120.0
"""Longer than the API server keeps an idle connection (90 s): it closes first, and never sends a review into a
connection that is just being closed, which it would not send again."""
SETTLE_SECONDS = 3.0
"""For how long a replica that ends still answers: until its address is gone from the Service."""
DRAIN_SECONDS = 2.0
NAME_MAX_CHARACTERS = 253
WARNING_MAX_CHARACTERS = 256
"""The API server may cut longer ones."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Result = Literal["injected", "unchanged", "not_found", "disabled", "refused", "unavailable", "failed"]

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a pod."""

    result: Result
    warnings: tuple[str, ...] = ()
    patch: tuple[Operation, ...] = ()


class _TurnedAwayError(Exception):
    """A review is not answered."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


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
        self._reads = asyncio.Semaphore(READS_AT_A_TIME)
        self._held_bytes = 0
        self._absent: ExpiringCache[bool] = ExpiringCache(_now, ABSENT_MAX)
        self._logged: ExpiringCache[bool] = ExpiringCache(_now, LOGS_MAX)
        self._runner: web.AppRunner | None = None
        self._settling = False
        self.port = 0
        """The port that it listens on, once it does."""

    @property
    def listening(self) -> bool:
        """Whether it serves."""
        return self.port > 0

    @property
    def held_bytes(self) -> int:
        """Of reviews that are being read or decided."""
        return self._held_bytes

    async def start(self, host: str, port: int) -> None:
        """It listens on `host`:`port` (0: any free one). The certificates must have been loaded."""
        app = web.Application()
        app.router.add_post(INJECT_PATH, self._inject)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            auto_decompress=False,  # the API server compresses none, and a few bytes may stand for gigabytes
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
        start, body = _now(), bytearray()
        try:
            await self._read(request, body, start + self._answer_seconds / 2)
            response = await self._review(body, start + self._answer_seconds)
        except _TurnedAwayError as error:
            response = web.Response(status=error.status, text=str(error))
            response.force_close()
        except InvalidReviewError as error:
            response = web.Response(status=400, text=f"not a review of a pod: {error}")
        finally:
            self._held_bytes -= len(body)
        return self._answered(response)

    async def _read(self, request: web.Request, body: bytearray, deadline: float) -> None:
        """`body` has all of the request's; what has arrived counts as held, so one that trickles in takes no place.

        Raises:
            _TurnedAwayError: it is too large, or too much is held already, or it did not come in time.
        """
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in request.content.iter_any():
                    if len(body) + len(chunk) > BODY_MAX_BYTES:
                        raise _TurnedAwayError(413, "larger than any pod")
                    if self._held_bytes + len(chunk) > HELD_MAX_BYTES:
                        raise _TurnedAwayError(503, "too many reviews at a time")
                    self._held_bytes += len(chunk)
                    body += chunk
        except TimeoutError as error:
            raise _TurnedAwayError(503, "the review was not read in time") from error

    async def _review(self, body: bytearray, deadline: float) -> web.Response:
        """The answer to a review.

        Raises:
            InvalidReviewError: it is none.
        """
        review = parse_review(body)
        uid, namespace, pod = review.uid, review.namespace, review.pod
        policy = wanted_policy(pod) if pod else None
        if pod is None or policy is None:
            outcome = Outcome("unchanged")
        else:
            key, who = Key("RoutingPolicy", namespace, policy), _name_of(pod)
            manifest = self._store.get(ref_of(key))
            if manifest is None:
                del review, pod  # what is decoded is not kept meanwhile
                manifest = await self._find(key, deadline)
                pod = parse_review(body).pod
            outcome = manifest if isinstance(manifest, Outcome) else self._decide_always(key, manifest, pod)
            self._log(key, who, outcome)
        self._telemetry.injections.labels(outcome.result).inc()
        return _response(uid, outcome)

    def _answered(self, response: web.Response) -> web.Response:
        if self._settling:
            response.force_close()
        return response

    async def _find(self, key: Key, deadline: float) -> Manifest | Outcome:
        """A policy that the store has not heard of, or what becomes of the pod without it."""
        try:
            async with asyncio.timeout_at(deadline):
                manifest = await self._read_policy(key)
        except (OperatorError, TimeoutError) as error:
            if self._may_log("policy"):
                reason = str(error) or type(error).__name__
                logger.warning("policy not read", extra=fields(policy=str(key), reason=reason))
            return _without(f"{key} could not be read; the operator's log says why", "unavailable")
        return manifest or _without(f"{key} does not exist; create it, then this pod anew", "not_found")

    def _decide_always(self, key: Key, policy: Manifest, pod: Manifest | None) -> Outcome:
        """A mistake of ours never keeps a pod from being created."""
        try:
            return self._decide_by(policy, pod) if pod else Outcome("unchanged")
        except Exception:
            if self._may_log("mistake"):
                logger.exception("review failed", extra=fields(policy=str(key)))
            return _without("the operator failed to make one; its log says why", "failed")

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

    async def _read_policy(self, key: Key) -> Manifest | None:
        """The policy by a live read: the store may be a moment behind."""
        if not (_NAME.fullmatch(key.namespace) and _NAME.fullmatch(key.name)):
            return None
        if self._absent.get(key):
            return None
        try:
            async with self._reads:
                return await self._client.get(KINDS[key.kind].path(key.namespace, key.name))
        except NotFoundError:
            self._absent.put(key, True, ABSENT_SECONDS)
            return None

    def _log(self, key: Key, pod: str, outcome: Outcome) -> None:
        """A line, unless one like it was written a moment ago; names of policies that were not found count as one."""
        known = outcome.result not in ("not_found", "unavailable")
        if outcome.result != "unchanged" and self._may_log((key if known else None, outcome.result)):
            result = fields(namespace=key.namespace, pod=pod, policy=key.name, result=outcome.result)
            logger.info("pod reviewed", extra=result)

    def _may_log(self, what: object) -> bool:
        return not self._logged.get(what) and self._logged.put(what, True, LOG_SECONDS)


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


def _name_of(pod: Manifest) -> str:
    """As far as it has one: that of a controller's pod is made after the review."""
    metadata: Manifest = pod["metadata"]
    return str(metadata.get("name") or metadata.get("generateName", ""))[:NAME_MAX_CHARACTERS]


def _now() -> float:
    return asyncio.get_running_loop().time()
