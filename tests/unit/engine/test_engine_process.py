"""The simulated engine as a process: it loads, serves, drains and fails as vLLM does."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import fakes
from fakes import hf

ARGS = ("m", "--served-model-name", "small", "--host", "127.0.0.1", "--port", "0")
BODY: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def command(module: str, *args: str) -> list[str]:
    return [sys.executable, "-m", module, *args]


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(fakes.__file__).parents[1]), **(env or {})}


@contextmanager
def process(module: str, *args: str, env: Mapping[str, str] | None = None) -> Generator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        command(module, *args), env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


def listening(engine: subprocess.Popen[str]) -> str:
    """Read its log until it serves; return the URL."""
    assert engine.stdout
    for line in engine.stdout:
        if match := re.search(r"Uvicorn running on (\S+)", line):
            return match[1]
    raise AssertionError("the engine ended before it served")


def run(module: str, *args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(module, *args), env=environment(env), capture_output=True, text=True, timeout=60, check=False
    )


def test_sigterm_lets_running_requests_finish_within_the_shutdown_timeout():
    """A stream that runs at SIGTERM ends whole, a new connection is refused, and the process exits with 0."""
    slow = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "40"}
    with process("fakes.engine", *ARGS, "--shutdown-timeout", "30", env=slow) as engine:
        url = listening(engine)
        with (
            httpx.Client(base_url=url, trust_env=False) as client,
            client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as response,
        ):
            lines = response.iter_lines()
            first = next(lines)
            engine.send_signal(signal.SIGTERM)
            rest = list(lines)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)

        assert first.startswith("data: {")
        assert [line for line in rest if line][-1] == "data: [DONE]"
        assert engine.wait(30) == 0


def test_sigterm_without_a_timeout_cuts_running_requests():
    """As vLLM by default: the process does not wait for answers."""
    slow = {"SIM_SEQUENCE_TOKENS_PER_SECOND": "1"}
    with process("fakes.engine", *ARGS, env=slow) as engine:
        url = listening(engine)
        with (
            httpx.Client(base_url=url, trust_env=False) as client,
            client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            engine.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.TransportError):
                list(lines)

        assert engine.wait(30) == 0


def test_the_port_is_closed_while_weights_load():
    """Before loading ends nothing listens; SIGTERM meanwhile ends the process at once."""
    with process("fakes.engine", *ARGS, env={"SIM_LOAD_SECONDS": "3600"}) as engine:
        assert engine.stdout
        assert "Starting to load model" in engine.stdout.readline()

        engine.send_signal(signal.SIGTERM)

        assert engine.wait(30) == 0
        assert "running on" not in engine.stdout.read()


@pytest.mark.parametrize(
    ("args", "env", "message"),
    [
        pytest.param((), {"SIM_FAIL_AT_LOAD": "oom"}, "torch.OutOfMemoryError: CUDA out of memory", id="gpu memory"),
        pytest.param((), {"SIM_FAIL_AT_LOAD": "crash"}, "Engine core initialization failed", id="crash"),
        pytest.param((), {"SIM_KV_TOKENS": "100"}, "max seq len (8192)", id="cache below the context"),
        pytest.param((), {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}, "LocalEntryNotFoundError", id="not cached"),
        pytest.param(("--model", "/nowhere/m"), {}, "Can't load the configuration of '/nowhere/m'", id="no files"),
    ],
)
def test_a_failed_load_says_why_and_exits_with_1(args: tuple[str, ...], env: dict[str, str], message: str):
    """What vLLM prints is printed, so that an operator can tell the reasons apart."""
    ended = run("fakes.engine", *ARGS, *args, env=env)

    assert ended.returncode == 1
    assert message in ended.stderr


def test_an_injected_crash_ends_the_process():
    """The client gets no answer and the engine exits with 1, as after a fatal error in its core."""
    with process("fakes.engine", *ARGS) as engine:
        url = listening(engine)
        httpx.post(f"{url}/sim/faults", json={"kind": "die_before_first_byte", "process": True}, trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/v1/chat/completions", json=BODY, trust_env=False)

        assert engine.wait(30) == 1


def test_streams_side_by_side_all_end_whole():
    """Two hundred streams from eight clients at a time share the batch, and none loses its end."""
    with process(
        "fakes.engine", *ARGS, "--disable-uvicorn-access-log", env={"SIM_DECODE_TOKENS_PER_SECOND": "9000"}
    ) as engine:
        url = listening(engine)
        ended: list[bool] = []

        def ask(start: int) -> None:
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                for i in range(start, start + 25):
                    body = {**BODY, "messages": [{"role": "user", "content": f"{i}"}], "stream": True}
                    ended.append(client.post("/v1/chat/completions", json=body).text.endswith("data: [DONE]\n\n"))

        threads = [Thread(target=ask, args=(start * 25,)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert ended == [True] * 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "tls.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_a_provider_speaks_tls_and_wants_its_key(certificate: Path):
    """Over TLS, with the key from the environment, answers have none of vLLM's own fields."""
    tls = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate))
    env = {"API_KEY": "sk-right", "SIM_REFUSE_PARAMS": "min_p,max_tokens,stream_options.continuous_usage_stats"}
    with process("fakes.provider", "big-1", "--port", "0", "--host", "localhost", *tls, env=env) as provider:
        url = listening(provider)
        context = ssl.create_default_context(cafile=certificate)
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            body = {**BODY, "model": "big-1"}
            path = "/v1/chat/completions"
            nobody = client.post(path, json=body)
            stranger = client.post(path, json=body, headers={"authorization": "Bearer sk-wrong"})
            client.headers["authorization"] = "Bearer sk-right"
            answer = client.post(path, json=body)
            unknown = client.post(path, json={**body, "min_p": 0.1})
            old = client.post(path, json={**body, "max_tokens": 5})
            options = {"include_usage": True, "continuous_usage_stats": True}
            nested = client.post(path, json={**body, "stream": True, "stream_options": options})
            nowhere = [client.get(path).status_code for path in ("/metrics", "/health", "/tokenize")]

    assert url.startswith("https://")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, None)
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "sk-wrong" not in stranger.text
    assert answer.status_code == 200
    assert "stop_reason" not in answer.text
    assert "kv_transfer_params" not in answer.text
    assert answer.json()["choices"][0]["message"]["content"].startswith("[simulated big-1] ")
    refused = [response.json()["error"] for response in (unknown, old, nested)]
    assert [error["message"] for error in refused] == [
        "Unrecognized request argument supplied: min_p",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Unknown parameter: 'stream_options.continuous_usage_stats'.",
    ]
    assert {response.status_code for response in (unknown, old, nested)} == {400}
    assert nowhere == [404, 404, 404]


