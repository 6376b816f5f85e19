"""The snapshot in use and what is known of the replicas behind it: load, health and requests to wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from flotilla_api.causes import Cause
from flotilla_api.snapshot import RoutingSnapshot, Target

from .addresses import split_address, split_url
from .routing_table import RoutingTable, compile_table

FAILURES_TO_EJECT = 3
"""Consecutive failures after which a replica is left out; a refused connection does it at once."""
FIRST_EJECTION_SECONDS = 1.0
LONGEST_EJECTION_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 60.0


class SnapshotError(ValueError):
    """A snapshot cannot be used; the message says why."""

    def __init__(self, message: str, digest: str = "") -> None:
        super().__init__(message)
        self.digest = digest


def ejection_seconds(failures: int, *, refused: bool) -> float:
    """How long a replica is left out after its n-th failure in a row.

    | failures | refused a connection | failed otherwise |
    |----------|----------------------|------------------|
    | 1        | 1 s                  | not              |
    | 2        | 2 s                  | not              |
    | 3        | 4 s                  | 1 s              |
    | 4        | 8 s                  | 2 s              |
    | many     | 30 s                 | 30 s             |
    """
    step = failures - 1 if refused else failures - FAILURES_TO_EJECT
    if step < 0:
        return 0.0
    return min(FIRST_EJECTION_SECONDS * 2.0 ** min(step, 10), LONGEST_EJECTION_SECONDS)


def hold_seconds(retry_after: float | None) -> float:
    """How long a replica that is overloaded gets no requests: as long as it asks for, within bounds."""
    return min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS)


class Replica:
    """One endpoint of a target, or the API of an external one."""

    __slots__ = ("address", "failures", "in_flight", "open_at", "pod")

    def __init__(self, address: str, pod: str) -> None:
        self.address = address
        self.pod = pod
        self.in_flight = 0
        self.failures = 0
        """In a row."""
        self.open_at = 0.0
        """Monotonic seconds from which it gets requests again."""

    def succeeded(self) -> None:
        """It has answered."""
        self.failures = 0

    def failed(self, now: float, *, refused: bool = False) -> None:
        """It has not answered, or not well."""
        self.failures += 1
        self.open_at = max(self.open_at, now + ejection_seconds(self.failures, refused=refused))

    def began_to_answer(self, status: int, now: float, retry_after: float | None) -> None:
        """It has sent a status; a good one says nothing yet of what follows."""
        if status in (429, 503):
            self.overloaded(now, retry_after)
        elif status >= 500:
            self.failed(now)

    def erred(self, cause: Cause, now: float, retry_after: float | None) -> None:
        """It has sent an error for that cause; a prompt that is too long is none of its own."""
        if cause is Cause.OVERLOADED:
            self.overloaded(now, retry_after)
        elif cause is Cause.CONTEXT_OVERFLOW:
            self.succeeded()
        else:
            self.failed(now)

    def overloaded(self, now: float, retry_after: float | None) -> None:
        """It has asked for a pause. That is an answer: it is not ill."""
        self.failures = 0
        self.open_at = max(self.open_at, now + hold_seconds(retry_after))


def pick(candidates: Sequence[Replica], draw: float) -> Replica:
    """The less loaded of two different replicas drawn at random. draw: uniform in [0, 1).

    Source: Mitzenmacher, The power of two choices in randomized load balancing (2001).
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    pair = int(draw * count * (count - 1))
    first, second = divmod(pair, count - 1)
    one, other = candidates[first], candidates[second + (second >= first)]
    return one if one.in_flight <= other.in_flight else other


