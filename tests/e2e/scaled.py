"""Experts whose number follows their load, and what the operator says and does about that number."""

from __future__ import annotations

import json
from itertools import groupby

from e2e.gateway import sample_sum
from e2e.objects import Manifest, an_expert
from e2e.steps import OPERATOR, Space, operator_expositions, operators_of, system_of
from flotilla_api import metrics
from localcluster.runner.control import kill_container
from stack.flotilla import Stack

SLOW = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "24", "SIM_LOAD_SECONDS": "1"}
"""One answer of 24 tokens takes a second, and starting takes one more."""
SLOTS = 2


def a_scaled_expert(name: str, *, spec: Manifest | None = None, **scaling: object) -> Manifest:
    """An expert with few slots whose number follows its load, up to four unless `max` says otherwise."""
    given: Manifest = {"engine": {"maxNumSeqs": SLOTS}, **(spec or {})}
    return an_expert(name, env=SLOW, scaling={"max": 4, **scaling}, **given)


def wanted(space: Space, expert: str) -> int:
    """What its Deployment asks for."""
    return deployment(space, expert)["spec"]["replicas"]


def deployment(space: Space, expert: str) -> Manifest:
    """As it is now."""
    return space.get("Deployment", f"{expert}-expert")


def numbers(space: Space, first: Manifest) -> list[int]:
    """Every number that a Deployment has had since it was `first`, without repetitions: what a watch replays."""
    metadata = first["metadata"]
    parameters = {"watch": "true", "resourceVersion": metadata["resourceVersion"], "timeoutSeconds": "1"}
    lines = space.stack.cluster.api.get(space.path("Deployment"), params=parameters).text.splitlines()
    later = [json.loads(line)["object"] for line in lines]
    looks = [first, *(each for each in later if each["metadata"]["name"] == metadata["name"])]
    return [number for number, _ in groupby(look["spec"]["replicas"] for look in looks)]


def dips(history: list[int]) -> bool:
    """Whether the number was ever less than before."""
    return history != sorted(history)


def bound_by(space: Space, expert: str, rule: str) -> bool:
    """Whether that rule bound the last decision: statuses tell of another rule for the same number only after a
    while, metrics at once."""
    labels = {"namespace": space.name, "expert": expert, "rule": rule}
    return _sum(space.stack, metrics.SCALER_BOUND_RULE, labels) > 0


def shadow_price(space: Space, expert: str) -> float:
    """Dollars an hour that one accelerator more would save; 0: there are enough, or it is not known."""
    return _sum(space.stack, metrics.SCALER_SHADOW_PRICE, {"namespace": space.name, "expert": expert})


def wait_ticks(space: Space, count: int) -> None:
    """The scaler has looked at everything that often from now on; one operator leads all the while."""
    before = _ticks(space.stack)
    space.wait_for(lambda: _ticks(space.stack) >= before + count, f"{count} more ticks", 25.0 * count + 20)


def leader(stack: Stack) -> str:
    """The process that holds the Lease: its pod's name and a mark of its own."""
    return system_of(stack).get("Lease", OPERATOR)["spec"].get("holderIdentity") or ""


def kill_leader(stack: Stack) -> str:
    """The leading process is gone without a word; who it was."""
    name = leader(stack)
    (pod,) = (pod for pod in operators_of(stack) if name.startswith(pod["metadata"]["name"]))
    metadata = pod["metadata"]
    kill_container(stack.cluster.directory / "runner", metadata["namespace"], metadata["name"], "operator")
    return name


def replica_owners(space: Space, expert: str) -> set[str]:
    """Managers that own the number of its Deployment."""
    fields = deployment(space, expert)["metadata"]["managedFields"]
    return {each["manager"] for each in fields if "f:replicas" in each.get("fieldsV1", {}).get("f:spec", {})}


def _ticks(stack: Stack) -> float:
    return _sum(stack, f"{metrics.SCALER_TICK_SECONDS}_count", {})


def _sum(stack: Stack, name: str, labels: dict[str, str]) -> float:
    return sum(sample_sum(text, name, labels) for text in operator_expositions(stack))
