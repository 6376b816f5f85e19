"""`flotilla simulate` as it is typed: whole screens, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Ended, Run

API = "flotilla.dev/v1alpha1"
ENGINE = ("--speeds", "8000,512,40", "--cold-start", "60s")
FEW = ("--policy", "flotilla", "--policy", "static=1", "--policy", "oracle")


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla simulate` in a folder of its own, which holds a fleet and a trace."""
    monkeypatch.chdir(tmp_path)
    written("fleet.yaml", *a_fleet())
    a_trace("trace.csv")

    def command(*arguments: str) -> Ended:
        return flotilla("simulate", *arguments)

    return command


def written(name: str, *manifests: dict[str, Any]) -> None:
    Path(name).write_text(yaml.safe_dump_all(manifests))


def an_object(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def an_expert(name: str = "invoice", **scaling: Any) -> dict[str, Any]:
    return an_object(
        "Expert",
        name,
        model={"uri": "hf://acme/small-7b", "parameters": "7B"},
        accelerator={"profile": "l4"},
        engine={"maxNumSeqs": 16},
        scaling={"min": 1, "max": 4, "objectives": {"ttftP95": "1s"}} | scaling,
    )


def a_policy(*experts: dict[str, Any]) -> dict[str, Any]:
    return an_object(
        "RoutingPolicy", "support", experts=list(experts), fallbacks=[{"name": "big"}], auth={"anonymous": True}
    )


FALLBACK = an_object(
    "Fallback",
    "big",
    external={"url": "https://api.example.com/v1", "model": "big-1"},
    cost={"inputPerMillionUSD": "5", "outputPerMillionUSD": "10"},
)
PROFILE = an_object("AcceleratorProfile", "l4", resource="nvidia.com/gpu", memoryGiB=22, hourlyUSD="0.80")


def a_fleet() -> Sequence[dict[str, Any]]:
    """An Expert that a Fallback of one cent a request stands in for."""
    return an_expert(), PROFILE, FALLBACK, a_policy({"name": "invoice"})


def a_trace(name: str, *, every: float = 2.0, seconds: float = 3600.0) -> None:
    """Requests of 1,000 and 80 tokens, as Azure publishes them."""
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    at = 0.0
    while at < seconds:
        lines.append(f"2026-01-05 {int(at // 3600):02d}:{int(at // 60 % 60):02d}:{at % 60:010.7f},1000,80")
        at += every
    Path(name).write_text("\n".join(lines) + "\n")


def test_screen_says_what_was_simulated_and_what_each_policy_pays(run: Run) -> None:
    """A steady load that one replica takes: all pay its hours, and nothing is lost. A quarter is the warm-up."""
    ended = run("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, *FEW)

    assert (ended.code, ended.error) == (0, "")
    assert ended.out == (
        "Expert default/invoice: 44m59s, 1,350 requests\n"
        "Prices: $0.80/h a replica, $0.0058 a lost or late request\n"
        "Engine: 16 slots, prefill 8,000, batch 512, one sequence 40 tokens/s (given), cold start 60 s\n"
        "\n"
        "POLICY     PARAMETER    USD   RATIO   GPU-HOURS   IN-TIME   ESCALATED   LATE   STARTS   REVERSALS   TTFT-P95\n"
        "flotilla               0.60   1.000         0.7   100.00%           0      0        0           0      0.35s\n"
        "static     1           0.60   1.000         0.7   100.00%           0      0        0           0      0.35s\n"
        "oracle                 0.60   1.000\n"
    )


def test_programs_get_json(run: Run) -> None:
    """With the prices, the engine and each seed's dollars."""
    ended = run("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, *FEW, "--seeds", "2", "-o", "json")
    found = json.loads(ended.out)

    (expert,) = found["experts"]
    assert (expert["name"], expert["lostRequestUSD"], expert["replicaUSDPerHour"]) == ("invoice", 0.0058, 0.8)
    assert [each["policy"] for each in expert["policies"]] == ["flotilla", "static", "oracle"]
    assert len(expert["policies"][0]["usdBySeed"]) == 2
    assert [each["policy"] for each in found["fleet"]] == ["flotilla", "static", "oracle"]


def test_baselines_are_tuned_on_the_beginning(run: Run) -> None:
    """On a third of the trace, or as long as is said; the screen says so, and shows the number."""
    arguments = ("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, "--policy", "static", "--policy", "keda")
    third, said = run(*arguments), run(*arguments, "--tune", "30m")

    assert "40m01s" in third.out or "39m59s" in third.out or "40m00s" in third.out
    assert "; baselines tuned on the 30m00s before\n" in said.out
    assert "\nstatic   1 " in said.out


def test_price_may_be_given(run: Run) -> None:
    """Where no Fallback has one, or another is asked about."""
    ended = run("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, *FEW, "--price", "0.5")

    assert "$0.5 a lost or late request\n" in ended.out


def test_experts_share_a_trace_by_weight_and_their_dollars_are_summed(run: Run) -> None:
    """Unless one has a trace of its own."""
    policy = a_policy({"name": "invoice", "weight": 3}, {"name": "general"})
    written("two.yaml", an_expert(), an_expert("general"), PROFILE, FALLBACK, policy)

    shared = run("-f", "two.yaml", "--trace", "trace.csv", *ENGINE, "--policy", "static=1", "-o", "json")
    own = run(
        "-f", "two.yaml", "--trace", "trace.csv", "--trace", "general=trace.csv", *ENGINE, "--policy", "static=1",
        "-o", "json",
    )  # fmt: skip

    counts = [each["policies"][0]["requests"] for each in json.loads(shared.out)["experts"]]
    assert sum(counts) == pytest.approx(1350, abs=2)
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.3)
    assert [each["policies"][0]["requests"] for each in json.loads(own.out)["experts"]] == [1350, 1350]
    assert json.loads(shared.out)["fleet"] == [{"policy": "static", "usd": pytest.approx(1.2, abs=0.01)}]


def test_an_expert_pays_the_same_whoever_is_replayed_beside_it(run: Run) -> None:
    """Experts are replayed at once, and written in one order, whichever is through first."""
    a_trace("long.csv", every=0.5)
    a_trace("short.csv", every=20.0)
    policy = a_policy({"name": "invoice"}, {"name": "general"})
    written("two.yaml", an_expert(), an_expert("general"), PROFILE, FALLBACK, policy)
    written("one.yaml", an_expert(), PROFILE, FALLBACK, policy)
    common = (*ENGINE, "--policy", "flotilla", "--policy", "keda", "-o", "json")

    alone = run("-f", "one.yaml", "--trace", "long.csv", *common)
    beside = run("-f", "two.yaml", "--trace", "invoice=long.csv", "--trace", "general=short.csv", *common)

    general, invoice = json.loads(beside.out)["experts"]
    assert [general["name"], invoice["name"]] == ["general", "invoice"]
    assert [invoice] == json.loads(alone.out)["experts"]


def test_rates_are_scaled_to_busy_replicas(run: Run) -> None:
    """A request takes 1,000/8,000 + 80/512 s of a replica: one every 0.28 s keeps one busy."""
    ended = run(
        "-f",
        "fleet.yaml",
        "--trace",
        "trace.csv",
        *ENGINE,
        "--policy",
        "static=2",
        "--mean-replicas",
        "1",
        "-o",
        "json",
    )

    requests = json.loads(ended.out)["experts"][0]["policies"][0]["requests"]
    assert requests == pytest.approx(2700 / (1000 / 8000 + 80 / 512), rel=0.03)


def test_schedule_holds_in_simulated_time(run: Run) -> None:
    """Three replicas from six minutes before the second half of the hour on, as the operator would ask for them."""
    written(
        "fleet.yaml",
        an_expert(schedules=[{"cron": "30 6 * * *", "duration": "1h", "min": 3}]),
        PROFILE, FALLBACK, a_policy({"name": "invoice"}),
    )  # fmt: skip
    arguments = ("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, "--policy", "flotilla", "-o", "json")

    morning = run(*arguments, "--start", "2026-01-05T06:00:00Z")
    night = run(*arguments)

    hours = [json.loads(each.out)["experts"][0]["policies"][0]["gpuHours"] for each in (morning, night)]
    assert hours[0] - hours[1] == pytest.approx(2 * 36 / 60, abs=0.05)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_is_a_picture(run: Run, suffix: str) -> None:
    """By its suffix."""
    ended = run("-f", "fleet.yaml", "--trace", "trace.csv", *ENGINE, *FEW, "--plot", f"a.{suffix}")

    assert (ended.code, ended.error) == (0, "")
    assert Path(f"a.{suffix}").read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_expert_without_scaling_is_left_out(run: Run) -> None:
    """With a warning; alone it is an error."""
    fixed = an_expert("fixed")
    del fixed["spec"]["scaling"]
    written("fixed.yaml", fixed)

    both = run("-f", "fleet.yaml", "-f", "fixed.yaml", "--trace", "trace.csv", *ENGINE, *FEW)
    alone = run("-f", "fixed.yaml", "--trace", "trace.csv")

    assert (both.code, both.error) == (0, "warning: Expert default/fixed has no spec.scaling: it is left out\n")
    assert alone.code == 1
    assert "there is nothing to simulate" in alone.error


@pytest.mark.parametrize(
    ("manifests", "message"),
    [
        pytest.param(
            [an_expert(), FALLBACK, a_policy({"name": "invoice"})],
            "error: Expert default/invoice: what its GPUs cost is not known; give AcceleratorProfile l4 with hourlyUSD "
            "with -f as well\n",
            id="no profile",
        ),
        pytest.param(
            [an_expert(), PROFILE],
            "error: Expert default/invoice: what a lost request costs is not known; give its RoutingPolicy and a "
            "Fallback with a cost with -f as well, or --price\n",
            id="no price",
        ),
        pytest.param(
            [PROFILE, an_expert(max=0)],
            "error: f.yaml:9: Expert default/invoice: spec.scaling.max: Input should be greater than or equal to 1\n",
            id="another schema",
        ),
        pytest.param(
            [PROFILE, PROFILE],
            "error: f.yaml:9: AcceleratorProfile l4 stands in f.yaml:1 as well; leave one out\n",
            id="twice",
        ),
    ],
)
def test_fleet_that_lacks_something_is_an_error(run: Run, manifests: Sequence[dict[str, Any]], message: str) -> None:
    """Which names the object and what to do."""
    written("f.yaml", *manifests)

    ended = run("-f", "f.yaml", "--trace", "trace.csv", *ENGINE)

    assert (ended.code, ended.out, ended.error) == (1, "", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "error: t: No such file or directory\n", id="no such file"),
        pytest.param("TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,2\n", "error: t:2: expected TIMESTAMP,", id="line"),
        pytest.param("a,b\n", "error: t:1: neither an Azure trace", id="another format"),
        pytest.param("{}\n", "error: t: holds no request\n", id="no request"),
    ],
)
def test_trace_that_cannot_be_read_is_an_error(run: Run, content: str | None, message: str) -> None:
    """Which names the file and the line."""
    if content is not None:
        Path("t").write_text(content)

    ended = run("-f", "fleet.yaml", "--trace", "t", *ENGINE)

    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith(message)
    assert ended.error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--trace", "other=trace.csv"], "there is no scaled Expert other", id="unknown expert"),
        pytest.param(["--trace", "trace.csv", "--skip", "2h"], "of which nothing is left", id="skipped"),
        pytest.param(
            ["--trace", "trace.csv", "--speeds", "trace.csv"], "trace.csv:1: no line of a router's", id="no log"
        ),
    ],
)
def test_what_options_ask_for_and_is_not_there_is_an_error(run: Run, arguments: list[str], message: str) -> None:
    """With exit code 1."""
    ended = run("-f", "fleet.yaml", *arguments)

    assert (ended.code, ended.out) == (1, "")
    assert message in ended.error


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no trace"),
        pytest.param(["--trace", "trace.csv", "--policy", "vpa"], id="no such policy"),
        pytest.param(["--trace", "trace.csv", "--policy", "oracle=1"], id="nothing to set"),
        pytest.param(["--trace", "trace.csv", "--policy", "keda=-1"], id="no number"),
        pytest.param(["--trace", "a", "--trace", "b"], id="two for all"),
        pytest.param(["--trace", "trace.csv", "--plot", "a.pdf"], id="no such picture"),
        pytest.param(["--trace", "trace.csv", "--start", "now"], id="no time"),
        pytest.param(["--trace", "trace.csv", "--tune", "1 hour"], id="no duration"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: list[str]) -> None:
    """And says how it is used."""
    ended = run("-f", "fleet.yaml", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert "Usage: " in ended.error


@pytest.mark.parametrize("missing", ["numba", "numpy"])
def test_without_its_extra_it_says_what_to_install(run: Run, missing: str) -> None:
    """Other commands do without."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from flotilla_cli.__main__ import main; "
        "main(['simulate', '-f', 'fleet.yaml', '--trace', 'trace.csv'])"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr == f"error: {missing} is missing: pip install 'flotilla-operator[cli,simulate]'\n"


def test_other_commands_do_not_import_what_replays() -> None:
    """Compiling takes time that `flotilla inject` does not have."""
    program = "import sys; import flotilla_cli.commands; print('numpy' in sys.modules, 'numba' in sys.modules)"

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout == "False False\n"
