"""`flotilla promote` as it is typed: one line of a policy's file, and nothing else of it."""

from __future__ import annotations

import difflib
import io
import json
import sys
from pathlib import Path

import pytest
from command_line import Ended, Run

OLD, NEW = f"sha256:{'0' * 64}", f"sha256:{'1f' * 32}"
POLICY = f"""\
# Support: reviewed by team A
apiVersion: v1
kind: ConfigMap
metadata: {{name: other}}
---
apiVersion: flotilla.dev/v1alpha1
kind: RoutingPolicy
metadata:
  name: support   # also in the dashboards
  namespace: agents
spec:
  experts: [{{name: invoice}}]

  fallbacks: [{{name: big}}]
  strategy:
    type: WinRate
    artifact: {{configMapRef: {{name: router-10}}, digest: "{OLD}"}}  # promoted by CI
    models: {{small: invoice, strong: big}}
    threshold: '0.42'
  canary:
    artifact:
      configMapRef:
        name: router-11
      digest: {NEW}
    percent: 10
  auth: {{anonymous: true}}
"""


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla promote` in a folder that holds policy.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_bytes(POLICY.encode())

    def command(*arguments: str) -> Ended:
        return flotilla("promote", *arguments)

    return command


def changed_lines(before: str = POLICY) -> list[str]:
    """Of policy.yaml since then."""
    lines = difflib.ndiff(before.splitlines(), Path("policy.yaml").read_bytes().decode().splitlines())
    return [line for line in lines if line[0] in "+-"]


def test_promotion_edits_one_line_and_keeps_the_rest(run: Run) -> None:
    """Comments, blank lines, quotes and other documents."""
    ended = run("policy.yaml", "--artifact", "router-11", "--digest", NEW)

    line = '    artifact: {{configMapRef: {{name: {}}}, digest: "{}"}}  # promoted by CI'
    assert changed_lines() == [f"- {line.format('router-10', OLD)}", f"+ {line.format('router-11', NEW)}"]
    assert (ended.code, ended.error) == (0, "")
    assert ended.out == (
        "RoutingPolicy agents/support: spec.strategy.artifact.configMapRef.name: router-10 -> router-11\n"
        f"RoutingPolicy agents/support: spec.strategy.artifact.digest: {OLD} -> {NEW}\n"
    )


def test_promotion_back_restores_the_file_to_the_byte(run: Run) -> None:
    """A roll-back is the same edit the other way round, Windows' line ends included."""
    Path("policy.yaml").write_bytes(POLICY.replace("\n", "\r\n").encode())

    run("policy.yaml", "--artifact", "router-11", "--digest", NEW)
    run("policy.yaml", "--artifact", "router-10", "--digest", OLD)

    assert Path("policy.yaml").read_bytes() == POLICY.replace("\n", "\r\n").encode()


def test_promotion_takes_the_canarys_artifact(run: Run) -> None:
    """Whatever style either is written in; the canary stays for the next one."""
    ended = run("policy.yaml", "--from", "canary", "-o", "json")

    assert [line[0] for line in changed_lines()] == ["-", "+"]
    assert json.loads(ended.out) == {
        "policy": {"namespace": "agents", "name": "support"},
        "changes": {
            "strategy.artifact.configMapRef.name": {"before": "router-10", "after": "router-11"},
            "strategy.artifact.digest": {"before": OLD, "after": NEW},
        },
    }


def test_promotion_to_the_canary_leaves_the_strategy(run: Run) -> None:
    """A new digest of the same ConfigMap is a line of its own."""
    run("policy.yaml", "--to", "canary", "--digest", OLD)

    assert changed_lines() == [f"-       digest: {NEW}", f"+       digest: {OLD}"]


def test_promotion_of_what_is_there_writes_nothing(run: Run) -> None:
    """It is said, and no failure: a pipeline may run again."""
    Path("policy.yaml").chmod(0o444)

    ended = run("policy.yaml", "--artifact", "router-10", "--digest", OLD)

    assert (ended.code, ended.out, changed_lines()) == (0, "", [])
    assert "spec.strategy has this artifact already" in ended.error


def test_promotion_through_a_pipe_writes_the_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """For `kubectl get -o yaml | ... | kubectl apply -f -`."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POLICY.encode())))

    ended = run("-", "--artifact", "router-11", "--digest", NEW)

    assert ended.out.count("router-11") == 2
    assert len(ended.out) == len(POLICY)


@pytest.mark.parametrize(
    ("edit", "arguments", "said"),
    [
        pytest.param(("", ""), ("--digest", "sha256:abc"), "is no digest", id="digest"),
        pytest.param(("", ""), ("--artifact", "https://a/b.tar", "--digest", NEW), "has configMapRef", id="kind"),
        pytest.param(("", ""), ("--policy", "sales", "--digest", NEW), "there is RoutingPolicy a", id="name"),
        pytest.param(("kind: RoutingPolicy", "kind: Policy"), ("--digest", NEW), "no RoutingPolicy", id="no policy"),
        pytest.param(("", ""), ("--to", "shadow", "--digest", NEW), "no spec.shadow.artifact", id="no such stage"),
        pytest.param((f'"{OLD}"', "null"), ("--digest", NEW), "no spec.strategy.artifact", id="no digest"),
        pytest.param(
            ("percent: 10", "models: {small: sql}"), ("--from", "canary"), "spec.canary.models", id="other models"
        ),
        pytest.param(
            ("configMapRef:\n        name: router-11", "oci: a/b@c"), ("--from", "canary"), "has oci", id="source"
        ),
        pytest.param((f'digest: "{OLD}"', f'digest: &d "{OLD}"'), ("--digest", NEW), "anchor", id="anchor"),
        pytest.param(("spec:", "spec: ["), ("--digest", NEW), "line", id="not YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_promoted_leaves_the_file(
    run: Run, edit: tuple[str, str], arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 1, and a sentence that says what to do."""
    before = POLICY.replace(*edit, 1) if edit[0] else POLICY
    Path("policy.yaml").write_text(before)

    ended = run("policy.yaml", *arguments)

    assert (ended.code, ended.out, changed_lines(before)) == (1, "", [])
    assert said in ended.error


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="nothing"),
        pytest.param(("--from", "canary", "--digest", NEW), id="both"),
        pytest.param(("--from", "canary", "--artifact", "a"), id="an artifact twice"),
        pytest.param(("--from", "strategy"), id="onto itself"),
    ],
)
def test_wrong_usage_is_told(run: Run, arguments: tuple[str, ...]) -> None:
    """Exit code 2."""
    assert run("policy.yaml", *arguments).code == 2


def test_policy_stays_as_it_was_where_the_new_one_cannot_be_written(run: Run) -> None:
    """A sentence, and not half a file."""
    Path("policy.yaml.new").mkdir()

    ended = run("policy.yaml", "--from", "canary")

    assert ended.code == 1
    assert "error: policy.yaml: Is a directory" in ended.error
    assert changed_lines() == []


def test_json_of_a_policy_from_standard_input_is_refused(run: Run) -> None:
    """Both would be written to standard output."""
    assert run("-", "--from", "canary", "-o", "json").code == 2


def test_promotion_of_one_policy_of_several_leaves_the_others(run: Run) -> None:
    """Unless it is named, none is touched."""
    both = POLICY + "---\n" + POLICY.replace("name: support ", "name: sales ")
    Path("policy.yaml").write_text(both)

    unnamed = run("policy.yaml", "--digest", NEW)
    named = run("policy.yaml", "--policy", "sales", "--digest", NEW)

    assert (unnamed.code, named.code) == (1, 0)
    assert "name one with --policy" in unnamed.error
    assert len(changed_lines(both)) == 2
    assert Path("policy.yaml").read_text().startswith(POLICY)
