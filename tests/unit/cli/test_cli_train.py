"""`flotilla train`, `eval` and `calibrate` as they are typed, on prompts whose difficulty a word tells."""

from __future__ import annotations

import csv
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Ended, Run

from flotilla_learning.datasets import Example, Logged, Outcome, format_example, read_examples
from flotilla_learning.distill import write_table
from flotilla_router.artifact import read_tar

WORDS = [f"w{number}" for number in range(100, 400)]
MODELS = ("--models", "small,big")


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla` in a folder of its own, which holds labelled rows."""
    monkeypatch.chdir(tmp_path)
    written("data.jsonl", some_rows(160, seed=1))

    def command(*arguments: str) -> Ended:
        return flotilla(*arguments)

    return command


def some_rows(count: int, *, seed: int, hard: float = 0.4) -> list[Example]:
    """Every prompt has twelve words; the small model fails where one of them is `hard`. The big one costs 20 times."""
    draw = random.Random(seed)
    rows: list[Example] = []
    for number in range(count):
        words = draw.sample(WORDS, 12)
        is_hard = draw.random() < hard
        if is_hard:
            words[draw.randrange(12)] = "hard"
        small = Outcome(float(not is_hard), 0.001)
        rows.append(Example(f"r{number}", " ".join(words), {"small": small, "big": Outcome(1.0, 0.02)}))
    return rows


def written(name: str, rows: Sequence[Example]) -> None:
    Path(name).write_text("".join(format_example(row) + "\n" for row in rows))


def trained(run: Run, *arguments: str, out: str = "mine") -> Any:
    """What `flotilla train` says."""
    ended = run("train", "data.jsonl", *MODELS, "-o", out, "--summary", "json", *arguments)
    assert ended.code == 0, ended.error
    return json.loads(ended.out)


def test_artifact_learns_from_rows_and_is_judged_by_others(run: Run) -> None:
    """A fifth is held out and written beside it; who prefers `hard` recovers nearly all of the lead."""
    found = trained(run)

    test = read_examples(Path("mine/test.jsonl")).examples
    assert found["trainedRows"] + len(test) == 160
    assert found["heldOut"]["rows"] == len(test) == pytest.approx(32, abs=4)
    figures = found["heldOut"]["figures"]
    assert figures["apgr"]["value"] > 0.7
    assert figures["apgrLength"]["value"] == pytest.approx(0.5)
    assert figures["apgr"]["low"] <= figures["apgr"]["value"] <= figures["apgr"]["high"]
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert {each["name"]: each["value"] for each in manifest["metrics"]} == {
        name: figures[name]["value"] for name in ("apgr", "cpt50", "cpt80", "hypervolume")
    }
    assert manifest["models"] == ["small", "big"]


def test_same_seed_trains_the_same_artifact(run: Run) -> None:
    """To the byte; another seed holds other rows out."""
    first = trained(run, "--seed", "3")
    again = trained(run, "--seed", "3", out="again")
    other = trained(run, "--seed", "4", out="other")

    assert first["digest"] == again["digest"] != other["digest"]
    assert Path("mine/test.jsonl").read_bytes() == Path("again/test.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "bits"),
    [
        pytest.param((), 16, id="a linear scorer has a number for each bucket"),
        pytest.param(("--strategy", "Cluster"), 12, id="centroids have one for each bucket"),
        pytest.param(("--scorer", "SimilarityWeighted"), 10, id="so do prototypes"),
        pytest.param(("--scorer", "SimilarityWeighted", "--bits", "8"), 8, id="as it was asked for"),
    ],
)
def test_buckets_are_as_few_as_the_scorer_can_hold(run: Run, arguments: tuple[str, ...], bits: int) -> None:
    """So that its artifact fits a ConfigMap, and prototypes of thousands of rows an artifact."""
    trained(run, *arguments)

    files = [*Path("mine").glob("*.json*"), Path("mine/weights.npz")]
    manifest = json.loads(Path("mine/manifest.json").read_text())
    assert manifest["embedder"]["options"].get("bits", 16) == bits
    assert sum(each.stat().st_size for each in files if each.name != "test.jsonl") < 1 << 20


def test_evaluation_says_what_is_recovered_at_which_cost(run: Run) -> None:
    """A screen of figures and of the curve, from all strong to none."""
    trained(run)

    ended = run("eval", "mine", "mine/test.jsonl", "--plot", "curve.svg")

    lines = ended.out.splitlines()
    assert (ended.code, ended.error) == (0, "")
    assert lines[0].startswith("mine/test.jsonl: ")
    titles = [line[:28].rstrip() for line in lines[2:12]]
    assert titles == [
        "FIGURE",
        "APGR",
        "  random",
        "  prompt length alone",
        "  oracle",
        "CPT(50)",
        "CPT(80)",
        "hypervolume",
        "quality, weak model alone",
        "quality, strong model alone",
    ]
    assert lines[13].split() == ["THRESHOLD", "STRONG", "QUALITY", "USD/REQUEST"]
    assert lines[14].split() == ["0", "100.0%", "1", "0.02"]
    assert lines[-1].split()[1] == "0.0%"
    assert Path("curve.svg").read_text().startswith("<?xml")


def test_every_strategy_trains_and_is_evaluated(run: Run) -> None:
    """Cluster by its utility; QualityGap by each label; similarity instead of a plane."""
    trained(run, "--strategy", "Cluster", out="cluster")
    for label in ("Det", "Prob", "Trans"):
        trained(run, "--strategy", "QualityGap", "--label", label, out=f"gap-{label}")

    cluster = json.loads(run("eval", "cluster", "cluster/test.jsonl", "-o", "json").out)
    gap = json.loads(run("eval", "gap-Prob", "gap-Prob/test.jsonl", "-o", "json").out)

    assert cluster["figures"]["qualityBestSingle"]["value"] == 1.0
    assert cluster["figures"]["usdOracle"]["value"] < 0.02
    assert cluster["curve"][0].keys() == {"alpha", "strongRatio", "quality", "usdPerRequest"}
    assert gap["figures"]["apgr"]["value"] > 0.7
    assert {each["model"]: each["usd"] for each in gap["models"]} == pytest.approx({"small": 0.001, "big": 0.02})


def test_word_vectors_are_trained_on_and_shipped(run: Run) -> None:
    """The artifact carries the table, with or without hashed n-grams beside it."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(len(WORDS) + 1, 16)).astype(np.float16)
    vectors[-1] *= 5  # a word that says much
    vocabulary = np.frombuffer("\n".join([*WORDS, "hard"]).encode(), np.uint8)
    Path("table.npz").write_bytes(write_table({"vocabulary": vocabulary, "vectors": vectors}))

    for embedder in ("static", "both"):
        found = trained(run, "--embedder", embedder, "--vectors", "table.npz", out=embedder)

        assert found["heldOut"]["figures"]["apgr"]["value"] > 0.7
        weights = np.load(f"{embedder}/weights.npz")
        assert np.array_equal(weights["vectors"], vectors)


def test_a_table_of_word_vectors_is_used_beside_hashed_words(run: Run) -> None:
    """Nothing else need be said: folds of published labels prefer both to either."""
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 16)).astype(np.float16)
    vocabulary = np.frombuffer("\n".join(WORDS).encode(), np.uint8)
    Path("table.npz").write_bytes(write_table({"vocabulary": vocabulary, "vectors": vectors}))

    trained(run, "--vectors", "table.npz")
    trained(run, out="without")

    names = [json.loads(Path(each, "manifest.json").read_text())["embedder"]["name"] for each in ("mine", "without")]
    assert names == ["HashedStatic", "Hashed"]


def test_published_tables_are_read(run: Run) -> None:
    """RouteLLM's, gzipped, without what is contaminated, and LLMRouter's with their prices."""
    rows = some_rows(80, seed=2)
    with gzip.open("theirs.csv.gz", "wt", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "small", "big"])
        table.writerows([[row.prompt, bool(row.outcomes["small"].quality), True] for row in rows])
    Path("bad.jsonl").write_text(json.dumps({"eval_prompt": rows[0].prompt}) + "\n")
    scores = [
        {"question": row.prompt, "scores": {model: row.outcomes[model].quality for model in ("small", "big")}}
        for row in rows
    ]
    Path("theirs.json").write_text(json.dumps(scores))
    prices = {"small": {"input_price": 0.2, "output_price": 0.2}, "big": {"input_price": 4, "output_price": 4}}
    Path("prices.json").write_text(json.dumps(prices))

    routellm = run(
        "train", "theirs.csv.gz", *MODELS, "-o", "a", "--without", "bad.jsonl", "--summary", "json", "--holdout", "0"
    )
    llmrouter = run(
        "train", "theirs.json", *MODELS, "-o", "b", "--prices", "prices.json", "--summary", "json", "--holdout", "0"
    )

    assert json.loads(routellm.out)["trainedRows"] == 79
    assert json.loads(llmrouter.out)["trainedRows"] == 80
    assert "no row is held out" in routellm.error
    manifest = json.loads(Path("b/manifest.json").read_text())
    assert set(manifest["prices"]) == {"small", "big"}
    points = manifest["calibration"]
    assert points[0]["usdPerRequest"] == pytest.approx(20 * points[-1]["usdPerRequest"])


def test_calibration_counts_shares_anew_and_keeps_the_scorer(run: Run) -> None:
    """On harder traffic a threshold sends more to the strong model; the artifact gets another digest."""
    trained(run)
    written("harder.jsonl", some_rows(200, seed=9, hard=0.8))
    before = json.loads(Path("mine/manifest.json").read_text())

    ended = run("calibrate", "mine", "harder.jsonl", "-o", "other", "--summary", "json")

    after = json.loads(Path("other/manifest.json").read_text())
    found = json.loads(ended.out)
    packed = json.loads(run("pack", "other", "-o", "other.tar", "--summary", "json").out)
    assert found["digest"] == packed["digest"]
    assert found["calibration"] == after["calibration"]
    assert after["files"] == before["files"]
    assert read_tar(Path("other.tar").read_bytes())["weights.npz"] == Path("mine/weights.npz").read_bytes()
    assert sum(after["scores"]) > sum(before["scores"])
    assert after["metrics"] == before["metrics"]


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("manifest.json.new", id="the manifest cannot be written"),
        pytest.param("weights.npz.new", id="the weights cannot be written"),
    ],
)
def test_artifact_that_cannot_be_written_anew_stays_whole(run: Run, obstacle: str) -> None:
    """As on a full disk: the folder holds what it held, which a router takes, and nothing half done beside it."""
    trained(run)
    written("harder.jsonl", some_rows(200, seed=9, hard=0.8))
    Path("mine", obstacle).mkdir()
    before = contents("mine")

    ended = run("calibrate", "mine", "harder.jsonl")

    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith("error: mine: ")
    assert contents("mine") == before


def contents(folder: str) -> dict[str, bytes | None]:
    """What is in a folder; of folders in it only their names."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in Path(folder).iterdir()}


def test_data_may_name_the_models_otherwise(run: Run) -> None:
    """An artifact of published tables is judged, and calibrated, by a log of one's own."""
    trained(run)
    rows = [
        replace(row, outcomes={"invoice": row.outcomes["small"], "gpt": row.outcomes["big"]})
        for row in some_rows(60, seed=3)
    ]
    written("ours.jsonl", rows)
    names = ("--model", "small=invoice", "--model", "big=gpt")

    unknown = run("eval", "mine", "ours.jsonl")
    found = run("eval", "mine", "ours.jsonl", *names, "-o", "json")
    calibrated = run("calibrate", "mine", "ours.jsonl", "-o", "other", *names, "--summary", "json")

    assert (unknown.code, found.code, calibrated.code) == (1, 0, 0)
    assert "error: ours.jsonl has 0 rows with outcomes of small, big: two are needed" in unknown.error
    assert json.loads(found.out)["rows"] == json.loads(calibrated.out)["rows"] == 60


def a_log(count: int, explored: float, *, seed: int = 5) -> list[Example]:
    """Choices by a coin that knows nothing, so often; else always the small model, with the probabilities of that."""
    draw = random.Random(seed)
    rows: list[Example] = []
    for row in some_rows(count, seed=seed):
        is_big = draw.random() < explored / 2
        model, propensity = ("big", explored / 2) if is_big else ("small", 1 - explored / 2)
        outcome = row.outcomes[model]
        rows.append(Example(row.id, row.prompt, {model: outcome}, logged=Logged(model, propensity, {}, outcome)))
    return rows


def test_log_with_exploration_judges_an_artifact(run: Run) -> None:
    """What it would have come to is 1 for quality, as its choices have it right, and the interval says so."""
    trained(run, "--holdout", "0")
    written("log.jsonl", a_log(2000, 0.5))

    ended = run("eval", "mine", "--offpolicy", "log.jsonl", "--strong-ratio", "0.4", "-o", "json")

    found = json.loads(ended.out)["offPolicy"]
    truth = 1 - 0.4 * 0.0  # the 40 % that are hard go to the big model, which is always right
    assert ended.code == 0, ended.error
    assert found["logged"]["quality"]["value"] == pytest.approx(0.7, abs=0.05)
    assert found["shares"]["big"]["artifact"] == pytest.approx(0.4, abs=0.01)
    for name in ("doublyRobust", "selfNormalised", "ips"):
        assert found["quality"][name]["low"] - 0.05 <= truth <= found["quality"][name]["high"] + 0.05
    assert found["usd"]["doublyRobust"]["value"] == pytest.approx(0.4 * 0.02 + 0.6 * 0.001, rel=0.1)


def test_choices_are_among_those_that_might_have_answered(run: Run) -> None:
    """Where the big model might not, the small one would have been asked; where neither might, nothing is judged."""
    trained(run, "--holdout", "0")
    rows = a_log(900, 0.5)
    narrowed = [
        replace(row, logged=replace(row.logged, candidates=("other",) if number % 3 else ("small", "other")))
        for number, row in enumerate(rows)
        if row.logged is not None and row.logged.model == "small"
    ]
    written("log.jsonl", [replace(row, logged=replace(row.logged, propensity=1.0)) for row in narrowed if row.logged])

    ended = run("eval", "mine", "--offpolicy", "log.jsonl", "--threshold", "0", "-o", "json")

    found = json.loads(ended.out)["offPolicy"]
    assert ended.code == 0
    assert found["shares"] == {"small": {"logged": 1.0, "artifact": 1.0}}
    assert f"{len(narrowed) - found['rows']} rows not used: none of the artifact's models" in ended.error


def test_log_without_exploration_is_no_answer(run: Run) -> None:
    """Exit code 1, and what to do; what the log itself came to is shown."""
    trained(run, "--holdout", "0")
    written("log.jsonl", a_log(500, 0.0))

    ended = run("eval", "mine", "--offpolicy", "log.jsonl", "--strong-ratio", "0.4")

    assert ended.code == 1
    assert "No estimate: NoSupport: big would be chosen, but no row of the log chose it" in ended.out
    assert "logged choices" in ended.out


def test_log_screen_shows_three_estimates(run: Run) -> None:
    """Beside what was logged."""
    trained(run, "--holdout", "0")
    written("log.jsonl", a_log(1000, 0.5))

    ended = run("eval", "mine", "--offpolicy", "log.jsonl", "--threshold", "0.5")

    lines = ended.out.splitlines()
    assert lines[0].startswith("log.jsonl: 1,000 logged choices, worth ")
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        "ESTIMATE",
        "logged choices",
        "artifact, DR",
        "artifact, SNIPS",
        "artifact, IPS",
    ]


def test_broken_rows_are_counted_reported_and_skipped(run: Run) -> None:
    """Also those that lack an outcome."""
    with Path("data.jsonl").open("a") as file:
        file.write('{\n{"prompt": "x"}\n{"prompt": "only one", "outcomes": {"small": {"quality": 1}}}\n')

    ended = run("train", "data.jsonl", *MODELS, "-o", "mine", "--holdout", "0")

    assert ended.code == 0
    assert "warning: 1 row skipped: no JSON" in ended.error
    assert "warning: 1 row skipped: outcomes is no object" in ended.error
    assert "warning: 1 rows not trained on: they lack an outcome of small, big" in ended.error


def test_prompts_are_left_out_of_data_of_any_kind(run: Run) -> None:
    """Contaminated prompts would be trained on without a word otherwise."""
    lines = [json.dumps({"eval_prompt": row.prompt}) for row in some_rows(160, seed=1)[:40]]
    Path("without.jsonl").write_text("\n".join(lines))

    found = trained(run, "--without", "without.jsonl", "--holdout", "0")

    assert found["trainedRows"] == 120


@pytest.mark.parametrize("command", [("eval", "mine", "data.jsonl"), ("calibrate", "mine", "data.jsonl", "-o", "b")])
def test_model_that_the_artifact_lacks_cannot_be_renamed(run: Run, command: tuple[str, ...]) -> None:
    """A slip in an ID would leave its rows out."""
    trained(run, "--holdout", "0")

    ended = run(*command, "--model", "smal=small")

    assert ended.code == 2
    assert "no model of the artifact" in ended.error


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        pytest.param(("--prices", "p.json"), "--prices", id="prices of rows with dollars"),
        pytest.param(("--strategy", "Cluster", "--scorer", "Linear"), "--scorer", id="a scorer of clusters"),
        pytest.param(("--label", "Det"), "--label", id="a label of WinRate"),
        pytest.param(("--embedder", "hashed", "--vectors", "t"), "--vectors", id="vectors of hashed words"),
        pytest.param(("--embedder", "static", "--bits", "8"), "--bits", id="buckets of vectors"),
    ],
)
def test_option_that_would_be_ignored_is_refused(run: Run, arguments: tuple[str, ...], option: str) -> None:
    """Before anything is read or written."""
    ended = run("train", "data.jsonl", *MODELS, "-o", "a", *arguments)

    assert (ended.code, Path("a").exists()) == (2, False)
    assert option in ended.error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("train", "none.jsonl", *MODELS, "-o", "a"), 1, "none.jsonl: No such file", id="no data"),
        pytest.param(("train", "data.jsonl", "--models", "small", "-o", "a"), 2, "", id="one model"),
        pytest.param(("train", "data.jsonl", "--models", "small,small", "-o", "a"), 2, "", id="one model twice"),
        pytest.param(
            ("train", "data.jsonl", "--models", "small,huge", "-o", "a"), 1, "0 of 1", id="a model that has no rows"
        ),
        pytest.param(
            ("train", "data.jsonl", *MODELS, "-o", "a", "--embedder", "static"), 1, "needs a table", id="no vectors"
        ),
        pytest.param(
            ("train", "data.jsonl", *MODELS, "-o", "a", "--embedder", "both", "--vectors", "data.jsonl"),
            1,
            "data.jsonl: this is no table of words",
            id="no table",
        ),
        pytest.param(("eval", "mine"), 2, "", id="nothing to judge by"),
        pytest.param(
            ("eval", "mine", "--offpolicy", "x", "--alpha", "1", "--without", "x"), 2, "", id="prompts of no data"
        ),
        pytest.param(("eval", "mine", "data.jsonl", "--threshold", "0.5"), 2, "", id="a setting of no log"),
        pytest.param(("eval", "mine", "--offpolicy", "data.jsonl"), 2, "", id="a log without a setting"),
        pytest.param(("eval", "mine", "data.jsonl", "--plot", "a.pdf"), 2, "", id="no picture"),
        pytest.param(("eval", "mine", "data.jsonl"), 1, "mine: No such file", id="no artifact"),
        pytest.param(("calibrate", "mine", "data.jsonl"), 2, "", id="nothing to calibrate"),
    ],
)
def test_wrong_input_is_told(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """In a sentence, and nothing is written."""
    ended = run(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error
    assert not Path("a").exists()


def test_log_that_nobody_labelled_is_told(run: Run) -> None:
    """It has choices, but nothing that came of them."""
    trained(run, "--holdout", "0")
    logged = Logged("small", 0.5)
    written("log.jsonl", [Example(row.id, row.prompt, {}, logged=logged) for row in some_rows(9, seed=1)])

    ended = run("eval", "mine", "--offpolicy", "log.jsonl", "--threshold", "0.5")

    assert ended.code == 1
    assert "error: log.jsonl has no row that can be used: no choice, no propensity or no outcome" in ended.error


def test_missing_extra_is_named() -> None:
    """What trains is not installed with the command line alone."""
    program = "import sys; sys.modules['numpy'] = None; from flotilla_cli.__main__ import main; main()"
    command = [sys.executable, "-c", program, "train", "x.jsonl", *MODELS, "-o", "y"]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 2
    assert ended.stderr == "error: numpy is missing: pip install 'flotilla-operator[cli,train]'\n"
