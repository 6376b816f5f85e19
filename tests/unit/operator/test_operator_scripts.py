"""The programs in the engine's container, run as a kubelet runs them, against a small server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import fakes
from flotilla_operator.reconcile.last_words import last_words
from flotilla_operator.resources import scripts

IDLE = 'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'
BUSY = 'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 0.0\n'
WAITING = 'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'


@dataclass
class FakeEngine:
    """What it answers next, and what it was asked."""

    answers: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """The last one is repeated."""
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    port: int = 0

    def answer(self, path: str, body: Any) -> tuple[int, str]:
        self.asked.append((path, body))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def engine() -> Generator[FakeEngine]:
    fake = FakeEngine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            code, text = fake.answer(self.path, body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script as an exec probe or a hook runs it; a proxy in the environment is never asked."""
    environment = {"POD_IP": "127.0.0.1", "http_proxy": "http://127.0.0.1:1"}
    command = [sys.executable, "-c", script, *(str(each) for each in arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


CHOICES = json.dumps({"choices": [{"text": "x"}]})


@pytest.mark.parametrize(
    ("api", "path", "prompt"),
    [
        pytest.param(
            "chat", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, id="through the chat API"
        ),
        pytest.param("completions", "/v1/completions", {"prompt": "Hi"}, id="through the completions API"),
    ],
)
def test_the_probe_passes_after_one_real_answer(
    engine: FakeEngine, api: str, path: str, prompt: dict[str, Any]
) -> None:
    """One token of the served model is asked for."""
    engine.answers = [(200, CHOICES)]

    result = run(scripts.STARTUP_PROBE, engine.port, api, "invoice", 5)

    assert result.returncode == 0, result.stderr
    assert engine.asked == [(path, {"model": "invoice", "max_tokens": 1} | prompt)]


def test_the_probe_of_an_embedder_passes_after_one_vector(engine: FakeEngine) -> None:
    """It answers nothing else."""
    engine.answers = [(200, '{"data": [{"embedding": [0.1]}]}')]

    result = run(scripts.STARTUP_PROBE, engine.port, "embeddings", "minilm", 5)

    assert result.returncode == 0, result.stderr
    assert engine.asked == [("/v1/embeddings", {"model": "minilm", "input": "Hi"})]


@pytest.mark.parametrize(
    ("answer", "telling"),
    [
        pytest.param((503, "loading"), "503", id="the engine loads"),
        pytest.param((404, '{"error": "no such model"}'), "no such model", id="another model is served"),
        pytest.param((200, "{}"), "no choices", id="an answer that is none"),
        pytest.param((200, "<html>"), "", id="something else listens there"),
    ],
)
def test_the_probe_fails_and_says_why(engine: FakeEngine, answer: tuple[int, str], telling: str) -> None:
    """A kubelet shows what it wrote in its event."""
    engine.answers = [answer]

    result = run(scripts.STARTUP_PROBE, engine.port, "chat", "invoice", 5)

    assert result.returncode == 1
    assert telling in result.stderr
    assert "Traceback" not in result.stderr


def test_the_probe_fails_at_once_where_nothing_listens(engine: FakeEngine) -> None:
    """While the engine loads its port is closed."""
    result = run(scripts.STARTUP_PROBE, 1, "chat", "invoice", 5)

    assert result.returncode == 1
    assert "refused" in result.stderr


def test_the_drain_waits_until_nothing_runs_or_waits(engine: FakeEngine) -> None:
    """A queued request counts as much as a running one, and idle must be seen twice."""
    engine.answers = [(200, BUSY), (200, WAITING), (200, IDLE), (200, BUSY), (200, IDLE)]

    result = run(scripts.DRAIN, engine.port, 0, 60)

    assert result.returncode == 0, result.stderr
    assert [path for path, _ in engine.asked] == ["/metrics"] * 6


def test_the_drain_ends_at_its_timeout(engine: FakeEngine) -> None:
    """A request that never ends holds nothing up."""
    engine.answers = [(200, BUSY)]

    result = run(scripts.DRAIN, engine.port, 0, 0.7)

    assert result.returncode == 0
    assert len(engine.asked) >= 1


def test_the_drain_outlives_an_engine_that_stumbles(engine: FakeEngine) -> None:
    """An error or a broken answer is no proof that nothing runs."""
    engine.answers = [(500, ""), (200, "vllm:num_requests_running nonsense"), (200, IDLE)]

    result = run(scripts.DRAIN, engine.port, 0, 60)

    assert result.returncode == 0
    assert len(engine.asked) == 4


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="neither metric"),
        pytest.param('vllm:num_requests_running{engine="0"} 0.0\n', id="one of the two"),
        pytest.param('vllm:num_requests_waiting_by_reason{engine="0"} 0.0\n', id="metrics with longer names"),
    ],
)
def test_missing_metrics_are_not_idle(engine: FakeEngine, answer: str) -> None:
    """An engine that does not say what runs may run something: it is asked on."""
    engine.answers = [(200, answer), (200, IDLE), (200, answer), (200, IDLE), (200, IDLE)]

    result = run(scripts.DRAIN, engine.port, 0, 60)

    assert result.returncode == 0
    assert len(engine.asked) == 5


