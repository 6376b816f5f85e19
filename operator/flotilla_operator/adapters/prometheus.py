"""The `MetricsSource` port on a Prometheus server, or on what speaks its HTTP API: Thanos, Mimir, VictoriaMetrics.

Each reading is one query for the whole fleet. Whatever goes wrong with one makes that reading unknown, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flotilla_operator.scaling.answers import Matrix, Vector, read_matrix, read_vector
from flotilla_operator.scaling.evidence import SCRAPES_MIN
from flotilla_operator.scaling.fleet import Fleet, FleetSignals, History, NamespacedName
from flotilla_operator.scaling.past import Past, make_histories
from flotilla_operator.scaling.readings import (
    READINGS,
    Reading,
    Rows,
    Scope,
    past_demand,
    past_scrapes,
    past_work,
    promql,
)
from flotilla_operator.scaling.reduce import reduce_signals
from flotilla_operator.scaling.signals import Unknown
from flotilla_operator.telemetry import LOGGER, fields

from .prometheus_server import Answer, Credentials, NoAnswerError, PrometheusServer

logger = logging.getLogger(LOGGER)

SKEW_MAX_SECONDS = 30.0
"""Between this machine's clock and the server's, and between the server's and the moment that an answer is about."""


@dataclass(slots=True)
class _Round:
    """The queries of one tick, and what was noticed."""

    now: float
    began: float
    """That is `now`, by the event loop's clock."""
    deadline: float
    """By the event loop's clock."""
    credentials: Credentials | Unknown
    skews: list[float] = field(default_factory=list[float])
    """Seconds by which the server's clock was ahead, at each answer."""
    failures: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    """Names of readings by the reason why they failed."""

    @property
    def skew(self) -> float:
        """Seconds by which the server's clock is ahead; 0: nothing is known of it."""
        return sorted(self.skews)[len(self.skews) // 2] if self.skews else 0.0

    def problems(self) -> list[str]:
        """What whoever runs the server should know."""
        found = [f"{why} ({_listed(names)})" for why, names in sorted(self.failures.items())]
        if abs(self.skew) > SKEW_MAX_SECONDS:
            ahead = "ahead of" if self.skew > 0 else "behind"
            found.append(f"Prometheus' clock is {abs(self.skew):.0f} s {ahead} this machine's")
        return found


class PrometheusMetrics:
    """Asks one server about the fleet that `fleet` tells of."""

    def __init__(
        self, server: PrometheusServer, scope: Scope, *, fleet: Callable[[], Fleet], timeout_seconds: float
    ) -> None:
        self._server = server
        self._scope = scope
        self._fleet = fleet
        self._timeout_seconds = timeout_seconds

    async def read(self, now: float) -> FleetSignals:
        """What is measured of every Expert; what is not says why."""
        fleet = self._fleet()
        if not fleet.experts:
            return FleetSignals({}, {})
        work = await self._begin(now)
        answers = await self._ask_all(READINGS, work)
        return reduce_signals(fleet, answers, now, self._scope, work.problems())

    async def history(self, now: float, seconds: float, step: float) -> Mapping[NamespacedName, History]:
        """The last `seconds` of every Expert that policies name; nothing where the server does not say."""
        work = await self._begin(now)
        slot_seconds, finished = past_work(seconds)
        done = await self._ask_all((slot_seconds, finished), work)
        start = now + work.skew - seconds
        window = max(step, self._scope.window_seconds)
        wanted = (past_demand(window), past_scrapes(window))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask_range(each, work, (start, start + seconds, step))) for each in wanted]
        demand, scrapes = (task.result() for task in tasks)
        if isinstance(demand, Unknown) or isinstance(scrapes, Unknown):
            reasons = sorted({each.why for each in (demand, scrapes) if isinstance(each, Unknown)})
            logger.warning("history not read", extra=fields(reasons=reasons))
            return {}
        routers = {
            labels: [point for point in points if point[1] >= SCRAPES_MIN] for labels, points in scrapes.rows.items()
        }
        past = Past(demand.rows, routers, done[slot_seconds], done[finished], start, step)
        return make_histories(past, self._fleet(), until=now, seconds=seconds)

    async def _begin(self, now: float) -> _Round:
        began = asyncio.get_running_loop().time()
        try:
            credentials = await self._server.credentials()
        except NoAnswerError as error:
            return _Round(now, began, began, Unknown(str(error)))
        return _Round(now, began, began + self._timeout_seconds, credentials)

    async def _ask_all(self, readings: Sequence[Reading], work: _Round) -> dict[Reading, Rows | Unknown]:
        async with asyncio.TaskGroup() as group:
            tasks = {reading: group.create_task(self._ask(reading, work)) for reading in readings}
        return {reading: task.result() for reading, task in tasks.items()}

    async def _ask(self, reading: Reading, work: _Round) -> Rows | Unknown:
        answer = await self._get("query", {}, reading, work)
        found = answer if isinstance(answer, Unknown) else read_vector(reading, answer.body)
        if isinstance(found, Vector) and isinstance(answer, Answer):
            found = self._dated(found, answer.date, work)
        if isinstance(found, Unknown):
            work.failures[found.why].append(reading.name)
            return found
        return found.rows

    async def _ask_range(self, reading: Reading, work: _Round, span: tuple[float, float, float]) -> Matrix | Unknown:
        names = ("start", "end", "step")
        answer = await self._get(
            "query_range", {name: f"{each:.3f}" for name, each in zip(names, span, strict=True)}, reading, work
        )
        return answer if isinstance(answer, Unknown) else read_matrix(reading, answer.body)

    async def _get(self, path: str, parameters: Mapping[str, str], reading: Reading, work: _Round) -> Answer | Unknown:
        asked = {**parameters, "query": promql(reading, self._scope)}
        if isinstance(work.credentials, Unknown):
            return work.credentials
        try:
            return await self._server.get(path, asked, work.credentials, deadline=work.deadline)
        except NoAnswerError as error:
            return Unknown(str(error))

    def _dated(self, found: Vector, date: float | None, work: _Round) -> Vector | Unknown:
        """`found`, unless it is about another moment than that at which it was sent: then something between keeps old
        answers. Ages are by the server's own clock, so that one that goes wrong does no harm."""
        clock = found.at if date is None else date
        if clock is None:
            return found
        work.skews.append(clock - work.now - (asyncio.get_running_loop().time() - work.began))
        if date is not None and found.at is not None and abs(found.at - date) > SKEW_MAX_SECONDS:
            return Unknown(f"Prometheus' answer is about a moment {date - found.at:.0f} s ago: is it cached?")
        return found


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} readings"
