"""`flotilla logs export` against an API server with two gateways: what is written, and how it goes on."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from command_line import Ended, Run

from flotilla_api import names
from flotilla_cli.__main__ import main
from flotilla_cli.learning.exporting import Export
from flotilla_cli.learning.requestrows import convert
from flotilla_learning.datasets import parse_example
from flotilla_learning.judging import parse_row

POLICY = "/apis/flotilla.dev/v1alpha1/namespaces/agents/routingpolicies/helpdesk"
SECRET = "/api/v1/namespaces/agents/secrets/keys"
PODS = "/api/v1/namespaces/agents/pods"
KEY = "reader-key"


def a_line(name: str, **fields: Any) -> bytes:
    """A line as a gateway writes it."""
    row = {
        "id": name,
        "time": 1.5,
        "policy": "helpdesk",
        "prompt": f"prompt of {name}",
        "choice": "small",
        "propensity": 0.25,
        "model": "big",
        "status": 200,
        "attempts": [{"target": "small", "usd": 0.001}, {"target": "big", "usd": 0.01}],
        "usd": 0.011,
        "answer": "yes",
    }
    return json.dumps(row | fields).encode()


@dataclass
class World:
    """An API server with a policy, its Secret and its gateways."""

    logs: dict[str, list[bytes]] = field(default_factory=lambda: {"gw-a": [], "gw-b": []})
    spec: dict[str, Any] = field(
        default_factory=lambda: {
            "auth": {"apiKeysSecretRef": {"name": "keys"}},
            "requestLog": {"prompts": "Text", "readers": ["ml"]},
        }
    )
    page_lines: int = 2
    ended: set[str] = field(default_factory=set[str])
    """Pods that were evicted, for instance."""
    gaps: set[str] = field(default_factory=set[str])
    refusals: dict[str, tuple[int, Any]] = field(default_factory=dict[str, tuple[int, Any]])
    """By a pod's name or an object's path."""
    asked: list[str] = field(default_factory=list[str])
    address: str = "10.0.0.1"
    url: str = ""
    port: int = 0

    def answer(self, target: str, key: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        url = urlsplit(target)
        self.asked.append(url.path)
        pod = url.path.removeprefix(f"{PODS}/").partition(":")[0] if "/proxy/" in url.path else ""
        if url.path == "/v1/request-log":
            pod = "gw-a"
        if pod or url.path in self.refusals:
            return (
                self._page(pod, parse_qs(url.query), key)
                if pod not in self.refusals and pod
                else self._refuse(pod or url.path)
            )
        objects: dict[str, Any] = {
            POLICY: {"metadata": {"namespace": "agents", "name": "helpdesk"}, "spec": self.spec},
            SECRET: {"data": {"ml": base64.b64encode(f"{KEY}\n".encode()).decode()}},
            PODS: {"items": [self._pod(name) for name in self.logs]},
        }
        found = objects.get(url.path)
        status, body = (404, {"message": f"{url.path} not found"}) if found is None else (200, found)
        return status, {}, json.dumps(body).encode()

    def _pod(self, name: str) -> dict[str, Any]:
        phase = "Failed" if name in self.ended else "Running"
        return {"metadata": {"name": name}, "status": {"podIP": self.address, "phase": phase}}

    def _refuse(self, what: str) -> tuple[int, dict[str, str], bytes]:
        status, body = self.refusals[what]
        return status, {}, json.dumps(body).encode()

    def _page(self, pod: str, query: dict[str, list[str]], key: str | None) -> tuple[int, dict[str, str], bytes]:
        if key != KEY:
            return 401, {}, json.dumps({"error": {"message": "Incorrect API key provided."}}).encode()
        start = int(query.get("after", ["1:0"])[0].partition(":")[2])
        lines = self.logs[pod][start : start + self.page_lines]
        end = start + len(lines)
        headers = {
            "X-Flotilla-Cursor": f"1:{end}",
            "X-Flotilla-More": "true" if end < len(self.logs[pod]) else "false",
            "X-Flotilla-Gap": "true" if pod in self.gaps else "false",
        }
        return 200, headers, b"".join(line + b"\n" for line in lines)


@pytest.fixture
def world() -> Generator[World]:
    """Listens on loopback."""
    state = World()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = state.answer(self.path, self.headers.get("x-flotilla-key"))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs `flotilla logs export` with a kubeconfig; the output is log.jsonl of the test's folder."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "agents"}}],
        "clusters": [{"name": "c", "cluster": {"server": world.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))

    def invoke(*arguments: str, target: str = "policy/helpdesk") -> Ended:
        out = str(tmp_path / "log.jsonl")
        given = ["logs", "export", target, "-o", out, "--kubeconfig", str(kubeconfig), *arguments]
        with pytest.raises(SystemExit) as ended:
            main(given)
        shown = capsys.readouterr()
        return Ended(int(ended.value.code or 0), shown.out, shown.err)

    return invoke


def written(tmp_path: Path) -> list[str]:
    """Ids of the requests in the output."""
    return [json.loads(line)["requestId"] for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]


# What is written


def test_rows_of_all_gateways_are_written(world: World, run: Run, tmp_path: Path) -> None:
    """Page by page, and the screen says how many of which."""
    world.logs = {"gw-b": [a_line(f"b{n}") for n in range(5)], "gw-a": [a_line("a0")]}

    ended = run()

    assert ended == Ended(0, "POD    ROWS   BROKEN   GAP\ngw-a   1      0        no\ngw-b   5      0        no\n", "")
    assert written(tmp_path) == ["a0", "b0", "b1", "b2", "b3", "b4"]


def test_row_can_be_labelled_and_learned_from(world: World, run: Run, tmp_path: Path) -> None:
    """By what flotilla label and flotilla train read."""
    world.logs = {"gw-a": [a_line("r")]}
    run()
    line = (tmp_path / "log.jsonl").read_bytes()

    row, example = parse_row(line, default_id="1", reference="reference"), parse_example(line, default_id="1")

    assert (row.prompt, row.answers["big"].text, row.answers["big"].usd) == ("prompt of r", "yes", 0.01)
    assert (row.answered, row.logged_usd) == ("big", 0.011)
    assert example.outcomes == {}
    assert example.logged is not None
    assert (example.logged.model, example.logged.propensity) == ("small", 0.25)


def test_export_goes_on_where_it_ended(world: World, run: Run, tmp_path: Path) -> None:
    """Nothing comes twice, and a pod that is new is read from its beginning."""
    world.logs = {"gw-a": [a_line("a0")]}
    run()
    world.logs = {"gw-a": [a_line("a0"), a_line("a1")], "gw-c": [a_line("c0")]}

    ended = run()

    assert ended.out.splitlines()[1:] == ["gw-a   1      0        no", "gw-c   1      0        no"]
    assert written(tmp_path) == ["a0", "a1", "c0"]


def test_what_a_crash_has_left_is_read_again(world: World, run: Run, tmp_path: Path) -> None:
    """Rows whose cursor was not saved are cut off first."""
    world.logs = {"gw-a": [a_line("a0")]}
    run()
    with (tmp_path / "log.jsonl").open("ab") as torn:
        torn.write(b'{"requestId": "a1", "tor')
    world.logs["gw-a"].append(a_line("a1"))

    run()

    assert written(tmp_path) == ["a0", "a1"]


def test_broken_rows_are_counted_and_skipped(world: World, run: Run, tmp_path: Path) -> None:
    """Those around them are written."""
    broken = [b'{"half', b"[]", b"\xff", b"{}", a_line("x", choice=7), a_line("x", prompt=None)]
    world.logs = {"gw-a": [a_line("a0"), *broken, a_line("a1")]}

    ended = run("--summary", "json")

    assert ended.code == 0
    assert ended.error == "warning: pod gw-a: 6 broken rows skipped\n"
    assert json.loads(ended.out) == {
        "out": str(tmp_path / "log.jsonl"),
        "rows": 2,
        "broken": 6,
        "pods": [{"pod": "gw-a", "rows": 2, "broken": 6, "gap": False, "error": None}],
    }
    assert written(tmp_path) == ["a0", "a1"]


def test_rows_that_were_lost_are_told(world: World, run: Run) -> None:
    """An export that is run too rarely has gaps."""
    world.gaps = {"gw-b"}

    ended = run()

    assert ended.code == 0
    assert "pod gw-b: rows made room for others before they were read" in ended.error
    assert ended.out.splitlines()[2].split() == ["gw-b", "0", "0", "yes"]


def test_pod_that_does_not_answer_costs_no_other_pods_rows(world: World, run: Run, tmp_path: Path) -> None:
    """The command says so, and its exit code."""
    world.logs = {"gw-a": [a_line("a0")], "gw-b": [a_line("b0")]}
    world.refusals = {"gw-a": (503, {"message": "no endpoints available"})}

    ended = run()

    assert ended.code == 1
    assert ended.error == "warning: pod gw-a: no endpoints available; the same command goes on\n"
    assert written(tmp_path) == ["b0"]


def test_pods_that_have_ended_are_left_out(world: World, run: Run, tmp_path: Path) -> None:
    """Their logs are gone; they would fail every export until somebody removed them."""
    world.logs = {"gw-a": [a_line("a0")], "gw-b": [a_line("b0")]}
    world.ended = {"gw-a"}

    assert run().code == 0
    assert written(tmp_path) == ["b0"]


def test_pods_are_called_at_their_own_addresses(
    world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From within the cluster nobody needs the right to pods/proxy."""
    monkeypatch.setattr(names, "ROUTER_ADMIN_PORT", world.port)
    world.address = "127.0.0.1"
    world.logs = {"gw-a": [a_line("a0"), a_line("a1"), a_line("a2")]}

    ended = run("--direct")

    assert ended.code == 0
    assert written(tmp_path) == ["a0", "a1", "a2"]
    assert not any("proxy" in path for path in world.asked)