def test_metrics_that_never_come_are_not_waited_for(engine: FakeEngine) -> None:
    """Another engine may have none: a long drain timeout is for requests that run, not for what cannot be known."""
    engine.answers = [(200, BUSY), (200, "")]

    result = run(f"import time\ntime.sleep = lambda seconds: None\n{scripts.DRAIN}", engine.port, 0, 3600)

    assert result.returncode == 0
    assert len(engine.asked) == 21


def test_the_drain_ends_with_an_engine_that_is_gone() -> None:
    """A closed port means that there is nothing left to wait for."""
    assert run(scripts.DRAIN, 1, 0, 60).returncode == 0


RECORDINGS = Path(fakes.__file__).parent / "recordings" / "vllm-0.32"


def launch(message: Path, program: str) -> subprocess.Popen[bytes]:
    """The launcher of a program in Python, which tells `message` why it failed."""
    command = [sys.executable, "-c", scripts.LAUNCHER, sys.executable, "-c", program]
    return subprocess.Popen(command, env={**os.environ, "TERMINATION_LOG": str(message)}, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("recording", "cause"),
    [
        pytest.param(
            "failed_start_kv_cache",
            "ValueError: To serve at least one request with the model's max seq len (4000000)",
            id="an engine process without room for its cache",
        ),
        pytest.param(
            "failed_start_max_model_len",
            "Value error, User-specified max_model_len (99999) is greater than",
            id="a length that the model does not have",
        ),
    ],
)
def test_a_failed_starts_root_cause_is_its_last_word(tmp_path: Path, recording: str, cause: str) -> None:
    """However long the tracebacks below it are; the output itself passes through byte for byte."""
    log, message = RECORDINGS / f"{recording}.log", tmp_path / "message"

    with launch(message, f"print(open({str(log)!r}).read(), end=''); raise SystemExit(3)") as launched:
        output, _ = launched.communicate(timeout=60)

    assert launched.returncode == 3
    assert output == log.read_bytes()
    assert len(message.read_bytes()) <= 4096
    assert last_words(message.read_text()).startswith(cause)


def test_a_long_failure_keeps_its_first_and_last_lines(tmp_path: Path) -> None:
    """The message has room for 4096 bytes, however much is said."""
    message = tmp_path / "message"
    program = "for each in range(999): print(f'ValueError: number {each} ' + 'x' * 200)\nraise SystemExit(1)"

    with launch(message, program) as launched:
        launched.communicate(timeout=60)
    lines = message.read_text().splitlines()

    assert lines[0].startswith("ValueError: number 0 ")
    assert lines[-1].startswith("ValueError: number 998 ")
    assert len(message.read_bytes()) <= 4096


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_launched_program(tmp_path: Path, number: signal.Signals) -> None:
    """A pod that ends lets vLLM end in its own way, and its exit code is the container's."""
    message = tmp_path / "message"
    program = (
        f"import signal; signal.signal({int(number)}, lambda *_: exit(0)); print('up', flush=True); signal.pause()"
    )

    with launch(message, program) as launched:
        assert launched.stdout is not None
        assert launched.stdout.readline() == b"up\n"
        launched.send_signal(number)
        launched.communicate(timeout=60)

    assert launched.returncode == 0
    assert not message.exists()


def test_a_program_that_a_signal_ends_has_128_and_the_signal(tmp_path: Path) -> None:
    """As a shell says it."""
    with launch(tmp_path / "message", "import os; os.kill(os.getpid(), 9)") as launched:
        launched.communicate(timeout=60)

    assert launched.returncode == 137
