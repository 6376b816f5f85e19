"""What a router answers: completions, models, explanations, health and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import unquote

import msgspec

from flotilla_api.causes import Cause
from flotilla_api.request_log import REQUEST_LOG_PATH
from flotilla_api.snapshot import Target

from .access import RELAY_HEADER, Access, Waiting, judge
from .choose import choose, choose_relayed, eligible
from .connection import ClientConnection
from .decisions import Decision, Features, Ranking, Refusal
from .dispatch import Dispatcher
from .errors import quote
from .exchange import Exchange
from .explain import explanation
from .holds import Decide, Hold
from .incoming import Incoming, Problem, too_large
from .judging import Judge
from .learned import Judgement
from .logpages import LogPages
from .logs import RequestRecord
from .openai import Api, BadRequest, ParsedRequest, parse_request
from .passing import passed_headers
from .registry import Live, Registry
from .replies import JSON_LINES, Reply, request_lines, retry_line
from .requestlog import Entry, RequestLog
from .routing_table import visible_models
from .telemetry import METRICS_CONTENT_TYPE
from .wire import Prompted

BOUNDARY_HEADER = b"x-flotilla-boundary"
_SMALL_BODY_BYTES = 1024 * 1024
"""Most that is read while no snapshot says how much."""
_JSON = b"application/json"
_TEXT_LINE = b"content-type: text/plain; charset=utf-8\r\n"

_NO_HEADERS: dict[str, str] = {}

Handler = Callable[[Incoming, ClientConnection], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path and what may be done with it."""

    methods: tuple[bytes, ...]
    handler: Handler
    needs_key: bool = True
    key_even_if_anonymous: bool = False
    relays: bool = False
    """Whether sidecars ask here for external fallbacks."""

    @property
    def allow(self) -> bytes:
        """The Allow header's line."""
        return b"allow: " + b", ".join((*self.methods, b"OPTIONS")) + b"\r\n"


class _RefusedError(Exception):
    """Carries a problem from where it is found to the connection."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Surface:
    """Paths of one listener. Implements connection.Service."""

    def __init__(self, router: Router, endpoints: Mapping[bytes, Endpoint]) -> None:
        self._router = router
        self._endpoints = endpoints
        self._folders = [(path[:-1], each) for path, each in endpoints.items() if path.endswith(b"/*")]

    @property
    def draining(self) -> bool:
        """Whether connections end with their current request."""
        return self._router.draining

    @property
    def max_body_bytes(self) -> int:
        """Largest body, by the snapshot in use."""
        live = self._router.registry.live
        return live.snapshot.maxBodyBytes if live is not None else _SMALL_BODY_BYTES

    def admit(self, incoming: Incoming, connection: ClientConnection) -> Problem | None:
        """Whether the body should be read, by the headers; where a review goes on, as far as it is known."""
        endpoint = self._find(incoming.url)
        if endpoint is None:
            path = quote(_path(incoming.url).decode("latin-1"))
            return Problem(status=404, message=f"there is nothing at {path}", code="not_found")
        if incoming.has_body and incoming.method != b"POST":
            method = incoming.method.decode("latin-1")
            return Problem(status=413, message=f"a {method} request has no body here", code="body_not_allowed")
        if incoming.method == b"OPTIONS":
            return None
        if incoming.method not in endpoint.methods:
            method = incoming.method.decode("latin-1")
            message = f"{method} is not allowed here"
            return Problem(status=405, message=message, code="method_not_allowed", headers=endpoint.allow)
        if endpoint.needs_key and (problem := self._router.authenticate(incoming, endpoint, connection)) is not None:
            return problem
        return self._check_body(incoming) if incoming.method == b"POST" else None

    def judge(self, incoming: Incoming) -> Problem | None:
        """Why a request may not pass after all, by the review's verdict."""
        return None if incoming.review is None else judge(incoming.review.result(), incoming)

    def serve(self, incoming: Incoming, connection: ClientConnection) -> None:
        """Answer an admitted request."""
        endpoint = self._find(incoming.url)
        assert endpoint is not None
        if incoming.review is not None and incoming.undecided:
            connection.exchange = Waiting(incoming.review, connection.serve_again)
            return
        if (problem := self.judge(incoming)) is not None:
            connection.refuse(problem)
            return
        if incoming.method == b"OPTIONS":
            connection.respond(204, endpoint.allow, b"")
            return
        try:
            endpoint.handler(incoming, connection)
        except _RefusedError as refused:
            connection.refuse(refused.problem)

    def refused(self, problem: Problem, incoming: Incoming) -> bytes:
        """Count and log; the header lines that say which request of which policy it was."""
        name, telemetry = incoming.request_id, self._router.dispatcher.telemetry
        telemetry.refused(problem.code, status=problem.status, request_id=name, message=problem.message)
        return request_lines(telemetry.policy, name)

    def _find(self, url: bytes) -> Endpoint | None:
        endpoint = self._endpoints.get(url)
        if endpoint is not None:
            return endpoint
        path = _path(url)
        inside = (each for folder, each in self._folders if path.startswith(folder))
        return self._endpoints.get(path) or next(inside, None)

    def _check_body(self, incoming: Incoming) -> Problem | None:
        given = incoming.headers.get(b"content-type", b"")
        if given != _JSON and given.partition(b";")[0].strip().lower() != _JSON:
            message = "Unsupported Media Type: Only 'application/json' is allowed"
            return Problem(status=415, message=message, code="unsupported_media_type")
        length = incoming.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body_bytes:
            return too_large(self.max_body_bytes)
        return None