# Keys


@pytest.fixture(autouse=True)
def wrong_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """In variables that a test may name."""
    monkeypatch.setenv("WRONG", "wrong-key")
    monkeypatch.setenv("TWO_LINES", "wrong-key\nx: y")


def test_key_of_the_environment_needs_no_secret(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to be let at the policy's Secret."""
    monkeypatch.setenv("READER", KEY)

    assert run("--key-env", "READER").code == 0
    assert SECRET not in world.asked


@pytest.mark.parametrize(
    ("change", "arguments", "error"),
    [
        pytest.param({"requestLog": None}, (), "keeps no request log", id="no log"),
        pytest.param({"requestLog": {}}, (), "readers names no API key", id="no readers"),
        pytest.param({"auth": {"anonymous": True}}, (), "readers names no API key", id="no keys"),
        pytest.param({"requestLog": {"readers": ["a", "b"]}}, (), "choose one by --key-name", id="two readers"),
        pytest.param({}, ("--key-name", "none"), "has no entry none", id="no such entry"),
        pytest.param({}, ("--key-env", "NOT_SET"), "NOT_SET is not set, or empty", id="no such variable"),
        pytest.param({}, ("--key-env", "WRONG"), "pod gw-a: Incorrect API key provided.", id="a wrong key"),
        pytest.param({}, ("--key-env", "TWO_LINES"), "not one line of ASCII", id="no key at all"),
    ],
)
def test_log_without_a_key_is_not_read(
    world: World,
    run: Run,
    change: dict[str, Any],
    arguments: tuple[str, ...],
    error: str,
) -> None:
    """The error says what is missing, and holds no key."""
    world.spec = {name: value for name, value in (world.spec | change).items() if value is not None}

    ended = run(*arguments)

    assert ended.code == 1
    assert error in ended.error
    assert "wrong-key" not in ended.error


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (POLICY, "routingpolicies/helpdesk in namespace agents: not yours"),
        (SECRET, "secrets/keys in namespace agents: not yours"),
        (PODS, "pods in namespace agents: not yours"),
        ("gw-a", "pod gw-a: not yours"),
    ],
)
def test_what_may_not_be_read_is_named(world: World, run: Run, path: str, error: str) -> None:
    """As the API server, or the gateway, words it."""
    world.refusals = {path: (403, {"message": "not yours"})}

    ended = run()

    assert (ended.code, ended.out, ended.error) == (1, "", f"error: {error}\n")