def test_a_download_lands_where_the_engine_looks(tmp_path: Path):
    """What `hf download` wrote is a model that the engine starts with, in a folder and in the hub's cache offline."""
    folder = tmp_path / "models" / "m"
    hub = {"HF_HOME": str(tmp_path / "hub")}
    assert run("fakes.hf", "download", "acme/small", "--local-dir", str(folder)).stdout.strip() == str(folder)
    cached = run("fakes.hf", "download", "acme/small", "--revision", "v1", env=hub)

    assert cached.returncode == 0
    for model, env in ((str(folder), {}), ("acme/small", {"HF_HUB_OFFLINE": "1", **hub})):
        with process("fakes.engine", model, "--port", "0", "--host", "127.0.0.1", env=env) as engine:
            url = listening(engine)
            assert httpx.get(f"{url}/v1/models", trust_env=False).json()["data"][0]["root"] == model


@pytest.mark.parametrize(
    ("repo", "args", "env", "message"),
    [
        pytest.param("acme/missing", (), {}, "RepositoryNotFoundError", id="no such repository"),
        pytest.param("acme/gated", (), {}, "GatedRepoError", id="gated without a token"),
        pytest.param("acme/small", ("--revision", "missing"), {}, "RevisionNotFoundError", id="no such revision"),
        pytest.param("a/b/c", (), {}, "Repo id must be in the form", id="no repository's name"),
        pytest.param("acme/small", (), {"HF_HUB_OFFLINE": "1"}, "offline mode", id="offline"),
    ],
)
def test_a_download_that_the_hub_refuses_exits_with_1(
    repo: str, args: tuple[str, ...], env: dict[str, str], message: str, tmp_path: Path
):
    """The reason is on stderr in the hub's words, and nothing is written."""
    ended = run("fakes.hf", "download", repo, *args, "--local-dir", str(tmp_path / "m"), env=env)

    assert ended.returncode == 1
    assert message in ended.stderr
    assert not (tmp_path / "m").exists()


def test_a_gated_download_works_with_a_token(tmp_path: Path):
    """The token comes from the environment."""
    ended = run("fakes.hf", "download", "acme/gated", "--local-dir", str(tmp_path), env={"HF_TOKEN": "hf_x"})

    assert ended.returncode == 0
    assert (tmp_path / "config.json").is_file()
    assert (tmp_path / "model.safetensors").stat().st_size > 8


def test_a_download_takes_its_time(tmp_path: Path):
    """A slow hub can be simulated; until it is done, nothing of the model is there."""
    slept: list[float] = []
    there: list[bool] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        there.append((tmp_path / "m").exists())

    code = hf.main(
        ["download", "acme/small", "--local-dir", str(tmp_path / "m")], {"SIM_DOWNLOAD_SECONDS": "90"}, sleep
    )

    assert (code, slept, there) == (0, [90.0], [False])