class Router:
    """The state behind both listeners."""

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        access: Access,
        judge: Judge,
        *,
        log: RequestLog | None = None,
        pages: LogPages | None = None,
    ) -> None:
        """log, pages: a gateway's request log, and how it is read."""
        self.registry = registry
        self.judge = judge
        self.dispatcher = dispatcher
        self.access = access
        self._log = log
        self._pages = pages
        self.draining = False

    def data_surface(self) -> Surface:
        """What clients reach."""
        return Surface(
            self,
            {
                b"/v1/chat/completions": Endpoint((b"POST",), self._chat, relays=True),
                b"/v1/completions": Endpoint((b"POST",), self._completions, relays=True),
                b"/v1/models": Endpoint((b"GET", b"HEAD"), self._models),
                b"/v1/models/*": Endpoint((b"GET", b"HEAD"), self._model),
                b"/v1/route:explain": Endpoint((b"POST",), self._explain),
                b"/healthz": Endpoint((b"GET", b"HEAD"), self._healthy, needs_key=False),
                b"/readyz": Endpoint((b"GET", b"HEAD"), self._ready, needs_key=False),
                b"/metrics": Endpoint((b"GET", b"HEAD"), self._metrics, key_even_if_anonymous=True),
            },
        )

    def admin_surface(self) -> Surface:
        """What the kubelet and Prometheus reach, and at a gateway readers of the request log."""
        endpoints = {
            b"/healthz": Endpoint((b"GET", b"HEAD"), self._healthy, needs_key=False),
            b"/readyz": Endpoint((b"GET", b"HEAD"), self._ready, needs_key=False),
            b"/metrics": Endpoint((b"GET", b"HEAD"), self._metrics, needs_key=False),
        }
        if self._pages is not None:
            endpoints[REQUEST_LOG_PATH.encode()] = Endpoint((b"GET",), self._pages.serve, needs_key=False)
        return Surface(self, endpoints)

    def authenticate(self, incoming: Incoming, endpoint: Endpoint, connection: ClientConnection) -> Problem | None:
        """Why the request may not pass, by who sends it."""
        live = self.registry.live
        if live is None:
            message = "no snapshot of the policy has been loaded yet"
            return Problem(status=503, message=message, code="not_ready", type="server_error")
        if RELAY_HEADER in incoming.headers:
            allowed = live.snapshot.sidecars
            return self.access.admit_relay(incoming, connection.peer, here=endpoint.relays, allowed=allowed)
        if live.snapshot.anonymous and not endpoint.key_even_if_anonymous:
            return None
        return self.access.admit(incoming)

    # Completions

    def _chat(self, incoming: Incoming, connection: ClientConnection) -> None:
        self._complete("chat", incoming, connection)

    def _completions(self, incoming: Incoming, connection: ClientConnection) -> None:
        self._complete("completions", incoming, connection)

    def _complete(self, api: Api, incoming: Incoming, connection: ClientConnection) -> None:
        live, dispatcher = self._live(), self.dispatcher
        request = _parse(api, incoming.body())
        if self.judge.learned.endpoints and self._awaits_vectors(live, request, incoming, connection):
            return
        headers = incoming.headers
        draw = dispatcher.draw()
        judgement = self._judge(live, request, incoming) if self.judge.learned.ranks else None
        ranking = None if judgement is None else judgement.ranking
        outcome = self._choose(live, request, headers, draw, relayed=incoming.review is not None, ranking=ranking)
        if outcome.meant is not None:
            self._note_demand(outcome.meant, waits=isinstance(outcome, Refusal) or outcome.first.asleep)
        decision = _taken(outcome)
        name = incoming.request_id
        record = RequestRecord(
            request_id=name,
            policy=live.snapshot.policy,
            api=api,
            client=incoming.client,
            relayed=incoming.review is not None,
            alias=request.model,
            stream=request.stream,
            rule=decision.rule,
            reason=decision.reason,
            snapshot=live.digest,
        )
        self.judge.note(judgement, decision, record)
        arrived = dispatcher.loop.time()
        exchange = Exchange(
            dispatcher=dispatcher,
            reply=Reply(connection, record, arrived),
            live=live,
            request=request,
            decision=decision,
            passed_headers=passed_headers(headers, name),
            record=record,
            arrived=arrived,
            stream=request.stream,
        )
        if self._log is not None and incoming.review is None:
            exchange.entry = self._follow(self._log, live, request, headers, judgement)
        if decision.first.asleep:
            exchange.hold = self._hold(exchange, self._decide_again(request, headers, draw, ranking))
        elif decision.cause is Cause.COLD_START:
            exchange.decide_unbridged = self._decide_again(request, headers, draw, ranking, bridged=True)
        connection.exchange = exchange
        if self.judge.learned.shadows and incoming.review is None:
            name = decision.first.name
            dispatcher.loop.call_soon(self.judge.begin_shadow, live, request, headers, record, name)
        incoming.release()
        dispatcher.begin(exchange)

    def _follow(
        self,
        log: RequestLog,
        live: Live,
        request: ParsedRequest,
        headers: Mapping[bytes, bytes],
        judgement: Judgement | None,
    ) -> Entry | None:
        """What the request log keeps of a request; None: it keeps nothing."""
        if log.config is None:
            return None
        now = self.dispatcher.loop.time()

        def ready(target: Target) -> bool:
            return self.dispatcher.ready(live, target, now)

        opinion = None if judgement is None else judgement.opinion
        candidates = eligible(live.table, _features(live, request, headers), ready)
        return Entry(log, log.config, request, candidates, None if opinion is None else opinion.scores)

    def _live(self) -> Live:
        live = self.registry.live
        if live is None:
            raise _RefusedError(Problem(status=503, message="no snapshot", code="not_ready", type="server_error"))
        return live

    def _note_demand(self, expert: Target, *, waits: bool) -> None:
        """A request is meant for `expert`, woken if it sleeps: also if another one answers, and nobody `waits`."""
        self.dispatcher.telemetry.demanded(expert.name)
        if expert.asleep:
            self.dispatcher.wakes.wake(expert.name, waits=waits)

    def _awaits_vectors(
        self, live: Live, request: ParsedRequest, incoming: Incoming, connection: ClientConnection
    ) -> bool:
        """Whether embedding Experts are asked first; the request is served again when they have had their time."""
        if incoming.vectors is None:
            incoming.vectors = self.judge.ask_vectors(live, request, incoming)
            if incoming.vectors is not None:
                connection.exchange = Waiting(incoming.vectors, connection.serve_again)
                return True
        return False

    def _judge(
        self, live: Live, request: ParsedRequest, incoming: Incoming, *, counts: bool = True
    ) -> Judgement | None:
        """What learned routing says of a request; None: it has no say."""
        judgement = self.judge.judge(live, request, incoming, counts=counts)
        if isinstance(judgement, Problem):
            raise _RefusedError(judgement)
        return judgement

    def _hold(self, exchange: Exchange, decide: Decide) -> Hold:
        """The wait of a request whose expert sleeps."""
        arrived = exchange.arrived
        until = arrived + exchange.live.snapshot.coldStart.maxHoldSeconds
        hold = Hold(expert=exchange.decision.first.name, since=arrived, until=until, decide=decide, due=arrived)
        hold.look_later(arrived)
        return hold

    def _decide_again(
        self,
        request: ParsedRequest,
        headers: Mapping[bytes, bytes],
        draw: float,
        ranking: Ranking | None,
        *,
        bridged: bool = False,
    ) -> Decide:
        """A later decision, by whatever snapshot is in use then; `bridged`: fallbacks have failed, and are left out."""

        def decide(waited: bool) -> tuple[Live, Decision | Refusal]:
            live = self._live()
            return live, self._choose(live, request, headers, draw, waited=waited, bridged=bridged, ranking=ranking)

        return decide

    def _choose(
        self,
        live: Live,
        request: ParsedRequest,
        headers: Mapping[bytes, bytes],
        draw: float,
        *,
        relayed: bool = False,
        waited: bool = False,
        bridged: bool = False,
        ranking: Ranking | None = None,
    ) -> Decision | Refusal:
        """Decide; a replica that is left out for now is better than no answer, but for a fallback's that has failed."""
        dispatcher = self.dispatcher
        now = dispatcher.loop.time()
        features = _features(live, request, headers)

        def ready(target: Target) -> bool:
            return dispatcher.ready(live, target, now) and not (bridged and target.kind == "Fallback")

        def present(target: Target) -> bool:
            return dispatcher.present(live, target) and not (bridged and target.kind == "Fallback")

        if relayed:
            outcome = choose_relayed(live.table, features, ready)
        else:
            outcome = choose(live.table, features, ready, draw, waited=waited, ranking=ranking)
        if type(outcome) is Refusal and outcome.status == 503:
            if relayed:
                return choose_relayed(live.table, features, present)
            return choose(live.table, features, present, draw, waited=waited, ranking=ranking)
        return outcome

    # Everything else

    def _explain(self, incoming: Incoming, connection: ClientConnection) -> None:
        live = self._live()
        body = incoming.body()
        request = _parse(_api_of(body), body)
        if self._awaits_vectors(live, request, incoming, connection):
            return
        relayed = incoming.review is not None
        judgement = self._judge(live, request, incoming, counts=False)
        ranking = None if judgement is None else judgement.ranking
        draw, now = self.dispatcher.draw(), self.dispatcher.loop.time()
        decision = _taken(self._choose(live, request, incoming.headers, draw, relayed=relayed, ranking=ranking))
        ready = [self.dispatcher.ready(live, target, now) for target in live.snapshot.targets]
        connection.respond(200, JSON_LINES, explanation(live, request, decision, judgement, ready))

    def _models(self, _incoming: Incoming, connection: ClientConnection) -> None:
        data = [_model_object(name) for name in visible_models(self._live().table)]
        connection.respond(200, JSON_LINES, msgspec.json.encode({"object": "list", "data": data}))

    def _model(self, incoming: Incoming, connection: ClientConnection) -> None:
        name = unquote(_path(incoming.url).removeprefix(b"/v1/models/").decode("latin-1"))
        if name not in visible_models(self._live().table):
            message = f"The model `{quote(name)}` does not exist."
            raise _RefusedError(Problem(status=404, message=message, code="model_not_found", param="model"))
        connection.respond(200, JSON_LINES, msgspec.json.encode(_model_object(name)))

    def _healthy(self, _incoming: Incoming, connection: ClientConnection) -> None:
        connection.respond(200, _TEXT_LINE, b"ok\n")

    def _ready(self, _incoming: Incoming, connection: ClientConnection) -> None:
        if self.draining:
            connection.respond(503, _TEXT_LINE, b"draining\n")
        elif self.registry.live is None:
            connection.respond(503, _TEXT_LINE, b"no snapshot\n")
        else:
            connection.respond(200, _TEXT_LINE, b"ok\n")

    def _metrics(self, _incoming: Incoming, connection: ClientConnection) -> None:
        exposition = self.dispatcher.telemetry.exposition()
        connection.respond(200, b"content-type: %b\r\n" % METRICS_CONTENT_TYPE, exposition)


