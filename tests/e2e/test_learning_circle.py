"""The full circle: traffic, log, labels, training; and an artifact that is shadowed, tried, promoted, rolled back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from e2e.gateway import Gateway
from e2e.objects import CLIENT_KEY, Manifest, a_policy, a_secret, an_expert, an_external_fallback
from e2e.steps import Space

POLICY = "circle"
READER_KEY = "sk-of-the-ml-engineer"
QUESTIONS = 120
HARD = ("prove", "theorem", "integral", "lemma")
EASY = ("hello", "thanks", "weather", "greet")
FILLERS = tuple(
    first + second
    for first in ("ba", "du", "ki", "lo", "me", "ra", "so")
    for second in ("lan", "mor", "nis", "pek", "tul", "vas", "wen", "xir", "yod", "zug")
)
"""Words that say nothing of a question, so that no two questions are near duplicates."""


def a_question(number: int) -> tuple[str, bool]:
    """A question and whether it is hard; each number has its own."""
    draw = random.Random(number)
    hard = number % 2 == 0
    words = [draw.choice(HARD if hard else EASY), draw.choice(HARD if hard else EASY), *draw.sample(FILLERS, 10)]
    draw.shuffle(words)
    return " ".join(words), hard


class _Judge(BaseHTTPRequestHandler):
    """A judge model: the small model's answers to hard questions are bad, and all others good."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        question, _, answer = text.partition("[The Start of Assistant's Answer]")
        is_hard = any(word in question.partition("[Question]")[2] for word in HARD)
        rating = 1 if is_hard and "[simulated small]" in answer else 10
        message = {"role": "assistant", "content": f"Rating: [[{rating}]]"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"object": "chat.completion", "model": "judge", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing is written."""


@contextmanager
def a_judge() -> Generator[str]:
    """The base URL of the judge, on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def flotilla(*arguments: str) -> str:
    """What the command writes, as its user runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "flotilla_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "GATEWAY_KEY": CLIENT_KEY},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def send_traffic(gateway: Gateway) -> set[str]:
    """Questions are asked; the ids of their requests."""
    with gateway.client() as client:
        answers = [
            client.post("/chat/completions", json={"model": "auto", "messages": messages(number), "max_tokens": 8})
            for number in range(QUESTIONS)
        ]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["x-flotilla-request-id"] for answer in answers}


def messages(number: int) -> list[Manifest]:
    """One question of the user's."""
    return [{"role": "user", "content": a_question(number)[0]}]


def export(space: Space, out: Path, wanted: set[str]) -> None:
    """The gateways' log is in the file, these requests among it."""

    def is_there() -> bool:
        where = ("-n", space.name, "--kubeconfig", str(space.stack.cluster.kubeconfig), "--direct")
        flotilla("logs", "export", f"policy/{POLICY}", *where, "-o", str(out))
        return wanted <= {json.loads(line)["requestId"] for line in out.read_text().splitlines()}

    space.wait_for(is_there, "all requests to be in the log")


def train(labelled: Path, folder: Path, seed: int) -> str:
    """An artifact is trained; its digest."""
    flotilla("train", str(labelled), "--models", "small,big", "-o", str(folder), "--seed", str(seed))
    return json.loads(flotilla("pack", str(folder), "-o", f"{folder}.tar", "--summary", "json"))["digest"]


def publish(space: Space, folder: Path, name: str) -> None:
    """The artifact is in a ConfigMap."""
    manifest = flotilla("pack", str(folder), "--configmap", name, "-n", space.name)
    space.stack.cluster.kubectl("apply", "--server-side", "-f", "-", input=manifest)


def patch(space: Space, **spec: Any) -> None:
    """A person edits the policy, with kubectl alone."""
    text = json.dumps({"spec": spec})
    space.stack.cluster.kubectl("patch", "routingpolicy", POLICY, "-n", space.name, "--type=merge", "-p", text)


def pinned(name: str, digest: str) -> Manifest:
    """How the policy names an artifact."""
    return {"configMapRef": {"name": name}, "digest": digest}


def decided_by(gateway: Gateway, number: int) -> tuple[str, str | None]:
    """Who answered a question, and the digest of the artifact that chose."""
    answer = gateway.ask(a_question(number)[0], max_tokens=8)
    assert answer.status_code == 200, answer.text
    line = gateway.line_of(answer.headers["x-flotilla-request-id"])
    return answer.headers["x-flotilla-model"], line.get("artifact")


def until_decides(space: Space, gateway: Gateway, digest: str | None) -> None:
    """This artifact decides."""
    space.wait_for(lambda: decided_by(gateway, QUESTIONS)[1] == digest, f"artifact {digest} to decide")


def test_from_traffic_to_a_trained_router_and_back(space: Space, tmp_path: Path) -> None:
    """Questions that the small model answers badly go to the large one, because of what the log and a judge taught."""
    log, labelled = tmp_path / "log.jsonl", tmp_path / "labelled.jsonl"
    space.apply(
        an_expert("small"),
        an_external_fallback("big"),
        a_secret("keys", tests=CLIENT_KEY, ml=READER_KEY),
        a_policy(
            POLICY,
            experts=["small"],
            fallbacks=["big"],
            pinnable=["big"],
            auth={"apiKeysSecretRef": {"name": "keys"}},
            requestLog={"prompts": "Text", "maxBytes": "8Mi", "readers": ["ml"]},
        ),
    )
    space.wait_ready("Expert", "small")
    space.wait_ready("RoutingPolicy", POLICY)
    gateway = space.gateway(POLICY)
    pods = gateway.pods()

    export(space, log, send_traffic(gateway))
    with a_judge() as judge:
        models = ("--ask", "small", "--ask", "big", "--ask-url", gateway.url, "--ask-key-env", "GATEWAY_KEY")
        flotilla("label", str(log), "-o", str(labelled), "--judge-url", judge, "--judge-model", "judge", *models)
    first, second = (train(labelled, tmp_path / f"router-{seed}", seed) for seed in (0, 1))
    figures = json.loads(
        flotilla("eval", str(tmp_path / "router-0"), str(tmp_path / "router-0" / "test.jsonl"), "-o", "json")
    )
    assert figures["artifact"] == first
    for folder, name in (("router-0", "router-v1"), ("router-1", "router-v2")):
        publish(space, tmp_path / folder, name)

    both = {"small": "small", "big": "big"}
    patch(space, shadow={"artifact": pinned("router-v1", first), "models": both, "percent": 100})
    space.wait_condition("RoutingPolicy", POLICY, "StrategyReady", "True", "ArtifactLoaded")
    assert decided_by(gateway, QUESTIONS) == ("small", None)
    space.wait_for(
        lambda: (gateway.ask("hello"), gateway.metric("flotilla_router_shadow_decisions_total"))[1], "a shadow's score"
    )

    strategy = {"type": "WinRate", "artifact": pinned("router-v1", first), "models": both, "targetStrongRatio": "0.5"}
    patch(space, shadow=None, strategy=strategy)
    until_decides(space, gateway, first)
    numbers = range(QUESTIONS, QUESTIONS + 20)
    right = sum(decided_by(gateway, number)[0] == ("big" if a_question(number)[1] else "small") for number in numbers)
    assert right >= 16

    patch(space, canary={"artifact": pinned("router-v2", second), "percent": 100})
    until_decides(space, gateway, second)
    patch(space, canary=None, strategy={"artifact": pinned("router-v2", second)})
    until_decides(space, gateway, second)
    patch(space, strategy={"artifact": pinned("router-v1", first)})
    until_decides(space, gateway, first)
    assert gateway.pods() == pods
