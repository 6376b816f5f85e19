"""The control API: routers poll it for snapshots, and their polls say what they serve.

`GET /v1/snapshots/{namespace}/{policy}?digest=&rejected=&error=&problem=` waits until the policy's snapshot has another
digest than `digest` (what the router serves) and `rejected` (what it refused, for the reason `error`); `problem`, which
may be repeated, is what it misses, as kind:target:text. 200: the snapshot, its digest in `x-flotilla-digest`, its place
among the policy's snapshots in `snapshot-published-at`. 204: no news for 30 s, ask again. A replica that does not hold
the Lease passes the request on to the one that does.

`POST /v1/wake/{namespace}/{expert}?policy=&waits=` has an Expert looked at now, because a request asks for it, and may
be waiting for it; see `flotilla_api.control.WAKE_PATH`. Whoever may have the policy's snapshot may ask this for the
Experts that the policy names. A replica that does not hold the Lease passes it on.

`GET /v1/recommendations/{namespace}/{expert}` is for autoscalers of others; see `recommendations`.

`GET /v1/artifacts/{namespace}/{policy}/{digest}` is the tar of a trained artifact; see
`flotilla_api.control.ARTIFACT_PATH`. Whoever may have the policy's snapshot may ask for the artifacts that it names. A
replica that does not hold the Lease passes it on: the snapshot came from there too.

`POST /v1/tokens/{namespace}/{policy}` with `{"token": ...}` says whose token a sidecar showed to its gateway; see
`flotilla_api.control.REVIEW_PATH`. Every replica answers that itself: sidecars' calls do not wait for a Lease.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
from aiohttp import web

from flotilla_api.conditions import Reason
from flotilla_api.control import (
    ARTIFACT_PATH,
    DIGEST_HEADER,
    PROBLEMS_MAX,
    PUBLISHED_HEADER,
    REVIEW_PATH,
    TEXT_MAX_CHARACTERS,
    TOKEN_REFUSED,
    WAKE_PATH,
    Problem,
)
from flotilla_operator.ports import Clock, OperatorError
from flotilla_operator.reconcile.types import Acknowledgement, Key
from flotilla_operator.scaling.report import Recommendation
from flotilla_operator.telemetry import LOGGER, fields

from .access import Access, Admission
from .answers import denial, problem, unavailable
from .artifacts import Missing
from .certificates import Certificates
from .recommendations import RECOMMENDATION_PATH, Recommendations
from .routers import POLL_SECONDS, Report, RouterRegistry
from .tokens import TOKEN_MAX_CHARACTERS, Denied, ExpiringCache

FORWARDED_HEADER = "x-flotilla-forwarded"
"""On a request that a standby passed on: it is never passed on again."""
PASSED_HEADERS = (DIGEST_HEADER, PUBLISHED_HEADER, "Retry-After")
SNAPSHOT_PATH = "/v1/snapshots/{namespace}/{policy}"

NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
DIGEST = re.compile(r"^(sha256:[0-9a-f]{64})?$")
STATUS_OF_MISSING = {Reason.ARTIFACT_NOT_FOUND: 404, Reason.ARTIFACT_DIGEST_MISMATCH: 409}
LINE_MAX_BYTES = (PROBLEMS_MAX + 1) * TEXT_MAX_CHARACTERS * 12 + 4096
"""Of the request line: all query parameters at their bounds; a character takes up to 12 bytes there."""
IDLE_SECONDS = 75.0
"""A connection without a request is closed after this; a router polls again within seconds."""
PASSED_ON_MAX = 4096
"""Polls that a standby passes on at a time: half the routers of a fleet, and no flood."""
BODY_MAX_BYTES = 2 * TOKEN_MAX_CHARACTERS
"""Of a request for a review: the longest token and its frame."""
BODY_SECONDS = 5.0
"""How long it may take to arrive."""
CONNECT_TIMEOUT_SECONDS = 2.0
DRAIN_SECONDS = 2.0
WAKE_SECONDS = 1.0
"""Wakes of one Expert by a policy's routers within this are one, of requests that wait and of those that do not: they
repeat theirs while they are asked for it."""
WAKES_MAX = 4096
"""Of policies and Experts, whose last ones are remembered."""

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Leadership:
    """What the control API needs to know about the Lease."""

    leading: Callable[[], bool]
    leader_address: Callable[[], str]
    """host:port of the holder's control API; '' when nobody holds the Lease."""


@dataclass(frozen=True, slots=True)
class Wakening:
    """What the control API needs to know about Experts."""

    names: Callable[[Key, str], bool]
    """Whether a policy names an Expert."""
    on_wake: Callable[[Key, bool], None]
    """An Expert is asked for, by a request that waits for it or not: it is looked at now. Called at most once a second
    for each policy and either."""


