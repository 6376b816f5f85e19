"""`flotilla label`: what the answers of a log are worth."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .encoder import endpoint_of
from .progress import bar

if TYPE_CHECKING:
    from flotilla_learning.chat import Endpoint
    from flotilla_learning.judging import Judge, Row

_SHOWN_REASONS = 5
_ROW_BEGINS = b'{"judgedBy": '


@dataclass(slots=True)
class Tally:
    """What became of the rows."""

    labelled: int = 0
    before: int = 0
    """Labelled by an earlier run."""
    broken: Counter[str] = field(default_factory=Counter[str])
    """Lines that hold no row, by reason."""
    failed: Counter[str] = field(default_factory=Counter[str])
    """Rows that could not be judged, by reason; another run tries them again."""


def command(
    *,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="JSON lines: an exported request log, or rows with answers.")
    ],
    target: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="Where labelled rows go; those that it holds are done."),
    ],
    judge_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Judge by a model behind this OpenAI-compatible API: its base URL."),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="MODEL", help="The judge model.")] = None,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the judge's API key.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Judge by the row's reference: the same text but for case and white space.")
    ] = False,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="With --exact: compare what its last match holds, such as '#### (.*)'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Judge by the row's reference: the same JSON value.")] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="With --json: the share of these keys that are equal. May be given again."),
    ] = None,
    reference: Annotated[
        str, typer.Option(metavar="FIELD", help="The row's field with a right answer; a judge model sees it, too.")
    ] = "reference",
    ask: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Ask this model for an answer where a row has none. May be given again."),
    ] = None,
    ask_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Whom --ask asks: a gateway, which knows models by their names.")
    ] = None,
    ask_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the gateway's API key.")
    ] = None,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Rows that are judged at once.")] = 4,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long an answer is waited for, up to 6 times.")
    ] = 120.0,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the counts are written: table or json.")
    ] = "table",
) -> None:
    """Judge the answers of a log.

    Each row gets what its answers are worth, from 0 to 1, by one of --judge-url, --exact and --json. Rows are written
    one by one, so a run that was cut off goes on where it stopped:

      flotilla label log.jsonl -o labelled.jsonl --judge-url https://api.example.com/v1 --judge-model big --key-env KEY
    """
    _check_usage((judge_url, judge_model, key_env), (exact, pattern), (as_json, key), (ask, ask_url, ask_key_env))
    judges = [] if judge_url is None else [endpoint_of(judge_url, judge_model or "", key_env, timeout, "--judge-url")]
    models = [endpoint_of(ask_url or "", model, ask_key_env, timeout, "--ask-url") for model in ask or ()]
    judge, judged_by = _judge(judges, exact, pattern, key)
    tally = Tally()
    try:
        with bar("rows", _lines(source)) as advance, _open(target) as out:
            done = _done(out, target, judged_by, models)
            rows = _rows(source, reference, done, tally)
            _label(rows, out, (judge, judged_by, models, concurrency), tally, advance)
    finally:
        _report(tally, target, summary)
    if tally.failed and not tally.labelled + tally.before:
        raise typer.Exit(1)


def _check_usage(
    by_model: tuple[str | None, str | None, str | None],
    by_text: tuple[bool, str | None],
    by_json: tuple[bool, list[str] | None],
    asking: tuple[list[str] | None, str | None, str | None],
) -> None:
    if sum([by_model[0] is not None, by_text[0], by_json[0]]) != 1:
        raise typer.BadParameter("give one of --judge-url, --exact and --json", param_hint="--judge-url")
    if (by_model[0] is None) != (by_model[1] is None):
        raise typer.BadParameter("--judge-url and --judge-model need each other", param_hint="--judge-model")
    if by_model[2] is not None and by_model[0] is None:
        raise typer.BadParameter("it belongs to --judge-url", param_hint="--key-env")
    if by_text[1] is not None and not by_text[0]:
        raise typer.BadParameter("it belongs to --exact", param_hint="--pattern")
    if by_json[1] and not by_json[0]:
        raise typer.BadParameter("it belongs to --json", param_hint="--key")
    if bool(asking[0]) != (asking[1] is not None):
        raise typer.BadParameter("--ask and --ask-url need each other", param_hint="--ask-url")
    if asking[2] is not None and not asking[0]:
        raise typer.BadParameter("it belongs to --ask", param_hint="--ask-key-env")


def _judge(judges: Sequence[Endpoint], exact: bool, pattern: str | None, keys: list[str] | None) -> tuple[Judge, str]:
    """And how a row says by what it was judged."""
    from flotilla_learning.judging import exact_judge, json_judge  # noqa: PLC0415
    from flotilla_learning.labelling import model_judge  # noqa: PLC0415

    if judges:
        return model_judge(judges[0]), f"model {judges[0].model}"
    if not exact:
        return json_judge(keys or ()), " ".join(["json", *(keys or ())])
    try:
        return exact_judge(None if pattern is None else re.compile(pattern)), f"exact {pattern or ''}".strip()
    except re.error as error:
        raise typer.BadParameter(f"{pattern!r} is no regular expression: {error}", param_hint="--pattern") from error


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("a+b")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _done(out: BinaryIO, path: Path, judged_by: str, models: Sequence[Endpoint]) -> set[str]:
    """Ids of the rows that are in the file; a last line that is not whole is cut off, as a run was.

    Raises:
        InputError: they were judged by something else, or are no labelled rows.
    """
    out.seek(0)
    done: set[str] = set()
    whole = 0
    for line in out:
        if not line.endswith(b"\n"):
            if not whole and not _is_begun(line):
                raise InputError(f"{path} holds something else than labelled rows; name another file")
            break
        whole += len(line)
        try:
            row = json.loads(line)
            before, identity, outcomes = row["judgedBy"], row["id"], row["outcomes"]
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path} holds something else than labelled rows; name another file") from error
        if before != judged_by:
            raise InputError(f"{path} holds rows judged by {before!r}, not {judged_by!r}; name another file")
        if any(model.model not in outcomes for model in models):
            raise InputError(f"{path} holds rows without outcomes of all models of --ask; name another file")
        done.add(identity)
    out.truncate(whole)
    return done


def _is_begun(tail: bytes) -> bool:
    """Whether it may be the beginning of a row that a run was writing."""
    return tail.startswith(_ROW_BEGINS) or _ROW_BEGINS.startswith(tail)


def _rows(source: Path, reference: str, done: set[str], tally: Tally) -> Iterator[Row]:
    """The rows that are to be judged; what is broken or done is counted."""
    from flotilla_learning.judging import RowError, parse_row  # noqa: PLC0415

    seen: set[str] = set()
    with source.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parse_row(line, default_id=str(number), reference=reference)
            except RowError as error:
                tally.broken[str(error)] += 1
                continue
            if row.id in seen:
                tally.broken["its id is that of a row before"] += 1
            elif row.id in done:
                tally.before += 1
            else:
                yield row
            seen.add(row.id)


def _label(
    rows: Iterator[Row],
    out: BinaryIO,
    how: tuple[Judge, str, Sequence[Endpoint], int],
    tally: Tally,
    advance: Callable[[int], object],
) -> None:
    from flotilla_learning.judging import format_row  # noqa: PLC0415
    from flotilla_learning.labelling import Failed, StoppedError, label_rows  # noqa: PLC0415

    judge, judged_by, models, at_once = how
    try:
        for each in label_rows(rows, judge, models, at_once=at_once):
            if isinstance(each, Failed):
                tally.failed[each.reason] += 1
            else:
                out.write(format_row(each, judged_by).encode("utf-8", "replace") + b"\n")
                out.flush()
                tally.labelled += 1
            advance(tally.labelled + tally.before + tally.failed.total() + tally.broken.total())
    except StoppedError as error:
        raise InputError(f"{error}; what was labelled is kept, and the same command goes on") from error


def _report(tally: Tally, target: Path, summary: str) -> None:
    for name, reasons in (("skipped", tally.broken), ("not judged", tally.failed)):
        for reason, count in reasons.most_common(_SHOWN_REASONS):
            say("warning", f"{count} row{'s' * (count > 1)} {name}: {reason}")
    counts = {
        "labelled": tally.labelled,
        "before": tally.before,
        "failed": tally.failed.total(),
        "broken": tally.broken.total(),
    }
    if summary == "json":
        typer.echo(json.dumps(counts))
        return
    typer.echo(
        f"{counts['labelled']} rows labelled, {counts['before']} were before, {counts['failed']} could not be judged, "
        f"{counts['broken']} broken: {target}"
    )
