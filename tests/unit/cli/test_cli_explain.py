"""`flotilla explain` against an API server: whole screens, and how it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Ended, Run

from flotilla_cli.explanation import render

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PATH = "/apis/flotilla.dev/v1alpha1/namespaces/agents/experts/invoice"
COUNTERFACTUAL = "a $0.80/h replica pays for itself above 178 lost requests/h at $0.0045; 210/h are expected with 2"
ACTIVE = "the number of replicas follows demand, from 0 to 4"
READY = "replicas of this generation answer at invoice-expert.agents.svc:8000"
GREW = {
    "at": "2026-11-23T11:56:30Z",
    "from": 2,
    "to": 3,
    "rule": "Economics",
    "message": "4.20 requests/s, a replica takes 1.75/s: 3 cost least",
    "counterfactual": COUNTERFACTUAL,
    "inputs": [
        {"name": "demand", "value": "4.2"},
        {"name": "arrivals", "value": "4.2", "ageSeconds": 12},
        {"name": "kvUsage"},
    ],
}
WOKE = {"at": "2026-11-21T09:00:00Z", "from": 0, "to": 1, "rule": "Woken", "message": "a request asked for a replica"}
EXPERT: dict[str, Any] = {
    "apiVersion": "flotilla.dev/v1alpha1",
    "kind": "Expert",
    "metadata": {"namespace": "agents", "name": "invoice"},
    "spec": {"scaling": {"min": 0, "max": 4}},
    "status": {
        "replicas": 3,
        "readyReplicas": 2,
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "the spec is valid"},
            {"type": "Ready", "status": "True", "reason": "Ready", "message": READY},
            {"type": "Fits", "status": "True", "reason": "Fits", "message": "it does"},
            {"type": "ScalingActive", "status": "True", "reason": "ScalingActive", "message": ACTIVE},
        ],
        "scaling": {
            "at": "2026-11-23T11:56:30Z",
            "recommended": 3,
            "rule": "Economics",
            "message": GREW["message"],
            "shadowUSDPerHour": "0.30",
            "asleep": 1,
            "decisions": [GREW, WOKE],
        },
    },
}
SCREEN = f"""\
Expert:        agents/invoice
Replicas:      3, 2 ready, 1 asleep
Recommended:   3  Economics
Because:       4.20 requests/s, a replica takes 1.75/s: 3 cost least
Found:         2026-11-23T11:56:30Z (3m30s ago)
Short of:      accelerators; one more in the pool would save $0.30/h

CONDITION       STATUS   REASON          MESSAGE
Accepted        True     Accepted        the spec is valid
ScalingActive   True     ScalingActive   {ACTIVE}
Ready           True     Ready           {READY}

2026-11-23T11:56:30Z (3m30s ago)  2 -> 3  Economics
  4.20 requests/s, a replica takes 1.75/s: 3 cost least
  {COUNTERFACTUAL}
  INPUT      VALUE     AGE
  demand     4.2
  arrivals   4.2       12s
  kvUsage    unknown

2026-11-21T09:00:00Z (2d3h ago)  0 -> 1  Woken
  a request asked for a replica
