"""The paths of vLLM's server, and the simulator's own under /sim."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from time import time
from typing import cast

import msgspec

from fakes.engine import faults, metrics, requests, wire
from fakes.engine.admin import AdminPaths
from fakes.engine.answers import Oracle, read_known
from fakes.engine.dialect import Dialect, refused_param
from fakes.engine.embeddings import EmbeddingRequest, make_embeddings
from fakes.engine.engine import Clock, Engine
from fakes.engine.faults import Fault, Faults
from fakes.engine.generation import Cut, Generation
from fakes.engine.http import Exchange, Request
from fakes.engine.plans import Plan, Planner, Quality
from fakes.engine.replies import Replies, Routes
from fakes.engine.requestlog import Entry, RequestLog, complete
from fakes.engine.requests import ChatRequest, CompletionRequest, RequestError
from fakes.engine.settings import EngineSettings
from fakes.engine.wire import Head, Object, Served

VERSION = "0.32.0"

CRASH_EXIT_CODE = 1
FLUSH_SECONDS = 0.05
"""Between a stream's last event and the end of the process that dies in it."""

_UNMETERED = frozenset({"/health", "/load", "/metrics", "/ping", "/version"})
"""Paths that vLLM leaves out of its HTTP metrics."""

_CUTS = frozenset({"die_mid_stream", "error_mid_stream", "hang"})
"""Faults that a stream meets on its way."""

_QUALITIES: Mapping[str, Quality] = {"empty_answer": "empty", "low_confidence": "low_confidence"}


