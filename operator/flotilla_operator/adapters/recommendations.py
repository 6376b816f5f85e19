"""How many replicas are right for an Expert, for autoscalers of others: what KEDA's `metrics-api` scaler reads.

`GET /v1/recommendations/{namespace}/{expert}` answers 200 with `{"replicas": 3, "current": 2, "rule": "Economics",
"message": ..., "at": ...}`: with targetValue 1 an HPA comes to just `replicas`. Whatever else it answers leaves an
autoscaler where it is, so nothing shrinks on what is not known: 503 where nothing was decided lately, 404 for an Expert
that does not exist. Who may ask is RBAC's say: `get` of `experts/recommendation`, by a ServiceAccount's token of
audience CONTROL_AUDIENCE. A replica that does not hold the Lease passes the request on: only the leader decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from aiohttp import web

from flotilla_operator.ports import Clock
from flotilla_operator.reconcile.types import Key
from flotilla_operator.scaling.report import Recommendation

from .access import Access
from .answers import denial, problem, unavailable
from .tokens import Denied

RECOMMENDATION_PATH = "/v1/recommendations/{namespace}/{expert}"
STALE_SECONDS = 120.0
"""A recommendation that is older says nothing of now: eight ticks were missed."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """Answers who may ask."""

    access: Access
    clock: Clock
    find: Callable[[Key], Recommendation | None]
    """What was decided of an Expert; None: nothing."""
    exists: Callable[[Key], bool]

    async def answer(self, authorization: str, expert: Key) -> web.Response:
        """The number for `expert`, or why there is none.

        Raises:
            OperatorError: the API server cannot say who asks.
        """
        caller = await self.access.admit_autoscaler(authorization, expert.namespace, expert.name)
        if isinstance(caller, Denied):
            return denial(caller)
        if not self.exists(expert):
            return problem(404, "NotFound", f"{expert} does not exist")
        found = self.find(expert)
        if found is None:
            return unavailable(f"nothing was decided about {expert}; it needs spec.scaling with a mode other than Off")
        if found.age_seconds > STALE_SECONDS:
            return unavailable(f"{expert} was last decided about {found.age_seconds:.0f} s ago")
        at = self.clock.now() - timedelta(seconds=found.age_seconds)
        return web.json_response(
            {
                "replicas": found.replicas,
                "current": found.current,
                "rule": found.rule.value,
                "message": found.message,
                "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
