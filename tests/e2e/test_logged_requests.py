"""Traffic -> request log -> export, on a cluster: with the command that an engineer runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway
from e2e.objects import CLIENT_KEY, a_policy, a_secret, an_external_fallback
from e2e.steps import Space
from flotilla_api.names import ROUTER_ADMIN_PORT, ROUTER_CONTAINER
from flotilla_api.request_log import KEY_HEADER, REQUEST_LOG_PATH
from localcluster.runner.control import kill_container
from stack.flotilla import Stack

READER_KEY = "sk-of-the-ml-engineer"
AUTH = {"apiKeysSecretRef": {"name": "logged-keys"}}


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """A policy in front of the provider that keeps a log, and one reader of it."""
    with new_space(stack) as space:
        log = {"prompts": "Text", "maxBytes": "1Mi", "readers": ["ml"]}
        space.apply(
            an_external_fallback("big"),
            a_secret("logged-keys", tests=CLIENT_KEY, ml=READER_KEY),
            a_policy("logged", fallbacks=["big"], auth=AUTH, requestLog=log),
        )
        space.wait_ready("RoutingPolicy", "logged")
        yield space


def export(space: Space, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`flotilla logs export`, as its user runs it."""
    command = [sys.executable, "-m", "flotilla_cli", "logs", "export", "policy/logged", "-n", space.name]
    given = ["-o", str(out), "--kubeconfig", str(space.stack.cluster.kubeconfig), *arguments]
    return subprocess.run([*command, *given], capture_output=True, text=True, timeout=60, check=False)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def exported(space: Space, out: Path, request_ids: set[str]) -> list[dict[str, Any]]:
    """All rows, once these requests are among them; rows are written a moment after the answer."""

    def is_there() -> bool:
        done = export(space, out, "--direct")
        assert done.returncode == 0, done.stderr
        return request_ids <= {row["requestId"] for row in rows(out)}

    space.wait_for(is_there, f"the rows of {request_ids}")
    return rows(out)


def asked(gateway: Gateway, text: str) -> str:
    """A question that is answered; its request's id."""
    answer = gateway.ask(text)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-flotilla-request-id"]


def pages(gateway: Gateway, headers: dict[str, str]) -> list[int]:
    """The statuses with which all gateways answer who asks for the log so."""
    urls = [f"http://{pod['status']['podIP']}:{ROUTER_ADMIN_PORT}{REQUEST_LOG_PATH}" for pod in gateway.live_pods()]
    with httpx.Client(trust_env=False, timeout=10) as client:
        return [client.get(url, headers=headers).status_code for url in urls]


def test_traffic_is_exported_once(fleet: Space, tmp_path: Path) -> None:
    """What was asked and answered is in the file; the next export brings what came since."""
    gateway, out = fleet.gateway("logged"), tmp_path / "log.jsonl"
    first = asked(gateway, "How much is the dragon?")
    (row,) = [row for row in exported(fleet, out, {first}) if row["requestId"] == first]
    second = asked(gateway, "And the unicorn?")
    ids = [row["requestId"] for row in exported(fleet, out, {second})]

    assert (row["prompt"], row["choice"], row["model"], row["status"]) == ("How much is the dragon?", "big", "big", 200)
    assert row["answer"]
    assert row["usd"] > 0
    assert row["attempts"][0]["output_tokens"] > 0
    assert (ids.count(first), ids.count(second)) == (1, 1)


def test_log_outlives_its_container(fleet: Space, tmp_path: Path) -> None:
    """It is on a volume of the pod."""
    gateway = fleet.gateway("logged")
    (pod,) = gateway.pods()
    before = asked(gateway, "Before the crash?")
    exported(fleet, tmp_path / "first.jsonl", {before})
    kill_container(fleet.stack.cluster.directory / "runner", fleet.name, pod, ROUTER_CONTAINER)
    fleet.wait_ready("RoutingPolicy", "logged")

    def answers() -> bool:
        try:
            return gateway.ask("After the crash?").status_code == 200
        except httpx.HTTPError:
            return False

    fleet.wait_for(answers, "an answer after the crash")
    after = asked(gateway, "Long after the crash?")

    assert {before, after} <= {row["requestId"] for row in exported(fleet, tmp_path / "log.jsonl", {after})}
    assert gateway.pods() == [pod]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no key"),
        pytest.param({KEY_HEADER: "sk-of-nobody"}, 401, id="a key of nobody"),
        pytest.param({KEY_HEADER: CLIENT_KEY}, 403, id="a client's key"),
        pytest.param({"authorization": f"Bearer {READER_KEY}"}, 401, id="a reader's key where clients show theirs"),
        pytest.param({KEY_HEADER: READER_KEY}, 200, id="a reader's key"),
    ],
)
def test_only_readers_get_the_log(fleet: Space, headers: dict[str, str], status: int) -> None:
    """Whoever reaches the pod needs a key that the policy names."""
    assert pages(fleet.gateway("logged"), headers) == [status]


def test_prompts_are_in_no_line_of_the_pods_log(fleet: Space, tmp_path: Path) -> None:
    """Nor are answers or keys: what collects the output of pods sees none of them."""
    gateway = fleet.gateway("logged")
    request_id = asked(gateway, "Is 4711 a perfume?")
    (row,) = [row for row in exported(fleet, tmp_path / "log.jsonl", {request_id}) if row["requestId"] == request_id]
    gateway.line_of(request_id)
    text = gateway.raw_log()

    assert "4711" not in text
    assert row["answer"] not in text
    assert READER_KEY not in text


def test_api_server_is_asked_for_the_pods_log(fleet: Space, tmp_path: Path) -> None:
    """By pods/proxy, which this cluster's API server refuses: its pods have loopback addresses."""
    done = export(fleet, tmp_path / "log.jsonl")

    (pod,) = fleet.gateway("logged").pods()
    assert done.returncode == 1
    assert done.stderr == f"warning: pod {pod}: address not allowed; the same command goes on\n"