def test_a_key_comes_from_one_place(world: World, run: Run) -> None:
    """The environment or an entry of the Secret: one of them would be ignored, so nobody is asked."""
    ended = run("--key-env", "READER", "--key-name", "ml")

    assert (ended.code, ended.out, world.asked) == (2, "", [])
    assert "give one of --key-env and --key-name" in ended.error


def test_one_of_several_readers_keys_is_chosen_by_name(world: World, run: Run) -> None:
    """Where the policy names several, the command cannot know which one is meant."""
    world.spec["requestLog"]["readers"] = ["other", "ml"]

    assert run("--key-name", "ml").code == 0


def test_policy_without_gateways_is_told(world: World, run: Run) -> None:
    """There is nothing to read."""
    world.logs = {}

    assert "policy helpdesk has no gateway pods in namespace agents" in run().error


def test_target_is_a_policy(run: Run) -> None:
    """Wrong usage has an exit code of its own."""
    assert run(target="expert/small").code == 2


# Files


def test_file_of_something_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    """It may be the only copy."""
    (tmp_path / "log.jsonl").write_text("mine\n")

    ended = run()

    assert ended.code == 1
    assert "is there already, and no export" in ended.error
    assert (tmp_path / "log.jsonl").read_text() == "mine\n"


OTHERS = '{"source": "agents/other", "bytes": 0, "cursors": {}}'


