"""Whether those who count were asked: without it a metric that is not there says nothing. PURE.

| who counts         | known                                                                             | else    |
|--------------------|-----------------------------------------------------------------------------------|---------|
| routers of a policy| a fresh sample of every gateway and nine of ten sidecars, two in a rate's window   | unknown |
|                    | none that answers and none that was scraped: nobody has counted anything           |         |
| engines            | a fresh sample of each, and it says that it serves the Expert                      | unknown |

Pods that have answered for less than `GRACE_SCRAPES` scrapes are not missed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from .fleet import Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert
from .readings import ENGINES, ROUTERS, SCRAPES, Answer, Reading, Rows, Scope
from .signals import STALE_SECONDS, Unknown

GRACE_SCRAPES = 4
"""Until a new pod is found, and scraped twice."""
SIDECARS_PER_MISSED = 10
"""One in so many may be missed: an agent's broken pod must not stop the scaling of what all others use."""
SCRAPES_MIN = 2.0
"""Of a router in a rate's window, before its silence says anything."""
NAMED_MAX = 3
"""Of what is wrong alike, this many are named."""
NOT_READ = Unknown("it was not read")

Answers = Mapping[Reading, Answer]
Age = float | Unknown
"""Seconds since the oldest of the newest samples of all who count; Unknown: not all of them were asked."""


class Evidence:
    """Who was asked, and how long ago, by the answers of one tick."""

    def __init__(self, fleet: Fleet, answers: Answers, now: float, scope: Scope) -> None:
        self._fleet = fleet
        self._answers = answers
        self._now = now
        self._scope = scope
        self._router_ages: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        """By namespace and policy, and by pod."""
        self._engines: dict[tuple[str, str], tuple[float, str]] = {}
        """Age and model by namespace and pod."""
        for (namespace, policy, pod), age in self.rows(ROUTERS).items():
            self._router_ages[namespace, policy][pod] = age
        for (namespace, pod, model), age in self.rows(ENGINES).items():
            self._engines[namespace, pod] = (age, model)
        self._policies: dict[NamespacedName, Age] = {}

    def rows(self, reading: Reading) -> Rows:
        """What `reading` found; nothing where it failed."""
        answer = self._answers.get(reading, NOT_READ)
        return {} if isinstance(answer, Unknown) else answer

    def of_routers(self, key: NamespacedName, served: ServedExpert) -> Age:
        """Of what all routers count of an Expert."""
        if not served.policies:
            return Unknown("no RoutingPolicy names it")
        oldest = 0.0
        for name in sorted(served.policies):
            found = self._of_policy(NamespacedName(key.namespace, name))
            if isinstance(found, Unknown):
                return found
            oldest = max(oldest, found)
        return oldest

    def of_engines(self, key: NamespacedName, served: ServedExpert) -> Age:
        """Of what all engines of an Expert count; nothing that does not run is asked."""
        failed = self._answers.get(ENGINES, NOT_READ)
        if isinstance(failed, Unknown) and served.engines:
            return failed
        ages: list[float] = []
        for pod in served.engines:
            age = self._of_engine(key, pod)
            if isinstance(age, Unknown):
                return age
            ages += [] if age is None else [age]
        if served.engines and not ages:
            return Unknown(f"engine {served.engines[0].name} is not scraped yet")
        return max(ages, default=0.0)

    def is_settled(self, pod: MeasuredPod) -> bool:
        """Whether a pod has answered for so long that it is missed where it is not scraped; also one from the future,
        since a clock that was set says nothing of how long."""
        return abs(self._now - pod.ready_at) > GRACE_SCRAPES * self._scope.scrape_seconds

    def problems(self) -> list[str]:
        """What is wrong with what is scraped."""
        unnamed = sum("" in labels for each in (ROUTERS, ENGINES) for labels in self.rows(each))
        strangers = [
            f"{key.namespace}/{pod.name} says {model}"
            for key, served in self._fleet.experts.items()
            for pod in served.engines
            if (model := self._model_of(key, pod)) != key.name
        ]
        return [
            *([f"{unnamed} scraped pods have no label namespace, pod, policy or model_name"] if unnamed else []),
            *([f"engines serve another model than their Expert's: {named(strangers)}"] if strangers else []),
        ]

    def _of_policy(self, policy: NamespacedName) -> Age:
        if policy not in self._policies:
            self._policies[policy] = self._look_at(policy)
        return self._policies[policy]

    def _look_at(self, policy: NamespacedName) -> Age:
        for reading in (ROUTERS, SCRAPES):
            if isinstance(failed := self._answers.get(reading, NOT_READ), Unknown):
                return failed
        ages = self._router_ages.get((policy.namespace, policy.name), {})
        fresh = {pod: age for pod, age in ages.items() if age <= STALE_SECONDS}
        routers = self._fleet.routers.get(policy, Routers())
        if not fresh and not (routers.gateways or routers.sidecars):
            return 0.0
        if not fresh:
            return Unknown(f"no router of RoutingPolicy {policy.name} is scraped{_newest(ages.values())}")
        counting = {pod for pod in fresh if self._scrapes(policy, pod) >= SCRAPES_MIN}
        if not counting:
            return Unknown(
                f"no router of RoutingPolicy {policy.name} was scraped twice in {self._scope.window_seconds:.0f} s"
            )
        return self._missed(policy, counting) or max(fresh.values())

    def _scrapes(self, policy: NamespacedName, pod: str) -> float:
        return self.rows(SCRAPES).get((policy.namespace, policy.name, pod), 0.0)

    def _missed(self, policy: NamespacedName, counting: set[str]) -> Unknown | None:
        """Why `counting` is not enough; None: it is."""
        routers = self._fleet.routers.get(policy, Routers())
        gateways = [pod.name for pod in routers.gateways if self._is_missed(pod, counting)]
        if gateways:
            return Unknown(f"router {named(gateways)} of RoutingPolicy {policy.name} is not scraped")
        sidecars = [pod.name for pod in routers.sidecars if self._is_missed(pod, counting)]
        if len(sidecars) * SIDECARS_PER_MISSED <= len(routers.sidecars):
            return None
        count = f"{len(sidecars)} of {len(routers.sidecars)} sidecars of RoutingPolicy {policy.name}"
        return Unknown(f"{count} are not scraped: {named(sidecars)}")

    def _is_missed(self, pod: MeasuredPod, counting: set[str]) -> bool:
        return self.is_settled(pod) and pod.name not in counting

    def _of_engine(self, key: NamespacedName, pod: MeasuredPod) -> float | Unknown | None:
        """None: it is too young to be missed."""
        age, _ = self._engines.get((key.namespace, pod.name), (math.inf, ""))
        if (model := self._model_of(key, pod)) != key.name:
            return Unknown(f"engine {pod.name} says that it serves {model}")
        if age <= STALE_SECONDS:
            return age
        return Unknown(f"engine {pod.name} is not scraped{_newest([age])}") if self.is_settled(pod) else None

    def _model_of(self, key: NamespacedName, pod: MeasuredPod) -> str:
        return self._engines.get((key.namespace, pod.name), (0.0, key.name))[1]


def named(found: list[str]) -> str:
    """The first few, and how many more there are."""
    more = len(found) - NAMED_MAX
    return ", ".join(found[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _newest(ages: Iterable[float]) -> str:
    youngest = min((age for age in ages if math.isfinite(age)), default=None)
    return "" if youngest is None else f": the newest sample is {youngest:.0f} s old"
