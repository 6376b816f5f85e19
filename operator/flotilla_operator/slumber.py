"""Engines that sleep while nobody asks for them: a level between serving and zero.

| due   | the pod                               | then                                                    |
|-------|---------------------------------------|---------------------------------------------------------|
| Sleep | serves                                | it is marked, so that it leaves every router's snapshot |
| Sleep | is marked, and has done nothing since | its engine is put to sleep                              |
| Sleep | sleeps                                | nothing                                                 |
| Serve | is marked or sleeps                   | its engine is woken, then the mark goes                 |
| Stay  |                                       | nothing                                                 |

The mark goes on first and off last: an engine that sleeps says that it is healthy, and requests to it hang.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Literal

from flotilla_api.names import ASLEEP_ANNOTATION

from .ledger import Ledger
from .ports import Engines, NotLeadingError, OperatorError, ScaleTargets
from .reconcile.types import Manifest
from .resources.pods import is_asleep, is_ready, pod_address
from .scaling.fleet import ExpertSignals, PodSignals
from .scaling.signals import STALE_SECONDS, Known, Signal, fresh
from .scaling.types import Target
from .telemetry import LOGGER, fields

Rest = Literal["Sleep", "Serve", "Stay"]

MARK = "true"
SETTLE_SECONDS = 5.0
"""From the mark on, in which every router gets its new snapshot and what was on its way has begun."""

logger = logging.getLogger(LOGGER)


def rest_due(ledger: Ledger, after_seconds: float | None, steady: float) -> Rest:
    """What an Expert's pods are to do; `after_seconds` None: they may not sleep.

    | may sleep, and nobody asks for replicas | demand                           | then  |
    |-----------------------------------------|----------------------------------|-------|
    | no                                      |                                  | Serve |
    | yes                                     | known, and not zero              | Serve |
    | yes                                     | a confirmed zero for long enough | Sleep |
    | yes                                     | unknown, or zero for less        | Stay  |

    A request wakes them, whatever is measured, so what is unknown wakes nobody: neither does a restart of the operator.
    """
    target, since = ledger.target, ledger.state.zero_since
    if after_seconds is None or target is None or ledger.rival or _is_asked_for(ledger, target, after_seconds, steady):
        return "Serve"
    if since is None:
        return "Serve" if _has_demand(ledger) else "Stay"
    return "Sleep" if steady - since >= after_seconds else "Stay"


def _has_demand(ledger: Ledger) -> bool:
    """Whether requests are known to come."""
    demand = ledger.state.demand
    return not ledger.unknown and bool(demand) and demand[-1][1] > 0


def _is_asked_for(ledger: Ledger, target: Target, after_seconds: float, steady: float) -> bool:
    """By a request a while ago, or by the spec."""
    woken = ledger.woken_at is not None and steady - ledger.woken_at < after_seconds
    return woken or target.minimum > 0 or target.scheduled_minimum > 0 or bool(target.override)


class Slumber:
    """Puts pods to sleep and wakes them."""

    def __init__(self, targets: ScaleTargets, engines: Engines) -> None:
        self._targets = targets
        self._engines = engines
        self._marked: dict[str, float] = {}
        """Steady: when a mark was first seen in the store, by the pod's uid."""

    async def lay(self, ledger: Ledger, measured: ExpertSignals, steady: float, read_at: float) -> None:
        """The Expert's pods go to sleep, each once no router sends anything to it; `measured` was read at `read_at`."""
        ready = [pod for pod in ledger.expert.pods if is_ready(pod)]
        signals = {each.name: each for each in measured.pods}
        sleeps = (
            self._sleep(ledger, pod, signals.get(pod["metadata"]["name"]), steady)
            for pod in ready
            if is_asleep(pod) and self._does_nothing(pod, signals.get(pod["metadata"]["name"]), steady, read_at)
        )
        marks = (self._mark(ledger, pod) for pod in ready if not is_asleep(pod))
        await asyncio.gather(*marks, *sleeps)

    async def rouse(self, ledger: Ledger) -> None:
        """The Expert's pods answer again."""
        asleep = [pod for pod in ledger.expert.pods if is_ready(pod) and is_asleep(pod)]
        await asyncio.gather(*(self._wake(ledger, pod) for pod in asleep))

    def forget(self, uids: set[str]) -> None:
        """Only pods with `uids` still exist."""
        self._marked = {uid: since for uid, since in self._marked.items() if uid in uids}

    def _does_nothing(self, pod: Manifest, said: PodSignals | None, steady: float, read_at: float) -> bool:
        """Whether it is known to have done nothing since routers left it: sleep would end what it does."""
        since = self._marked.setdefault(pod["metadata"]["uid"], steady) + SETTLE_SECONDS
        if said is None:
            return False
        return all(_is_zero(signal, since=since, read_at=read_at) for signal in (said.running, said.waiting))

    async def _mark(self, ledger: Ledger, pod: Manifest) -> None:
        try:
            await self._targets.annotate(pod, {ASLEEP_ANNOTATION: MARK})
        except OperatorError as error:
            _missed(ledger, pod, error)

    async def _sleep(self, ledger: Ledger, pod: Manifest, said: PodSignals | None, steady: float) -> None:
        uid = pod["metadata"]["uid"]
        if _sleeps(ledger, uid, said, steady):
            return
        try:
            await self._engines.sleep(pod_address(pod))
        except OperatorError as error:
            _missed(ledger, pod, error)
        else:
            ledger.slept[uid] = steady
            logger.info("engine asleep", extra=_about(ledger, pod))

    async def _wake(self, ledger: Ledger, pod: Manifest) -> None:
        try:
            await self._engines.wake_up(pod_address(pod))
            ledger.slept.pop(pod["metadata"]["uid"], None)
            await self._targets.annotate(pod, {ASLEEP_ANNOTATION: None})
        except OperatorError as error:
            _missed(ledger, pod, error)
        else:
            self._marked.pop(pod["metadata"]["uid"], None)
            logger.info("engine awake", extra=_about(ledger, pod))


def _sleeps(ledger: Ledger, uid: str, said: PodSignals | None, steady: float) -> bool:
    """As the engine says itself, else as was done: one that was restarted is awake. What it says may be moments old."""
    if steady - ledger.slept.get(uid, -math.inf) < STALE_SECONDS:
        return True
    if said is not None and said.sleep is not None:
        return said.sleep != "Awake"
    return uid in ledger.slept


def _is_zero(signal: Signal, *, since: float, read_at: float) -> bool:
    found = fresh(signal)
    return isinstance(found, Known) and found.value == 0 and read_at - found.age_seconds >= since


def _missed(ledger: Ledger, pod: Manifest, error: OperatorError) -> None:
    """It is tried again at the next tick."""
    if not isinstance(error, NotLeadingError):
        logger.warning("engine neither put to sleep nor woken", extra=_about(ledger, pod, reason=str(error)))


def _about(ledger: Ledger, pod: Manifest, **values: object) -> dict[str, object]:
    key = ledger.expert.key
    return fields(kind=key.kind, namespace=key.namespace, name=key.name, pod=pod["metadata"]["name"], **values)
