"""Carries out what was decided about one Expert's number of replicas, and remembers what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from flotilla_api.names import DELETION_COST_ANNOTATION

from .ledger import Attempts, Ledger, Moment
from .ports import NotFoundError, NotLeadingError, OperatorError, OutdatedError, RefusedError, ScaleTargets
from .reconcile.types import Manifest
from .resources.pods import is_live
from .scaling.fleet import PodSignals
from .scaling.report import Record
from .scaling.rivals import wrote
from .scaling.victims import VICTIM_COST, choose_victims, mark
from .telemetry import LOGGER, fields

RETRY_FIRST_SECONDS = 1.0
"""Shorter than a tick, for an Expert that requests wait for."""
RETRY_MAX_SECONDS = 240.0

logger = logging.getLogger(LOGGER)


class Actor:
    """Writes numbers of replicas; nothing where the number is right and owned."""

    def __init__(self, targets: ScaleTargets, moment: Callable[[], Moment]) -> None:
        self._targets = targets
        self._moment = moment

    async def act(self, ledger: Ledger, number: int | None, measured: Sequence[PodSignals]) -> bool:
        """The Deployment asks for `number`, or is left as it is where that is None. True: something was written.

        What the API server refuses is tried again, more and more seldom; the Lease's loss ends it without a word.
        """
        expert, now = ledger.expert, self._moment()
        wanted = expert.replicas if number is None else number
        if expert.deployment is None or (wanted == expert.replicas and (expert.owned or ledger.rival)):
            ledger.failing = None
            return False
        if ledger.failing and now.steady < ledger.failing.retry_at:
            return False
        try:
            await self._write(ledger, wanted, measured)
        except NotLeadingError:
            return False
        except OperatorError as error:
            self._failed(ledger, error, now.steady)
            return False
        ledger.failing = None
        return True

    async def _write(self, ledger: Ledger, wanted: int, measured: Sequence[PodSignals]) -> None:
        expert = ledger.expert
        if wanted < expert.replicas:
            await self._mark_victims(ledger, expert.replicas - wanted, measured)
        await self._targets.scale(expert, wanted)
        ledger.rivalry = wrote(ledger.rivalry, wanted)
        ledger.expert = replace(ledger.expert, replicas=wanted, owned=True)  # it may have been looked at meanwhile
        if wanted != expert.replicas:
            self._record(ledger, expert.replicas, wanted)

    def _record(self, ledger: Ledger, before: int, after: int) -> None:
        decision, bound = ledger.decision, ledger.bound
        if decision is None or bound is None:
            return
        rule, message = bound
        ledger.remember(
            Record(
                at=self._moment().wall,
                before=before,
                after=after,
                rule=rule,
                message=message,
                counterfactual=decision.counterfactual,
                inputs=decision.inputs,
            )
        )
        logger.info("scaled", extra=_about(ledger, before=before, after=after, rule=rule.value, reason=message))

    async def _mark_victims(self, ledger: Ledger, removed: int, measured: Sequence[PodSignals]) -> None:
        """The ReplicaSet will remove the pods that are missed least. Costs are put right only here: at any other time
        they change nothing, so a victim that survived keeps its own until the next pods go."""
        live = {pod["metadata"]["name"]: pod for pod in ledger.expert.pods if is_live(pod)}
        marks = mark(choose_victims(ledger.pods, measured, removed), {name: _cost(pod) for name, pod in live.items()})
        costs = dict.fromkeys(marks.spared) | dict.fromkeys(marks.victims, VICTIM_COST)
        for name, cost in costs.items():
            try:
                await self._targets.annotate(live[name], {DELETION_COST_ANNOTATION: cost})
            except (NotFoundError, OutdatedError):  # gone already
                continue
            except RefusedError as error:  # what may not be marked goes in Kubernetes' own order
                logger.warning("victim not marked", extra=_about(ledger, pod=name, reason=str(error)))

    def _failed(self, ledger: Ledger, error: OperatorError, steady: float) -> None:
        before = ledger.failing
        count = before.count + 1 if before else 1
        wait = min(RETRY_FIRST_SECONDS * 2 ** min(count - 1, 8), RETRY_MAX_SECONDS)
        ledger.failing = Attempts(
            count=count, since=before.since if before else steady, retry_at=steady + wait, message=str(error)
        )
        logger.warning("not scaled", extra=_about(ledger, attempt=count, reason=str(error), retry_in=wait))


def _cost(pod: Manifest) -> str:
    annotations: dict[str, str] = pod["metadata"].get("annotations") or {}
    return annotations.get(DELETION_COST_ANNOTATION, "")


def _about(ledger: Ledger, **values: object) -> dict[str, object]:
    key = ledger.expert.key
    return fields(kind=key.kind, namespace=key.namespace, name=key.name, **values)