def _taken(outcome: Decision | Refusal) -> Decision:
    """The decision.

    Raises:
        _RefusedError: nobody may answer.
    """
    match outcome:
        case Refusal():
            raise _RefusedError(_problem_of(outcome))
        case Decision():
            return outcome
        case _:
            assert_never(outcome)


def _path(url: bytes) -> bytes:
    return url.partition(b"?")[0]


def _parse(api: Api, body: bytes) -> ParsedRequest:
    try:
        return parse_request(api, body)
    except BadRequest as error:
        raise _RefusedError(
            Problem(
                status=error.status,
                message=error.message,
                code=error.code or "invalid_request",
                type=error.type,
                param=error.param,
            )
        ) from error


def _api_of(body: bytes) -> Api:
    """An explained request is of the API whose field it has; broken bodies are found out later."""
    try:
        return "chat" if msgspec.json.decode(body, type=Prompted).prompt is None else "completions"
    except (msgspec.DecodeError, RecursionError):
        return "chat"


def _features(live: Live, request: ParsedRequest, headers: Mapping[bytes, bytes]) -> Features:
    boundary = headers.get(BOUNDARY_HEADER)
    return Features(
        api=request.api,
        model=request.model,
        tool_count=request.tool_count,
        json_schema=request.json_schema,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
        headers=_NO_HEADERS
        if not live.header_names
        else {name: headers[key].decode("latin-1") for name, key in live.header_names if key in headers},
        boundary_header=None if boundary is None else boundary.decode("latin-1"),
    )


def _problem_of(refusal: Refusal) -> Problem:
    return Problem(
        status=refusal.status,
        message=refusal.message,
        code=refusal.code,
        type=refusal.type,
        param=refusal.param,
        headers=retry_line(refusal.retry_after_seconds),
    )


def _model_object(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "flotilla"}
