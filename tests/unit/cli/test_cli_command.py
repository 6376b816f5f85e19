"""The command as it is typed: what it reads, what it writes where, and how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from flotilla_api.names import POLICY_LABEL
from flotilla_cli.__main__ import main
from flotilla_cli.chart import make_settings
from flotilla_cli.injection import Source, Wishes, inject
from localcluster.tools import kubectl_path

SCRIPTS = Path(sys.executable).parent
AGENT = f"""\
kind: Pod
apiVersion: v1
metadata:
  name: agent
  labels: {{{POLICY_LABEL}: billing}}  # whose sidecar it gets
spec:
  containers:
    - name: agent
"""
POLICY = """\
kind: RoutingPolicy
apiVersion: flotilla.dev/v1alpha1
metadata: {name: billing}
spec:
  experts: [{name: invoice}]
  auth: {anonymous: true}
"""
(INJECTED,) = inject([Source("f", AGENT)], Wishes(make_settings({}))).texts


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command wrote, and its exit code."""

    code: int
    out: bytes
    error: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla inject` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main(["inject", *arguments])
        out, error = capsysbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, error.decode())

    return command


def written(*texts: str) -> Sequence[str]:
    """Files a.yaml, b.yaml ..."""
    names = [f"{chr(ord('a') + index)}.yaml" for index in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        Path(name).write_bytes(text.encode())
    return names


def test_a_file_is_written_to_standard_output_with_its_sidecar(run: Run) -> None:
    """And what there is to say goes to standard error, so that the output can be piped on."""
    written(AGENT)

    ended = run("-f", "a.yaml")

    assert (ended.code, ended.out.decode()) == (0, INJECTED)
    assert ended.error == (
        "warning: a.yaml: RoutingPolicy default/billing is not among the files, so what it says of sidecars is not "
        "known; give its file with -f as well\n"
    )


def test_standard_input_is_read_as_bytes(run: Run) -> None:
    """Windows' line ends stay."""
    ended = run("-f", "-", stdin=AGENT.replace("\n", "\r\n").encode())

    assert (ended.code, ended.out.decode()) == (0, INJECTED.replace("\n", "\r\n"))


def test_files_are_one_stream(run: Run) -> None:
    """In their order, with a marker between two where the second has none, and a line end before it."""
    written(AGENT, POLICY.rstrip(), f"# The same.\n---\n{AGENT}")

    ended = run("-f", "a.yaml", "-f", "b.yaml", "-f", "c.yaml")

    assert ended.out.decode() == f"{INJECTED}---\n{POLICY}# The same.\n---\n{INJECTED}"
    assert (ended.code, ended.error) == (0, "")
    assert run("-f", "-", stdin=ended.out).out == ended.out


def test_of_a_folder_the_manifests_are_read(run: Run) -> None:
    """By name; other files and folders below it are not looked at."""
    Path("all/below").mkdir(parents=True)
    for name, text in {"b.yml": AGENT, "a.json": "{}", "c.txt": "{", "below/d.yaml": "{"}.items():
        (Path("all") / name).write_text(text)

    ended = run("-f", "all")

    assert (ended.code, ended.out.decode()) == (0, f"{{}}\n---\n{INJECTED}")


def test_options_reach_the_sidecar(run: Run) -> None:
    """Namespace, policy, image, control URL and the chart's values."""
    written(AGENT.replace(f"  labels: {{{POLICY_LABEL}: billing}}  # whose sidecar it gets\n", ""))
    Path("values.yaml").write_text("images: {router: {tag: '7'}, pullPolicy: Always}\nsomething: else\n")
    options = ["-n", "lab", "--policy", "support", "--values", "values.yaml", "--control-url", "https://control"]

    text = run("-f", "a.yaml", *options).out.decode()

    for line in (
        f"{POLICY_LABEL}: support",
        "image: flotilla-router:7",
        "imagePullPolicy: Always",
        "value: lab",
        "value: https://control",
    ):
        assert f"{line}\n" in text
    assert "image: router:9\n" in run("-f", "a.yaml", *options, "--image", "router:9").out.decode()


def test_check_names_what_would_change(run: Run) -> None:
    """With exit code 1, and 0 when nothing would."""
    written(AGENT, INJECTED)

    lacking = run("--check", "-f", "a.yaml")
    done = run("--check", "-f", "b.yaml")

    assert (lacking.code, lacking.out.decode()) == (
        1,
        "a.yaml: Pod default/agent would get the sidecar of policy billing\n",
    )
    assert (done.code, done.out) == (0, b"")


def test_a_refusal_ends_with_1_and_no_output(run: Run) -> None:
    """Each one is told; a half of a stream would be applied."""
    written(AGENT, AGENT + "  hostNetwork: true\n", "kind: [flotilla.dev/policy\n")

    ended = run("-f", "a.yaml", "-f", "b.yaml", "-f", "c.yaml")

    assert (ended.code, ended.out) == (1, b"")
    errors = [line for line in ended.error.splitlines() if line.startswith("error: ")]
    assert [error.split(":")[1:3] for error in errors] == [
        [" b.yaml", " Pod default/agent cannot have a sidecar"],
        [" c.yaml", " line 2"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "error: a.yaml: No such file or directory\n", id="no such file"),
        pytest.param(b"a: \xff\n", "error: a.yaml: not UTF-8 at byte 3; save it as UTF-8\n", id="another encoding"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(run: Run, content: bytes | None, message: str) -> None:
    """With exit code 1."""
    if content is not None:
        Path("a.yaml").write_bytes(content)

    ended = run("-f", "a.yaml")

    assert (ended.code, ended.out, ended.error) == (1, b"", message)


def test_a_folder_without_manifests_is_an_error(run: Run) -> None:
    """It was meant to have some."""
    ended = run("-f", ".")

    assert (ended.code, ended.error) == (1, "error: .: the folder has no .yaml, .yml or .json file\n")


@pytest.mark.parametrize("text", ["sidecar: {port: 1}\n", "a: [\n"])
def test_wrong_values_are_an_error(run: Run, text: str) -> None:
    """Which names their file."""
    written(AGENT, text)

    ended = run("-f", "a.yaml", "--values", "b.yaml")

    assert (ended.code, ended.out) == (1, b"")
    assert ended.error.startswith("error: b.yaml: ")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing to read"),
        pytest.param(["-f", "-", "-f", "-"], id="standard input twice"),
        pytest.param(["-f", "-", "--policy", "Billing"], id="no policy's name"),
        pytest.param(["-f", "-", "--output", "json"], id="no such option"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    """And says how it is used."""
    ended = run(*arguments)

    assert (ended.code, ended.out) == (2, b"")
    assert "Usage: " in ended.error


@pytest.mark.parametrize(
    "command",
    [
        pytest.param([str(SCRIPTS / "flotilla")], id="flotilla"),
        pytest.param([sys.executable, "-m", "flotilla_cli"], id="python -m flotilla_cli"),
        pytest.param([kubectl_path(), "flotilla"], id="kubectl flotilla"),
    ],
)
def test_the_installed_program_reads_a_pipe(command: list[str]) -> None:
    """Under its own name, and as a plugin that kubectl finds by the name `kubectl-flotilla`."""
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}

    ended = subprocess.run(
        [*command, "inject", "-f", "-"],
        check=False,
        input=AGENT.encode(),
        capture_output=True,
        env=environment,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout.decode()) == (0, INJECTED)
    assert b"\x1b" not in ended.stderr


@pytest.mark.parametrize("missing", ["typer", "rich", "yaml"])
def test_without_its_extra_it_says_what_to_install(missing: str) -> None:
    """The operator's image has the package without what a command line needs."""
    program = f"import sys; sys.modules[{missing!r}] = None; from flotilla_cli.__main__ import main; main(['inject'])"

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr == f"error: {missing} is missing: pip install 'flotilla-operator[cli]'\n"


def test_messages_are_in_colour_on_a_terminal() -> None:
    """And there alone."""
    terminal, end = os.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color"}
    command = [SCRIPTS / "flotilla", "inject", "-f", "-"]
    try:
        subprocess.run(
            command, check=False, input=AGENT.encode(), stdout=subprocess.PIPE, stderr=end, env=environment, timeout=60
        )
        seen = os.read(terminal, 4096)
    finally:
        os.close(end)
        os.close(terminal)

    assert seen.startswith(b"\x1b[33mwarning: \x1b[0m")