class TargetState:
    """A target of the snapshot and its replicas."""

    __slots__ = ("replicas", "service", "target")

    def __init__(self, target: Target, replicas: tuple[Replica, ...], service: Replica | None) -> None:
        self.target = target
        self.replicas = replicas
        self.service = service
        """Tried when every replica refuses to connect."""

    def everyone(self) -> tuple[Replica, ...]:
        """The replicas and the Service."""
        return self.replicas if self.service is None else (*self.replicas, self.service)

    def candidates(self, now: float, tried: Sequence[Replica] = (), *, healthy: bool = True) -> list[Replica]:
        """Replicas that have not been tried; `healthy`: without those that are left out for now."""
        return [
            replica for replica in self.replicas if (replica.open_at <= now or not healthy) and replica not in tried
        ]


@dataclass(frozen=True, slots=True)
class Live:
    """A snapshot in use. Requests keep the one that they began with."""

    snapshot: RoutingSnapshot
    digest: str
    table: RoutingTable
    states: dict[tuple[str, str], TargetState]
    """By kind and name."""
    header_names: tuple[tuple[str, bytes], ...]
    """Request headers that rules look at, in lower case, as text and as bytes."""

    def state(self, target: Target) -> TargetState:
        """The replicas of a target of this snapshot."""
        return self.states[target.kind, target.name]


class Registry:
    """Holds the current snapshot; replicas that stay keep their state over a reload."""

    def __init__(self, namespace: str, policy: str) -> None:
        self._namespace = namespace
        self._policy = policy
        self._replicas: dict[tuple[str, str, str], Replica] = {}
        self.live: Live | None = None

    def load(self, data: bytes) -> Live:
        """Validate a snapshot as a whole and use it from now on.

        Raises:
            SnapshotError: it cannot be used; the one in use stays.
        """
        digest = RoutingSnapshot.digest_of(data)
        try:
            snapshot = RoutingSnapshot.model_validate_json(data)
            check(snapshot, self._namespace, self._policy)
            table = compile_table(snapshot)
        except ValidationError as error:
            raise SnapshotError(_first_of(error), digest) from error
        except ValueError as error:
            raise SnapshotError(str(error), digest) from error
        replicas: dict[tuple[str, str, str], Replica] = {}
        states: dict[tuple[str, str], TargetState] = {
            (target.kind, target.name): self._state(target, replicas) for target in snapshot.targets
        }
        self._replicas = replicas
        headers = {header.name for rule in snapshot.rules for header in rule.when.headers}
        self.live = Live(snapshot, digest, table, states, tuple((name, name.encode()) for name in sorted(headers)))
        return self.live

    def _state(self, target: Target, replicas: dict[tuple[str, str, str], Replica]) -> TargetState:
        def known(address: str, pod: str) -> Replica:
            key = (target.name, address, pod)
            replica = replicas[key] = self._replicas.get(key) or Replica(address, pod)
            return replica

        if target.external is not None:
            return TargetState(target, (known(target.external.url, "external"),), None)
        service = known(target.service, "service") if target.service else None
        return TargetState(target, tuple(known(each.address, each.pod) for each in target.endpoints), service)


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def check(snapshot: RoutingSnapshot, namespace: str, policy: str) -> None:
    """The snapshot is ours and every target can be reached. Names without a target do not exist yet; that is no error.

    Raises:
        SnapshotError: it is not so.
    """
    if (snapshot.namespace, snapshot.policy) != (namespace, policy):
        raise SnapshotError(f"it is for {snapshot.namespace}/{snapshot.policy}, not {namespace}/{policy}")
    if snapshot.gateway is not None:
        try:
            split_url(snapshot.gateway)
        except ValueError as error:
            raise SnapshotError(f"gateway: {error}") from error
    held = [(target.kind, target.name) for target in snapshot.targets]
    if len(set(held)) != len(held):
        raise SnapshotError("targets: two have the same kind and name")
    for target in snapshot.targets:
        try:
            _check_addresses(target)
        except ValueError as error:
            raise SnapshotError(f"targets: {target.kind} {target.name} cannot be reached: {error}") from error


def _check_addresses(target: Target) -> None:
    for endpoint in target.endpoints:
        split_address(endpoint.address)
    if target.service:
        split_address(target.service)
    if target.external is not None:
        split_url(target.external.url)