class EngineServer:
    """One simulated engine behind HTTP; `handle` is the application of `http.Server`."""

    def __init__(self, settings: EngineSettings, dialect: Dialect, clock: Clock) -> None:
        sim = settings.behaviour
        known = read_known(sim.answers) if sim.answers else None
        self.engine = Engine(settings, clock)
        self._settings, self._dialect, self._clock = settings, dialect, clock
        self._planner = Planner(settings, Oracle(sim.skill, sim.seed, sim.output_tokens, known))
        self._replies = Replies(dialect)
        self._admin = AdminPaths(settings, self.engine, self._planner, self._replies)
        self._faults, self._log = Faults(), RequestLog()
        self._keys = [sha256(key.encode()).digest() for key in settings.api_keys]
        self._plans: dict[str, Callable[[Request, Fault | None], Plan]] = {
            "/v1/chat/completions": self._chat_plan,
            "/v1/completions": self._completion_plan,
        }
        if sim.embedding_dimensions:
            self._plans = {}
        self._routes = self._make_routes()

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Answer one request, now or as tokens come."""
        entry = self._log.add(request, time()) if _is_logged(request) else None
        started = self._clock.now()
        exchange.on_end = lambda done: self._ended(done, entry, self._clock.now() - started)
        if request.path.startswith("/v1") and not self._is_authorized(request):
            self._replies.json(exchange, 401, self._dialect.unauthorized(_bearer(request)))
            return
        methods = ("POST",) if request.path in self._plans else self._routes.get(request.path)
        if methods is None:
            self._replies.json(exchange, 404, {"detail": "Not Found"})
        elif request.method not in methods:
            self._replies.json(exchange, 405, {"detail": "Method Not Allowed"}, {"allow": ", ".join(methods)})
        else:
            self._serve(request, exchange, entry)

    def _make_routes(self) -> Routes:
        routes: Routes = {
            "/v1/models": {"GET": self._models},
            "/sim/faults": {"POST": self._add_faults, "GET": self._list_faults, "DELETE": self._clear_faults},
            "/sim/requests": {"GET": self._list_requests, "DELETE": self._clear_requests},
            "/sim/health": {"GET": self._ok},
        }
        if self._settings.behaviour.embedding_dimensions:
            routes |= {"/v1/embeddings": {"POST": self._embed}}
        if self._dialect.has_engine_paths:
            routes |= self._admin.routes()
            routes |= {
                "/health": {"GET": self._ok},
                "/ping": {"GET": self._ok, "POST": self._ok},
                "/version": {"GET": self._version},
                "/load": {"GET": self._show_load},
                "/metrics": {"GET": self._metrics},
            }
        return routes

    def _serve(self, request: Request, exchange: Exchange, entry: Entry | None) -> None:
        fault = self._take_fault(request, entry)
        if fault and self._replaces_answer(fault, exchange):
            return
        if fault and fault.kind == "slow_first_token":
            self._clock.call_later(fault.seconds or 1.0, lambda: self._run(request, exchange, fault))
            return
        self._run(request, exchange, fault)

    def _run(self, request: Request, exchange: Exchange, fault: Fault | None) -> None:
        if exchange.is_finished:
            return
        make_plan = self._plans.get(request.path)
        try:
            if make_plan:
                self._generate(make_plan(request, fault), exchange, fault)
            else:
                self._routes[request.path][request.method](request, exchange)
        except RequestError as error:
            self._replies.error(exchange, error)

    def _generate(self, plan: Plan, exchange: Exchange, fault: Fault | None) -> None:
        request_id = exchange.request.headers.get("x-request-id") or f"{secrets.randbits(64):016x}"
        prefix = "chatcmpl" if plan.api == "chat" else "cmpl"
        headers = dict(self._dialect.headers())
        if self._settings.enable_request_id_headers:
            headers["x-request-id"] = request_id
        head = Head(f"{prefix}-{request_id}", int(time()), plan.model)
        generation = Generation(plan, head, exchange, self._dialect, headers)
        self.engine.admit(len(plan.choices))
        if fault and fault.kind in _CUTS and not plan.stream:
            self._cut_whole(fault, exchange)
            return
        if fault and fault.kind in _CUTS:
            generation.cut = self._cut(fault, generation)
        self.engine.submit(generation)

    def _chat_plan(self, request: Request, fault: Fault | None) -> Plan:
        body = requests.parse(ChatRequest, request.body, request.headers.get("content-type", ""))
        self._refuse_params(request)
        return self._planner.chat(body, self._admin.adapters, _quality(fault))

    def _completion_plan(self, request: Request, fault: Fault | None) -> Plan:
        body = requests.parse(CompletionRequest, request.body, request.headers.get("content-type", ""))
        self._refuse_params(request)
        return self._planner.completion(body, self._admin.adapters, _quality(fault))

    def _refuse_params(self, request: Request) -> None:
        refused = self._settings.behaviour.refuse_params
        if refused and (error := refused_param(_object(request.body), refused)):
            raise error

    def _take_fault(self, request: Request, entry: Entry | None) -> Fault | None:
        if request.path.startswith("/sim/") or not self._faults.are_set:
            return None
        named = _object(request.body).get("model")
        model = named if isinstance(named, str) else None
        fault = self._faults.take(request.path, model, generates=request.path in self._plans)
        if fault and entry:
            entry.fault = fault.kind
        return fault

    def _replaces_answer(self, fault: Fault, exchange: Exchange) -> bool:
        """Do what `fault` says instead of answering, if it is of that sort."""
        match fault.kind:
            case "http_error" | "overloaded":
                self._fail(fault, exchange)
            case "context_overflow":
                most = self._settings.max_model_len
                self._replies.error(exchange, requests.overflow(most, 0, most + 1))
            case "die_before_first_byte":
                self._die(fault, exchange)
            case "hang" if fault.after_events is None:
                self._kill_later(fault, exchange)
            case _:
                return False
        return True

    def _fail(self, fault: Fault, exchange: Exchange) -> None:
        status = fault.http_status
        if fault.kind == "overloaded":
            self.engine.metrics.rejected()
        kind = (
            "ServiceUnavailableError"
            if status == 503
            else "InternalServerError"
            if status >= 500
            else "BadRequestError"
        )
        error = RequestError(fault.message or "Injected fault.", status=status, kind=kind)
        self._replies.error(exchange, error, {"retry-after": str(fault.retry_after)} if fault.retry_after else None)

    def _cut(self, fault: Fault, generation: Generation) -> Cut:
        """Return how a stream is cut; an engine that failed a request also drops it."""
        exchange = generation.exchange
        if fault.kind == "hang":
            return Cut(fault.after_events or 0, lambda: self._kill_later(fault, exchange))
        after = 1 if fault.after_events is None else fault.after_events
        if fault.kind == "die_mid_stream":
            return Cut(after, lambda: self._die(fault, exchange))
        error = self._dialect.error(_generation_error(fault))
        return Cut(after, lambda: self._fail_running(generation, error))

    def _fail_running(self, generation: Generation, error: Object) -> None:
        def fail() -> None:
            self.engine.abort(generation, "error")
            generation.fail(error)

        self._clock.call_later(0, fail)  # the engine is in the middle of a step

    def _cut_whole(self, fault: Fault, exchange: Exchange) -> None:
        """Do to a whole answer what `fault` does to a stream."""
        if fault.kind == "hang":
            self._kill_later(fault, exchange)
        elif fault.kind == "die_mid_stream":
            self._die(fault, exchange)
        else:
            self._replies.error(exchange, _generation_error(fault))

    def _kill_later(self, fault: Fault, exchange: Exchange) -> None:
        if fault.seconds is not None:
            self._clock.call_later(fault.seconds, exchange.kill)

    def _die(self, fault: Fault, exchange: Exchange) -> None:
        if fault.process:
            sys.stderr.write("EngineDeadError: EngineCore encountered an issue (injected fault).\n")
            sys.stderr.flush()
            self._clock.call_later(FLUSH_SECONDS, lambda: os._exit(CRASH_EXIT_CODE))
        else:
            exchange.kill(flush=exchange.status is not None)

    def _is_authorized(self, request: Request) -> bool:
        digest = sha256(_bearer(request).encode()).digest()
        return not self._keys or any(compare_digest(digest, key) for key in self._keys)

    def _ended(self, exchange: Exchange, entry: Entry | None, seconds: float) -> None:
        request = exchange.request
        if entry:
            complete(entry, exchange)
        if request.path not in _UNMETERED and not request.path.startswith("/sim/"):
            known = request.path in self._plans or request.path in self._routes
            self.engine.metrics.answered(
                request.path if known else "none", request.method, exchange.status or 500, seconds
            )
        if self._settings.access_log and not request.path.startswith("/sim/"):
            print(
                f'INFO:     {request.peer} - "{request.method} {request.path} HTTP/1.1" {exchange.status}', flush=True
            )

    def _ok(self, _request: Request, exchange: Exchange) -> None:
        self._replies.text(exchange, b"")

    def _version(self, _request: Request, exchange: Exchange) -> None:
        self._replies.json(exchange, 200, {"version": VERSION})

    def _show_load(self, _request: Request, exchange: Exchange) -> None:
        load = self.engine.in_flight if self._settings.enable_server_load_tracking else 0
        self._replies.json(exchange, 200, {"server_load": load})

    def _metrics(self, _request: Request, exchange: Exchange) -> None:
        self._replies.text(exchange, self.engine.metrics.render(), metrics.CONTENT_TYPE)

    def _models(self, _request: Request, exchange: Exchange) -> None:
        settings = self._settings
        served = Served(settings.served_names, settings.model, settings.max_model_len, self._admin.adapters)
        ids = iter(lambda: f"modelperm-{secrets.randbits(64):016x}", "")
        self._replies.json(exchange, 200, wire.make_models(served, int(time()), ids))

    def _embed(self, request: Request, exchange: Exchange) -> None:
        body = requests.parse(EmbeddingRequest, request.body, request.headers.get("content-type", ""))
        served = self._settings.served_names
        if body.model not in (None, *served):
            raise requests.unknown_model(body.model, list(served))
        dimensions = self._settings.behaviour.embedding_dimensions
        self._replies.json(exchange, 200, make_embeddings(body.texts, served[0], dimensions, int(time())))

    def _add_faults(self, request: Request, exchange: Exchange) -> None:
        try:
            self._faults.add(faults.decode(request.body))
        except msgspec.DecodeError as error:
            raise RequestError(f"not a fault: {error}") from None
        self._list_faults(request, exchange)

    def _list_faults(self, _request: Request, exchange: Exchange) -> None:
        self._replies.json(exchange, 200, self._faults.listing())

    def _clear_faults(self, request: Request, exchange: Exchange) -> None:
        self._faults.clear()
        self._list_faults(request, exchange)

    def _list_requests(self, _request: Request, exchange: Exchange) -> None:
        self._replies.json(exchange, 200, self._log.listing())

    def _clear_requests(self, request: Request, exchange: Exchange) -> None:
        self._log.clear()
        self._list_requests(request, exchange)


def _is_logged(request: Request) -> bool:
    """What a client sends; not probes, scrapes and the simulator's own paths."""
    return request.path.startswith("/v1") or (request.method == "POST" and not request.path.startswith("/sim/"))


def _generation_error(fault: Fault) -> RequestError:
    return RequestError(fault.message or "Internal server error", status=500, kind="InternalServerError")


def _quality(fault: Fault | None) -> Quality:
    return _QUALITIES.get(fault.kind, "as_skilled") if fault else "as_skilled"


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _object(body: bytes) -> dict[str, object]:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
