"""A policy's routers, its gateway above all, as their clients, Prometheus and whoever reads their logs see them."""

from __future__ import annotations

import json
import ssl
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from e2e.objects import CLIENT_KEY
from flotilla_api.names import KIND_LABEL, OWNER_LABEL, ROUTER_ADMIN_PORT, ROUTER_CONTAINER
from localcluster.waiting import wait_until
from stack.flotilla import Stack

REQUEST_SECONDS = 40.0
LOG_SECONDS = 10.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Router(ABC):
    """What all routers of a policy have in common; `key` is shown to it, '' for none."""

    stack: Stack
    namespace: str
    policy: str
    key: str

    @property
    @abstractmethod
    def url(self) -> str:
        """Its base URL, ending in /v1."""

    @property
    @abstractmethod
    def container(self) -> str:
        """Name of its containers."""

    @property
    @abstractmethod
    def admin_port(self) -> int:
        """Of its metrics, on its pods' addresses."""

    @abstractmethod
    def live_pods(self) -> list[Json]:
        """Its pods, those that end too."""

    @contextmanager
    def client(self, *, keep_alive: bool = True, verify: ssl.SSLContext | bool = True) -> Generator[httpx.Client]:
        """An HTTP client with the key; with `keep_alive=False` every request has a connection of its own."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        with httpx.Client(
            base_url=self.url,
            headers=headers,
            limits=limits,
            verify=verify,
            trust_env=False,
            timeout=REQUEST_SECONDS,
        ) as client:
            yield client

    def post(self, body: Mapping[str, Any], *, path: str = "/chat/completions", **headers: str) -> httpx.Response:
        """The answer to one request; `x_task="math"` is the header x-task."""
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.client() as client:
            return client.post(path, json=body, headers=lines)

    def ask(self, text: str, *, model: str = "auto", max_tokens: int = 24, **headers: str) -> httpx.Response:
        """The answer to a question, as JSON."""
        return self.post(a_question(text, model=model, max_tokens=max_tokens), **headers)

    def stream(self, text: str, *, model: str = "auto", max_tokens: int = 24, **headers: str) -> Streamed:
        """The answer to a question as a stream, read to its end."""
        body = a_question(text, model=model, max_tokens=max_tokens) | {"stream": True}
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.client() as client, client.stream("POST", "/chat/completions", json=body, headers=lines) as response:
            return read_stream(response)

    # What others see

    def pods(self) -> list[str]:
        """Names of its pods, those that end too."""
        return [pod["metadata"]["name"] for pod in self.live_pods()]

    def log_lines(self) -> list[Json]:
        """What all routers of the policy logged."""
        texts = (self.stack.cluster.logs(self.namespace, name, self.container) for name in self.pods())
        return [json.loads(line) for text in texts for line in text.splitlines() if line.startswith("{")]

    def raw_log(self) -> str:
        """The same as text."""
        return "".join(self.stack.cluster.logs(self.namespace, name, self.container) for name in self.pods())

    def line_of(self, request_id: str) -> Json:
        """The canonical log line of a request; it is written a moment after the answer."""
        found: list[Json] = []

        def is_there() -> bool:
            found[:] = [line for line in self.log_lines() if line.get("request_id") == request_id]
            return bool(found)

        wait_until(is_there, f"the log line of request {request_id}", timeout_seconds=LOG_SECONDS)
        assert len(found) == 1, found
        return found[0]

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all routers of a metric's samples with these labels; 0 without any."""
        return sum(sample_sum(text, name, labels) for text in self._expositions())

    def _expositions(self) -> list[str]:
        with httpx.Client(trust_env=False, timeout=10) as client:
            urls = [f"http://{pod['status']['podIP']}:{self.admin_port}/metrics" for pod in self.live_pods()]
            return [client.get(url).raise_for_status().text for url in urls]


class Gateway(Router):
    """A gateway and the key that is shown to it."""

    __slots__ = ()

    @classmethod
    def of(cls, stack: Stack, namespace: str, policy: str, key: str | None) -> Self:
        """A client of the tests, or whoever holds `key`; '' shows none."""
        return cls(stack, namespace, policy, CLIENT_KEY if key is None else key)

    def with_key(self, key: str) -> Gateway:
        """The same for another client."""
        return replace(self, key=key)

    @property
    def url(self) -> str:
        """Its Service's."""
        return self.stack.gateway_address(self.namespace, self.policy)

    @property
    def container(self) -> str:
        """Name of its containers."""
        return ROUTER_CONTAINER

    @property
    def admin_port(self) -> int:
        """Of its metrics."""
        return ROUTER_ADMIN_PORT

    def live_pods(self) -> list[Json]:
        """Its pods, those that end too."""
        selector = f"{KIND_LABEL}=RoutingPolicy,{OWNER_LABEL}={self.policy}"
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return self.stack.cluster.api.get(path, params={"labelSelector": selector}).raise_for_status().json()["items"]


@dataclass(frozen=True, slots=True)
class Streamed:
    """A stream that was read to its end."""

    headers: httpx.Headers
    status: int
    events: list[Json]
    done: bool
    """It ended with [DONE]."""

    @property
    def text(self) -> str:
        """The answer."""
        choices = [choice for event in self.events for choice in event.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def error(self) -> Json | None:
        """The in-band error."""
        return next((event["error"] for event in self.events if "error" in event), None)

    @property
    def silent(self) -> bool:
        """It ended with neither [DONE] nor an error: nobody can tell that something is missing."""
        return not self.done and self.error is None


def read_stream(response: httpx.Response) -> Streamed:
    """All events of a response that is being streamed; one with an error status has its body as the only event."""
    if response.status_code != 200:
        return Streamed(response.headers, response.status_code, [json.loads(response.read())], done=False)
    data = [line.removeprefix("data:").strip() for line in response.iter_lines() if line.startswith("data:")]
    events = [json.loads(each) for each in data if each != "[DONE]"]
    return Streamed(response.headers, response.status_code, events, done="[DONE]" in data)


def a_question(text: str, *, model: str = "auto", max_tokens: int = 24, **more: Any) -> Json:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, **more}


def text_of(response: httpx.Response) -> str:
    """The answer of a chat response."""
    return response.json()["choices"][0]["message"]["content"]


def sample_sum(exposition: str, name: str, labels: Mapping[str, str]) -> float:
    """Sum of a metric's samples that have these labels, among others."""
    samples = (sample for family in text_string_to_metric_families(exposition) for sample in family.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())
