"""What the commands of learning read; what cannot be read is a sentence, and what is broken in it a warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .progress import bar

if TYPE_CHECKING:
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.choosing import Scores, Setting
    from flotilla_learning.datasets import Example

_SHOWN_REASONS = 5


def read_artifact(path: Path) -> Stored:
    """The artifact of a folder or tar.

    Raises:
        InputError: there is none, or a router would refuse it.
    """
    from flotilla_learning import artifacts  # noqa: PLC0415 - the extra [train] may not be installed

    try:
        return artifacts.read_artifact(path)
    except artifacts.UnusableError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def warn_of(reasons: Mapping[str, int], done: str) -> None:
    """Say what was not used, and how often, the most frequent reasons first."""
    for reason, count in Counter(reasons).most_common(_SHOWN_REASONS):
        say("warning", f"{count} row{'s' * (count > 1)} {done}: {reason}")


def read_rows(path: Path) -> list[Example]:
    """The rows of a log or of a data set of ours.

    Raises:
        InputError: there are none.
    """
    from flotilla_learning.datasets import read_examples  # noqa: PLC0415

    try:
        reading = read_examples(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    warn_of(Counter(each.reason for each in reading.broken), "skipped")
    if not reading.examples:
        raise InputError(f"{path} has no row that can be read")
    return list(reading.examples)


def read_data(path: Path, *, prices: Path | None = None, without: Path | None = None) -> list[Example]:
    """The rows of a data set of ours, of RouteLLM (.csv) or of LLMRouter (.json), near duplicates in one group.

    Args:
        prices: LLMRouter's table of models, which says what their answers cost; of .json only.
        without: RouteLLM's list of prompts that are left out, of any kind of data.

    Raises:
        InputError: there are none, or the file is of another kind.
    """
    from flotilla_learning.grouping import group_near_duplicates  # noqa: PLC0415
    from flotilla_learning.routellm import read_contaminated  # noqa: PLC0415

    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if prices is not None and kind != "json":
        raise typer.BadParameter("it belongs to LLMRouter's data (.json)", param_hint="--prices")
    left_out: Collection[str] = ()
    if without is not None:
        with _as_published(without):
            left_out = read_contaminated(without)
    rows = read_rows(path) if kind not in ("csv", "json") else _published_rows(path, kind, prices)
    kept = [row for row in rows if row.prompt not in left_out]
    if not kept:
        raise InputError(f"{path} has no row that is not among those of {without}")
    return list(group_near_duplicates(kept))


def _published_rows(path: Path, kind: str, prices: Path | None) -> Sequence[Example]:
    from flotilla_learning import llmrouter, routellm  # noqa: PLC0415

    table: Mapping[str, llmrouter.Price] = {}
    if prices is not None:
        with _as_published(prices):
            table = llmrouter.read_prices(prices)
    with _as_published(path):
        reading = routellm.read_routellm(path) if kind == "csv" else llmrouter.read_llmrouter(path, table)
    warn_of(Counter(each.reason for each in reading.broken), "skipped")
    if not reading.examples:
        raise InputError(f"{path} has no row that can be read")
    return reading.examples


@contextmanager
def _as_published(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error
    except (ValueError, LookupError, TypeError, EOFError) as error:
        raise InputError(f"{path} is not as RouteLLM or LLMRouter publish theirs: {error}") from error


def with_ids(rows: Sequence[Example], names: Mapping[str, str]) -> list[Example]:
    """The rows with outcomes by the artifact's ids, where data name the models otherwise."""
    ids = {name: identity for identity, name in names.items()}
    return [
        replace(row, outcomes={ids.get(name, name): outcome for name, outcome in row.outcomes.items()}) for row in rows
    ]


def judged(stored: Stored, rows: Sequence[Example], name: str) -> list[Scores]:
    """The artifact's scores of the rows, with a bar.

    Raises:
        InputError: one is no number, or there is no vector to score by.
    """
    from flotilla_learning.choosing import SettingError, judge_prompts  # noqa: PLC0415
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415

    prompts = [row.prompt for row in rows]
    with bar(name, len(rows)) as advance:
        try:
            if stored.vectors is not None:
                stored.vectors.fetch(prompts, advance)
            return judge_prompts(stored.judge, prompts, advance)
        except (SettingError, TrainingError) as error:
            raise InputError(f"{name}: {error}") from error


def rankings(stored: Stored, scores: Sequence[Scores], setting: Setting, name: str) -> list[tuple[str, ...]]:
    """The order in which the artifact asks its models, at this setting.

    Raises:
        InputError: it is none of its strategy.
    """
    from flotilla_learning.choosing import SettingError, rank  # noqa: PLC0415

    try:
        return rank(stored.artifact, scores, setting)
    except SettingError as error:
        raise InputError(f"{name}: {error}") from error


def names_of(given: Sequence[str] | None) -> dict[str, str]:
    """`ID=NAME` options: a model's id in an artifact, and its name in the log."""
    found: dict[str, str] = {}
    for text in given or ():
        identity, equals, name = text.partition("=")
        if not equals or not identity or not name or identity in found:
            raise typer.BadParameter(f"{text!r} is not ID=NAME, or the second for its ID", param_hint="--model")
        found[identity] = name
    return found


def check_ids(names: Mapping[str, str], *artifacts: Stored) -> None:
    """Every ID of the `--model` options is a model of one of these artifacts."""
    known = [model for stored in artifacts for model in stored.artifact.manifest.models]
    for identity in names:
        if identity not in known:
            found = ", ".join(dict.fromkeys(known))
            raise typer.BadParameter(f"{identity!r} is no model of the artifact, but {found} are", param_hint="--model")


def setting_of(threshold: float | None, strong_ratio: float | None, alpha: float | None) -> Setting:
    """The one of the three that is given."""
    from flotilla_learning.choosing import Setting  # noqa: PLC0415

    if sum(each is not None for each in (threshold, strong_ratio, alpha)) != 1:
        raise typer.BadParameter("give one of --threshold, --strong-ratio and --alpha", param_hint="--threshold")
    return Setting(threshold, strong_ratio, alpha)