"""


def without(*path: str) -> dict[str, Any]:
    """The Expert with one thing less."""
    expert = json.loads(json.dumps(EXPERT))
    found = expert
    for step in path[:-1]:
        found = found[step]
    del found[path[-1]]
    return expert


def test_a_screen_says_what_is_right_and_why_it_changed() -> None:
    """The newest change first, each with what was known and how old it was."""
    assert render(EXPERT, NOW) == SCREEN


def test_the_document_shows_this_screen() -> None:
    """As it is written for the Expert above."""
    document = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()

    assert f"$ kubectl flotilla explain expert/invoice -n agents\n{SCREEN}```" in document


def test_a_screen_without_changes_says_so() -> None:
    """And leaves out what is not short, asleep or known."""
    expert = without("status", "conditions")
    expert["status"]["scaling"] = {"recommended": 1, "rule": "Minimum", "message": "scaling.min is 1"}

    assert render(expert, NOW) == (
        "Expert:        agents/invoice\n"
        "Replicas:      3, 2 ready\n"
        "Recommended:   1  Minimum\n"
        "Because:       scaling.min is 1\n"
        "\n"
        "The number has not been changed yet.\n"
    )


def test_an_expert_of_which_nothing_is_known() -> None:
    """As right after it was made."""
    assert render(without("status"), NOW) == (
        "Expert:        agents/invoice\nReplicas:      0, 0 ready\nRecommended:   nothing was decided yet\n"
    )


def test_an_expert_of_which_nothing_was_decided_shows_why() -> None:
    """A schedule that means nothing, or metrics that nobody measures, stand in its conditions."""
    expert = without("status", "scaling")
    schedule = "scaling.schedules[0].timeZone: there is no zone Berlin"
    expert["status"]["conditions"] = [
        {"type": "ScalingActive", "status": "Unknown", "reason": "Undecided", "message": "nothing was measured yet"},
        {"type": "Accepted", "status": "False", "reason": "InvalidSpec", "message": schedule},
    ]

    assert render(expert, NOW) == (
        "Expert:        agents/invoice\n"
        "Replicas:      3, 2 ready\n"
        "Recommended:   nothing was decided yet\n"
        "\n"
        "CONDITION       STATUS    REASON        MESSAGE\n"
        f"Accepted        False     InvalidSpec   {schedule}\n"
        "ScalingActive   Unknown   Undecided     nothing was measured yet\n"
    )


@pytest.mark.parametrize("known", [(), ("decisions",), ("decisions", "recommended", "rule", "message", "at")])
def test_an_expert_whose_scaling_is_off(known: tuple[str, ...]) -> None:
    """Nothing is recommended, whatever was before; what was changed then is still shown."""
    expert = json.loads(json.dumps(EXPERT))
    expert["spec"]["scaling"]["mode"] = "Off"
    expert["status"]["scaling"] = {name: EXPERT["status"]["scaling"][name] for name in known}
    expert["status"]["conditions"] = []

    shown = render(expert, NOW)

    assert shown.startswith(
        "Expert:        agents/invoice\nReplicas:      3, 2 ready\nRecommended:   nothing: scaling.mode is Off\n"
    )
    assert ("2 -> 3  Economics" in shown) is bool(known)
    assert "Because" not in shown
    assert "not been changed" not in shown


def test_an_expert_that_is_not_scaled() -> None:
    """Its spec says the number, which is 1 where it says nothing."""
    expert = without("spec", "scaling")
    assert render(expert, NOW) == "Expert agents/invoice is not scaled: spec.replicas says 1\n"
    expert["spec"]["replicas"] = 2
    assert render(expert, NOW) == "Expert agents/invoice is not scaled: spec.replicas says 2\n"


@pytest.mark.parametrize(
    ("at", "age"),
    [
        ("2026-11-23T12:00:09Z", "0s"),
        ("2026-11-23T11:59:15Z", "45s"),
        ("2026-11-23T11:57:00Z", "3m"),
        ("2026-11-23T11:47:30Z", "12m"),
        ("2026-11-23T09:58:30Z", "2h1m"),
        ("2026-11-12T12:00:00.000000Z", "11d"),
    ],
)
def test_ages_are_short(at: str, age: str) -> None:
    """As kubectl's; a clock that is behind the operator's shows no negative one."""
    expert = without("status", "scaling", "shadowUSDPerHour")
    expert["status"]["scaling"]["decisions"] = [{**WOKE, "at": at}]

    assert f"{at} ({age} ago)  0 -> 1  Woken\n" in render(expert, NOW)


@dataclass
class Api:
    """An API server with one Expert."""

    answers: dict[str, tuple[int, Any]]
    asked: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    url: str = ""


@pytest.fixture
def api() -> Generator[Api]:
    """Listens on loopback."""
    state = Api({PATH: (200, EXPERT)})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, self.headers.get("Authorization")))
            status, body = state.answers.get(self.path, (404, {"message": 'experts "invoice" not found'}))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def run(api: Api, flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla explain` with a kubeconfig whose current context is in namespace agents."""
    contexts = [
        {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "agents"}},
        {"name": "there", "context": {"cluster": "c", "user": "u"}},
    ]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": contexts,
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": "secret-1"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def command(*arguments: str) -> Ended:
        return flotilla("explain", *arguments)

    return command


