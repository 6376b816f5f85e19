"""What the demo does to an expert's pods while they answer."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from demo.asking import Answer, ask
from demo.questions import Question
from flotilla_api.metrics import ROUTER_IN_FLIGHT
from flotilla_api.names import KIND_LABEL, OWNER_LABEL, ROUTER_ADMIN_PORT
from localcluster.runner.control import kill_container
from localcluster.waiting import wait_until
from stack.flotilla import Stack

RUNNING_SECONDS = 30
MOST_WAVES = 10
ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class Engines:
    """The ready pods of one expert."""

    stack: Stack
    namespace: str
    expert: str

    def pods(self) -> list[dict[str, Any]]:
        """Those that answer and are not being deleted."""
        return self._ready("Expert", self.expert)

    def names(self) -> list[str]:
        """Their names."""
        return [pod["metadata"]["name"] for pod in self.pods()]

    def running(self) -> int:
        """Requests under way, by the metrics of the routers: those of an engine that is busy take seconds to read."""
        return sum(_running(pod) for pod in self._ready("RoutingPolicy"))

    def delete(self, names: Sequence[str]) -> None:
        """These pods are being deleted. They drain: running answers are finished."""
        for name in names:  # kubectl takes as long to start as a small model to answer
            self.stack.cluster.api.delete(f"{self._path()}/{name}").raise_for_status()

    def kill(self, names: Sequence[str]) -> None:
        """The engines of these pods are gone without a word, as after the kernel's OOM killer."""
        for name in names:
            kill_container(self.stack.cluster.directory / "runner", self.namespace, name, ENGINE)

    def _ready(self, owner_kind: str, *owner: str) -> list[dict[str, Any]]:
        owners = [f"{KIND_LABEL}={owner_kind}", *(f"{OWNER_LABEL}={name}" for name in owner)]
        listed = self.stack.cluster.api.get(self._path(), params={"labelSelector": ",".join(owners)}).raise_for_status()
        pods: list[dict[str, Any]] = listed.json()["items"]
        return [pod for pod in pods if _is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _running(router: dict[str, Any]) -> int:
    address = f"http://{router['status']['podIP']}:{ROUTER_ADMIN_PORT}/metrics"
    text = httpx.get(address, timeout=10, trust_env=False).raise_for_status().text
    families = (family for family in text_string_to_metric_families(text) if family.name == ROUTER_IN_FLIGHT)
    return int(sum(sample.value for family in families for sample in family.samples))


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that have been sent and are not over."""

    futures: list[Future[Answer]]
    begun: list[threading.Event]
    """One of each streamed request, set at its first event: it is committed."""

    def all_run(self, engines: Engines, *, committed: bool) -> bool:
        """Whether every request was under way, and every stream had begun if asked for, before the first one ended.

        Raises:
            TimeoutError: neither came.
        """

        def settled() -> bool:
            if self.running() < len(self.futures):
                return True
            begun = not committed or all(event.is_set() for event in self.begun)
            return begun and engines.running() >= len(self.futures)

        what = f"{len(self.futures)} requests to run on {engines.expert}"
        wait_until(settled, what, timeout_seconds=RUNNING_SECONDS)
        return self.running() == len(self.futures)

    def running(self) -> int:
        """How many have not ended."""
        return sum(not future.done() for future in self.futures)

    def answers(self) -> list[Answer]:
        """What became of each, in the order asked; waits for the last."""
        return [future.result() for future in self.futures]


@contextmanager
def requests_in_flight(
    client: OpenAI, questions: Sequence[Question], engines: Engines, *, committed: bool
) -> Generator[InFlight]:
    """All `questions` are being answered by `engines`; after the block each is over.

    committed: every stream has had its first event.

    A small model may end one before the last has begun: then all are asked once more.

    Raises:
        TimeoutError: they never run at once.
    """
    with ThreadPoolExecutor(len(questions)) as pool:
        for _ in range(MOST_WAVES):
            flying = _ask_all(pool, client, questions)
            if flying.all_run(engines, committed=committed):
                yield flying
                return
            flying.answers()
    raise TimeoutError(f"{len(questions)} requests to {engines.expert} never ran at once")


def _ask_all(pool: ThreadPoolExecutor, client: OpenAI, questions: Sequence[Question]) -> InFlight:
    begun = [threading.Event() for _ in questions]
    futures = [pool.submit(ask, client, question, event.set) for question, event in zip(questions, begun, strict=True)]
    return InFlight(futures, [event for question, event in zip(questions, begun, strict=True) if question.stream])