class ControlApi:
    """The control API's server."""

    def __init__(
        self,
        access: Access,
        registry: RouterRegistry,
        certificates: Certificates,
        leadership: Leadership,
        *,
        clock: Clock,
        exists: Callable[[Key], bool],
        wakening: Wakening,
        recommend: Callable[[Key], Recommendation | None],
        artifacts: Callable[[Key, str], Awaitable[bytes | Missing]],
    ) -> None:
        self._access = access
        self._registry = registry
        self._certificates = certificates
        self._leadership = leadership
        self._exists = exists
        self._wakening = wakening
        self._recommendations = Recommendations(access, clock, recommend, exists)
        self._artifacts = artifacts
        self._woken: ExpiringCache[bool] = ExpiringCache(clock.monotonic, WAKES_MAX)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._passed_on = 0
        self.port = 0
        """The port that it listens on, once it does."""

    @property
    def listening(self) -> bool:
        """Whether it serves."""
        return self.port > 0

    async def start(self, host: str, port: int) -> None:
        """It listens on `host`:`port` (0: any free one). The certificates must have been loaded."""
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app.router.add_get(SNAPSHOT_PATH, self._snapshot)
        app.router.add_get(ARTIFACT_PATH, self._artifact)
        app.router.add_post(REVIEW_PATH, self._review)
        app.router.add_post(WAKE_PATH, self._wake)
        app.router.add_get(RECOMMENDATION_PATH, self._recommend)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=POLL_SECONDS + 15, sock_connect=CONNECT_TIMEOUT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=LINE_MAX_BYTES,
            shutdown_timeout=DRAIN_SECONDS,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._certificates.server_context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """It no longer listens; polls that are under way were cut."""
        self.port = 0
        if self._runner:
            await self._runner.cleanup()
        if self._session:
            await self._session.close()

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        key, invalid = _parse_key(request), _invalid_query(request)
        if key is None:
            return problem(404, "NotFound", "the path is /v1/snapshots/NAMESPACE/POLICY")
        if invalid:
            return problem(400, "BadRequest", invalid)
        try:
            if not self._leadership.leading():
                return await self._pass_on(request)
            return await self._answer(request, key)
        except OperatorError as error:
            return _unanswered(key, error)

    async def _artifact(self, request: web.Request) -> web.StreamResponse:
        key, digest = _parse_key(request), request.match_info["digest"]
        if key is None or not DIGEST.match(digest):
            return problem(404, "NotFound", "the path is /v1/artifacts/NAMESPACE/POLICY/sha256:DIGEST")
        try:
            if not self._leadership.leading():
                return await self._pass_on(request)
            return await self._hand_out(request, key, digest)
        except OperatorError as error:
            return _unanswered(key, error)

    async def _hand_out(self, request: web.Request, key: Key, digest: str) -> web.StreamResponse:
        """The tar; nothing but what the policy itself names with this digest."""
        admission = await self._access.admit(request.headers.get("Authorization", ""), key.namespace, key.name)
        if isinstance(admission, Denied):
            return denial(admission)
        found = await self._artifacts(key, digest)
        if isinstance(found, Missing):
            return problem(STATUS_OF_MISSING[found.reason], found.reason.value, found.message)
        return web.Response(body=found, content_type="application/x-tar")

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        namespace, expert = request.match_info["namespace"], request.match_info["expert"]
        policy = request.query.get("policy", "")
        if not all(NAME.match(name) for name in (namespace, expert, policy)):
            return problem(404, "NotFound", "the path is /v1/wake/NAMESPACE/EXPERT?policy=POLICY")
        key = Key("RoutingPolicy", namespace, policy)
        try:
            if not self._leadership.leading():
                return await self._pass_on(request)
            return await self._wake_expert(request, key, Key("Expert", namespace, expert))
        except OperatorError as error:
            return _unanswered(key, error)

    async def _wake_expert(self, request: web.Request, policy: Key, expert: Key) -> web.StreamResponse:
        """202: the Expert is looked at. A policy opens nothing but the Experts that it names."""
        authorization = request.headers.get("Authorization", "")
        admission = await self._access.admit(authorization, policy.namespace, policy.name)
        if isinstance(admission, Denied):
            return denial(admission)
        waits = request.query.get("waits") == "1"
        if self._woken.get((policy, expert, waits)) is not None:
            return web.Response(status=202)
        if not self._wakening.names(policy, expert.name):
            return problem(403, "Forbidden", f"{policy} does not name {expert}")
        if not self._exists(expert):
            return problem(404, "NotFound", f"{expert} does not exist")
        self._woken.put((policy, expert, waits), True, WAKE_SECONDS)
        self._wakening.on_wake(expert, waits)
        return web.Response(status=202)

    async def _recommend(self, request: web.Request) -> web.StreamResponse:
        namespace, expert = request.match_info["namespace"], request.match_info["expert"]
        if not (NAME.match(namespace) and NAME.match(expert)):
            return problem(404, "NotFound", "the path is /v1/recommendations/NAMESPACE/EXPERT")
        key = Key("Expert", namespace, expert)
        try:
            if not self._leadership.leading():
                return await self._pass_on(request)
            return await self._recommendations.answer(request.headers.get("Authorization", ""), key)
        except OperatorError as error:
            return _unanswered(key, error)

    async def _review(self, request: web.Request) -> web.StreamResponse:
        key = _parse_key(request)
        if key is None:
            return problem(404, "NotFound", "the path is /v1/tokens/NAMESPACE/POLICY")
        try:
            authorization = request.headers.get("Authorization", "")
            gateway = await self._access.admit_gateway(authorization, key.namespace, key.name)
            if isinstance(gateway, Denied):
                return denial(gateway)
            token = await _read_token(request)
            if token is None:
                return problem(400, "BadRequest", f'the body is {{"token": TEXT}}, of at most {BODY_MAX_BYTES} bytes')
            sidecar = await self._access.review(token, key.namespace, key.name)
        except OperatorError as error:
            return _unanswered(key, error)
        if isinstance(sidecar, Denied):
            return problem(sidecar.status, TOKEN_REFUSED, sidecar.message)
        return web.json_response({"pod": sidecar.pod})

    async def _answer(self, request: web.Request, key: Key) -> web.StreamResponse:
        admission = await self._access.admit(request.headers.get("Authorization", ""), key.namespace, key.name)
        if isinstance(admission, Denied):
            return denial(admission)
        if not self._registry.published(key) and not self._exists(key):
            return problem(404, "NotFound", f"{key} does not exist")
        if not self._leadership.leading():
            return unavailable("this replica does not hold the Lease any more; try again")
        publication = await self._registry.poll(key, _report(request, admission))
        if publication is None:
            return web.Response(status=204)
        snapshot = publication.snapshot
        headers = {DIGEST_HEADER: publication.digest, PUBLISHED_HEADER: snapshot.published_at}
        return web.Response(body=snapshot.data, content_type="application/json", headers=headers)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """The leader's answer to `request`."""
        address = self._leadership.leader_address()
        if FORWARDED_HEADER in request.headers:
            return unavailable("this replica does not hold the Lease any more; try again")
        if not address or self._session is None:
            return unavailable("no replica holds the Lease; try again")
        if self._passed_on >= PASSED_ON_MAX:
            return unavailable("too many requests wait for the replica that holds the Lease; try again")
        self._passed_on += 1
        try:
            return await self._ask_leader(self._session, address, request)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning(
                "leader not reached", extra=fields(leader=address, reason=str(error) or type(error).__name__)
            )
            return unavailable("the replica that holds the Lease does not answer; try again")
        finally:
            self._passed_on -= 1

    async def _ask_leader(
        self, session: aiohttp.ClientSession, address: str, request: web.Request
    ) -> web.StreamResponse:
        headers = {"Authorization": request.headers.get("Authorization", ""), FORWARDED_HEADER: "1"}
        url, context = f"https://{address}{request.raw_path}", self._certificates.client_context
        async with session.request(request.method, url, headers=headers, ssl=context) as answer:
            passed = {name: answer.headers[name] for name in PASSED_HEADERS if name in answer.headers}
            body = await answer.read()
            return web.Response(
                status=answer.status, body=body or None, headers=passed, content_type=answer.content_type
            )