@pytest.mark.parametrize("target", ["expert/invoice", "experts/invoice", "xp/invoice", "experts.flotilla.dev/invoice"])
def test_an_expert_is_read_as_kubectl_would(api: Api, run: Run, target: str) -> None:
    """In the context's namespace, with its user's token."""
    ended = run(target)

    assert (ended.code, ended.error) == (0, "")
    assert ended.out.splitlines()[:4] == SCREEN.splitlines()[:4]
    assert api.asked == [(PATH, "Bearer secret-1")]


def test_a_namespace_and_a_context_may_be_named(api: Api, run: Run) -> None:
    """A context without a namespace means default."""
    api.answers = {PATH.replace("agents", place): (200, EXPERT) for place in ("other", "default")}

    assert run("expert/invoice", "-n", "other").code == 0
    assert run("expert/invoice", "--context", "there").code == 0


def test_programs_get_the_status_itself(run: Run) -> None:
    """With the conditions that bear on scaling."""
    as_json, as_yaml = run("expert/invoice", "-o", "json"), run("expert/invoice", "-o", "yaml")

    found = json.loads(as_json.out)
    assert (found["namespace"], found["name"], found["replicas"]) == ("agents", "invoice", 3)
    assert found["scaling"] == EXPERT["status"]["scaling"]
    assert [each["type"] for each in found["conditions"]] == ["Accepted", "ScalingActive", "Ready"]
    assert yaml.safe_load(as_yaml.out) == found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param((404, {"message": 'experts "invoice" not found'}), 'experts "invoice" not found', id="absent"),
        pytest.param((403, {"message": "may not"}), "may not", id="forbidden"),
        pytest.param((502, b"<html>"), "502 Bad Gateway", id="no API server"),
    ],
)
def test_what_the_api_server_refuses_is_said(api: Api, run: Run, answer: tuple[int, Any], said: str) -> None:
    """In its own words, where it has some."""
    api.answers = {PATH: answer}

    ended = run("expert/invoice")

    assert (ended.code, ended.out) == (1, "")
    assert ended.error == f"error: experts/invoice in namespace agents: {said}\n"


def test_a_server_that_does_not_answer_is_named(run: Run, tmp_path: Path) -> None:
    """Once, without retries."""
    config = yaml.safe_load((tmp_path / "config").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "dead").write_text(yaml.safe_dump(config))

    ended = run("expert/invoice", "--kubeconfig", str(tmp_path / "dead"))

    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith("error: http://127.0.0.1:9 does not answer: ")
    assert ended.error.count("\n") == 1


def test_a_context_that_is_named_needs_no_current_one(api: Api, run: Run, tmp_path: Path) -> None:
    """Many keep none, so that nothing goes to the wrong cluster."""
    config = yaml.safe_load((tmp_path / "config").read_text())
    del config["current-context"]
    (tmp_path / "config").write_text(yaml.safe_dump(config))

    assert run("expert/invoice", "--context", "here").code == 0
    assert api.asked == [(PATH, "Bearer secret-1")]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"contexts: [", id="no YAML"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"kubeconfig", id="no mapping"),
        pytest.param(b"contexts: 3", id="no list"),
        pytest.param(b"current-context: a\ncontexts: [3]", id="no context"),
        pytest.param(None, id="a folder"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_configuration_that_means_nothing_is_named(
    run: Run, tmp_path: Path, content: bytes | None, named: bool
) -> None:
    """In one line, whether it was asked for or is kubectl's."""
    path = tmp_path / "config"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)

    ended = run("expert/invoice", *(("--kubeconfig", str(path)) if named else ()))

    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith(f"error: {path} is no kubeconfig: ")
    assert ended.error.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--kubeconfig", "none"), ("--context", "elsewhere")])
def test_a_configuration_that_is_not_there_is_named(run: Run, arguments: tuple[str, str]) -> None:
    """What was asked for is never replaced by something else."""
    ended = run("expert/invoice", *arguments)

    assert (ended.code, ended.out) == (1, "")
    assert arguments[1] in ended.error


def test_without_any_configuration_both_ways_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a kubeconfig nor a pod."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))

    ended = run("expert/invoice")

    assert (ended.code, ended.out) == (1, "")
    assert "and this is no pod" in ended.error


@pytest.mark.parametrize("arguments", [(), ("invoice",), ("policy/router",), ("expert/",), ("expert/x", "-o", "wide")])
def test_wrong_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    """Nothing is asked."""
    ended = run(*arguments)

    assert (ended.code, ended.out) == (2, "")