@pytest.mark.parametrize(
    ("state", "error"),
    [
        pytest.param("{", "cannot be read", id="no JSON"),
        pytest.param("[]", "cannot be read", id="no object"),
        pytest.param(
            '{"source": "agents/other", "bytes": 0, "cursors": {}}', "holds the log of agents/other", id="else's"
        ),
        pytest.param('{"source": "agents/helpdesk", "bytes": 9, "cursors": {}}', "has become shorter", id="shorter"),
        pytest.param('{"source": "agents/helpdesk", "bytes": 0, "cursors": 7}', "cannot be read", id="no cursors"),
    ],
)
def test_cursors_that_do_not_fit_are_refused(run: Run, tmp_path: Path, state: str, error: str) -> None:
    """Rather than rows lost or doubled."""
    (tmp_path / "log.jsonl.cursor").write_text(state)

    ended = run()

    assert ended.code == 1
    assert error in ended.error


def test_file_without_rows_yet_can_be_gone_on_with(world: World, run: Run, tmp_path: Path) -> None:
    """A crash before the first page was whole."""
    run()
    with (tmp_path / "log.jsonl").open("ab") as torn:
        torn.write(a_line("a0")[:20])
    world.logs["gw-a"] = [a_line("a0")]

    assert run().code == 0
    assert written(tmp_path) == ["a0"]


def test_folder_that_is_not_there_is_told(run: Run, tmp_path: Path) -> None:
    """As an error of the command."""
    ended = run("-o", str(tmp_path / "none" / "log.jsonl"))

    assert ended.code == 1
    assert "No such file or directory" in ended.error


# Rows


def test_half_a_character_does_not_end_an_export(tmp_path: Path) -> None:
    """JSON may hold a lone surrogate, which UTF-8 cannot."""
    with closing(Export(tmp_path / "log.jsonl", "agents/support")) as file:
        file.add("gw-a", [{"prompt": "\ud800"}], "1")

    assert (tmp_path / "log.jsonl").read_bytes() == b'{"prompt": "?"}\n'


def test_id_of_a_row_is_of_no_other() -> None:
    """Clients may send the same request id twice, to one pod or to two; a line that is read again keeps its id."""
    lines = [(a_line("r"), "gw-a"), (a_line("r", time=2), "gw-a"), (a_line("r"), "gw-b")]
    rows = [convert(line, pod) for line, pod in lines]

    identities = {row["id"] for row in rows if row is not None}
    assert len(identities) == 3
    assert convert(*lines[0]) == rows[0]


@pytest.mark.parametrize("propensity", [None, 0, 1.5, True, "0.5", -1])
def test_row_of_what_nobody_drew_has_no_logged_choice(propensity: object) -> None:
    """A model that was asked for by name says nothing of how models are chosen."""
    row = convert(a_line("r", propensity=propensity), "gw-a")

    assert row is not None
    assert "logged" not in row


def test_row_of_features_stays_what_it_is() -> None:
    """It can be judged by its scores, though not labelled."""
    features = {"bits": 16, "indices": [1], "values": [1.0]}
    line = json.loads(a_line("r", features=features))
    del line["prompt"]

    row = convert(json.dumps(line).encode(), "gw-a")

    assert row is not None
    assert row["features"] == features