def _unanswered(key: Key, error: OperatorError) -> web.Response:
    logger.warning("control request not answered", extra=fields(policy=str(key), reason=str(error)))
    return unavailable("the Kubernetes API does not answer; try again")


async def _read_token(request: web.Request) -> str | None:
    """The token that the body holds; None: it holds none, is too long, or does not arrive."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body: Any = json.loads(await request.read())
    except (ValueError, RecursionError, TimeoutError, web.HTTPRequestEntityTooLarge):
        return None
    token = cast("dict[str, Any]", body).get("token") if isinstance(body, dict) else None
    return token if isinstance(token, str) else None


def _parse_key(request: web.Request) -> Key | None:
    namespace, policy = request.match_info["namespace"], request.match_info["policy"]
    return Key("RoutingPolicy", namespace, policy) if NAME.match(namespace) and NAME.match(policy) else None


def _invalid_query(request: web.Request) -> str:
    """What is wrong with the query; '' when nothing is."""
    query = request.query
    for name in ("digest", "rejected"):
        if not DIGEST.match(query.get(name, "")):
            return f"{name} must be sha256: and 64 hex digits"
    texts = [*query.getall("problem", []), query.get("error", "")]
    if len(texts) > PROBLEMS_MAX + 1 or any(len(text) > TEXT_MAX_CHARACTERS for text in texts):
        return f"at most {PROBLEMS_MAX} problems, and at most {TEXT_MAX_CHARACTERS} characters in each text"
    return ""


def _report(request: web.Request, admission: Admission) -> Report:
    query, caller = request.query, admission.caller
    rejected = query.get("rejected", "")
    reason = query.get("error", "") or "the router gave no reason"
    problems = tuple(Problem.from_query(value) for value in query.getall("problem", []))
    if admission.sidecar:
        reason, problems = "its log says why", _without_texts(problems)
    acknowledgement = Acknowledgement(
        pod=caller.pod,
        pod_uid=caller.pod_uid,
        digest=query.get("digest", ""),
        rejected=reason if rejected else "",
        problems=problems,
        sidecar=admission.sidecar,
    )
    return Report(acknowledgement, rejected)


def _without_texts(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Their kinds: who wrote the texts of an agent's pod is anybody's guess, and statuses and events are trusted."""
    return tuple(Problem(kind, "", "") for kind in sorted({problem.kind for problem in problems}))
