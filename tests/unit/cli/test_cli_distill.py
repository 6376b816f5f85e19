"""`flotilla distill` as it is typed: a table that embeds prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoders import a_folder, random_weights
from flotilla_api.artifact import EmbedderOptions
from flotilla_cli.__main__ import main
from flotilla_learning.distill import read_table
from flotilla_router.embedders import make_embedder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla distill` in a folder that holds an encoder in `mini`."""
    monkeypatch.chdir(tmp_path)
    Path("mini").mkdir()
    a_folder(Path("mini"), random_weights())

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["distill", *arguments])
        assert isinstance(ended.value.code, int)
        out, error = capsys.readouterr()
        return ended.value.code, out, error

    return command


def test_the_table_embeds_prompts(run: Run) -> None:
    """Of four whole words, one of them a Han character."""
    code, out, error = run("mini", "-o", "words.npz", "--dims", "2")

    data = Path("words.npz").read_bytes()
    assert (code, error) == (0, "")
    assert out == f"4 words x 2, {len(data):,} bytes  words.npz\n"
    dense = make_embedder("Static", EmbedderOptions(), read_table(data)).embed("Prime numbers").dense
    assert np.linalg.norm(dense) == pytest.approx(1)


def test_words_of_prompts_are_added(run: Run) -> None:
    """Three rows with `router` make it a word of the table."""
    Path("rows.jsonl").write_text('{"prompt": "router", "outcomes": {"a": {"quality": 1}}}\n' * 3)

    code, out, _ = run("mini", "-o", "words.npz", "--dims", "2", "--prompts", "rows.jsonl", "--summary", "json")

    assert code == 0
    size = Path("words.npz").stat().st_size
    assert json.loads(out) == {"words": 5, "dims": 2, "bytes": size, "file": "words.npz"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("none", "-o", "w.npz"), "none holds no encoder that can be read", id="no folder"),
        pytest.param(("mini", "-o", "w.npz", "--dims", "9"), "mini: 4 words are too few", id="too few words"),
        pytest.param(("mini", "-o", "no/w.npz", "--dims", "2"), "no/w.npz: No such file", id="nowhere to write"),
        pytest.param(("mini", "-o", "w.npz", "--prompts", "none"), "none: No such file", id="no prompts"),
    ],
)
def test_what_cannot_be_used_is_said(run: Run, arguments: tuple[str, ...], says: str) -> None:
    """In one line, with exit code 1 and no table."""
    code, out, error = run(*arguments)

    assert (code, out) == (1, "")
    assert says in error
    assert not Path("w.npz").exists()
