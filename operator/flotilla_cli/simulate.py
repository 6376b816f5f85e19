"""`flotilla simulate`: what scaling a fleet would cost on a trace, under its own rules and under others'.

What replays is imported when the command runs: it compiles, and other commands do without its extra.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from flotilla_api.meta import parse_duration_seconds

from .inject import say
from .sources import read_sources

if TYPE_CHECKING:
    from flotilla_simulation.comparison import Case, Choice, Comparison

    from .simulation import Prepared, Wishes

T = TypeVar("T")
_SUFFIXES = {".png", ".svg"}


def command(
    *,
    filename: Annotated[
        list[str],
        typer.Option(
            "-f",
            "--filename",
            metavar="FILE",
            help="Manifests of the fleet: a file, a folder, or - for standard input. May be given several times.",
        ),
    ],
    trace: Annotated[
        list[str],
        typer.Option(
            metavar="[EXPERT=]FILE",
            help="Requests: an Azure LLM inference trace, a router's request log or a ServeGen client. Without EXPERT "
            "it is shared by all Experts that have none of their own, by their weights.",
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=NUMBER]",
            help="flotilla, hpa-waiting, hpa-concurrency, keda, knative, static or oracle. With a number, of a "
            "replica, it is not tuned. May be given several times. Default: all of them.",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="USD", min=0, help="What one lost or late request costs. Default: by the cost of its Fallback."
        ),
    ] = None,
    speeds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[EXPERT=]LOG|PREFILL,BATCH,SEQUENCE",
            help="How fast an engine is: a router's request log to measure it in, or tokens a second of prompts, of a "
            "full batch and of one sequence. Default: estimated from model.parameters and the accelerator.",
        ),
    ] = None,
    cold_start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[EXPERT=]DURATION",
            help="From a pod's creation to its first answer. Default: what the operator assumes until it has seen one.",
        ),
    ] = None,
    mean_replicas: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Scale the rates of each trace so that its requests keep N replicas busy on average. Default: rates "
            "as they are.",
        ),
    ] = None,
    skip: Annotated[
        str, typer.Option(metavar="DURATION", help="Leave out the beginning of each trace, such as 24h.")
    ] = "0s",
    length: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="How much of each trace is taken. Default: all; of a ServeGen client 24h."
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="The beginning on which others' numbers are chosen; figures are of the rest. Default: a third.",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="TIME", help="The time of the traces' first second, for schedules and overrides.")
    ] = "2026-01-05T00:00:00Z",
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="How often what is random is drawn; figures are means.")
    ] = 1,
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", metavar="NAME", help="Namespace of objects that name none.")
    ] = "default",
    output: Annotated[
        Literal["table", "json"], typer.Option("-o", "--output", help="How it is written: table or json.")
    ] = "table",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw demand, replicas and losses; .png or .svg. With several Experts a file for each."
        ),
    ] = None,
) -> None:
    """Replay a trace against the fleet of these manifests.

    Each scaled Expert is replayed under the operator's own decisions and under what others scale with, whose numbers
    are chosen on the beginning of the trace. Written is what GPUs and lost or late requests cost on the rest:

      kubectl flotilla simulate -f fleet.yaml --trace requests.csv.gz
    """
    if plot is not None and plot.suffix not in _SUFFIXES:
        raise typer.BadParameter(f"{plot} must end in .png or .svg", param_hint="--plot")
    choices = _choices(policy)
    tuned = None if tune is None else _seconds(tune, "--tune")
    wishes = _wishes(trace, speeds, cold_start, (skip, length, start), (price, mean_replicas, seeds))
    prepared = _prepared(filename, namespace, wishes)
    comparisons = _compare(prepared, choices, tuned)
    if output == "json":
        _write_json(prepared, comparisons)
    else:
        _write_tables(prepared, comparisons)
    if plot is not None:
        _draw(plot, comparisons)


def _choices(given: Sequence[str] | None) -> list[Choice]:
    from flotilla_simulation.baselines import KINDS  # noqa: PLC0415
    from flotilla_simulation.comparison import POLICIES, Choice  # noqa: PLC0415

    found: list[Choice] = []
    for text in given or POLICIES:
        name, _, number = text.partition("=")
        if name not in POLICIES or (number and name not in KINDS):
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(POLICIES)}", param_hint="--policy")
        found.append(Choice(name, _number(number, "--policy") if number else None))
    return found


def _wishes(
    trace: Sequence[str],
    speeds: Sequence[str] | None,
    cold_start: Sequence[str] | None,
    times: tuple[str, str | None, str],
    numbers: tuple[float | None, float | None, int],
) -> Wishes:
    from flotilla_simulation.demand import Cut  # noqa: PLC0415

    from .simulation import Wishes  # noqa: PLC0415

    skip, length, start = times
    price, mean_replicas, seeds = numbers
    return Wishes(
        traces=_by_expert(trace, "--trace", str),
        speeds=_by_expert(speeds or (), "--speeds", str),
        cold_starts=_by_expert(cold_start or (), "--cold-start", lambda text: _seconds(text, "--cold-start")),
        cut=Cut(_seconds(skip, "--skip"), None if length is None else _seconds(length, "--length")),
        began=_time(start),
        price=price,
        mean_replicas=mean_replicas,
        seeds=seeds,
    )


def _by_expert(given: Sequence[str], option: str, read: Callable[[str], T]) -> Mapping[str, T]:
    found: dict[str, T] = {}
    for text in given:
        expert, equals, value = text.partition("=")
        name, said = (expert, value) if equals else ("", text)
        if name in found:
            raise typer.BadParameter(f"{text!r} is the second of its kind", param_hint=option)
        found[name] = read(said)
    return found


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _number(text: str, option: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise typer.BadParameter(f"{text!r} is no number above 0", param_hint=option)
    return found


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no RFC 3339 time", param_hint="--start") from error
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text!r} names no zone, such as Z", param_hint="--start")
    return found


def _prepared(filenames: Sequence[str], namespace: str, wishes: Wishes) -> list[Prepared]:
    from .simulation import prepare, read_fleet  # noqa: PLC0415

    fleet = read_fleet(read_sources(filenames), namespace)
    for warning in fleet.warnings:
        say("warning", warning)
    return prepare(fleet, wishes)


def _compare(prepared: Sequence[Prepared], choices: Sequence[Choice], tuned: float | None) -> list[Comparison]:
    """With a bar on standard error, where that is a terminal; several Experts on as many processors as there are."""
    from flotilla_simulation.comparison import compare, replays  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    sizes = [replays(each.case, choices) for each in prepared]
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("replays", total=sum(sizes))
        if len(prepared) == 1:
            return [compare(prepared[0].case, choices, lambda: bar.advance(task), tuned)]
        return _compare_at_once(prepared, choices, tuned, [partial(bar.advance, task, size) for size in sizes])


def _compare_at_once(
    prepared: Sequence[Prepared], choices: Sequence[Choice], tuned: float | None, done: Sequence[Callable[[], None]]
) -> list[Comparison]:
    """Experts share nothing in a replay, so each has a process of its own; `done` is called of each that is through."""
    processes = min(len(prepared), os.cpu_count() or 1)
    # Not forked: the bar has a thread, whose locks a child would inherit.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_compare_one, each.case, choices, tuned) for each in prepared]
        for future in as_completed(futures):
            done[futures.index(future)]()
    return [future.result() for future in futures]


def _compare_one(case: Case, choices: Sequence[Choice], tuned: float | None) -> Comparison:
    from flotilla_simulation.comparison import compare  # noqa: PLC0415

    return compare(case, choices, lambda: None, tuned)


def _write_json(prepared: Sequence[Prepared], comparisons: Sequence[Comparison]) -> None:
    from .figures import summarize, total  # noqa: PLC0415

    experts = [summarize(each, of.speeds_from) for of, each in zip(prepared, comparisons, strict=True)]
    fleet = [{"policy": name, "usd": usd} for name, usd in total(comparisons)]
    typer.echo(json.dumps({"experts": experts, "fleet": fleet}, indent=2))


def _write_tables(prepared: Sequence[Prepared], comparisons: Sequence[Comparison]) -> None:
    from .figures import best_usd, render, render_total  # noqa: PLC0415

    console = Console(soft_wrap=True, highlight=False, file=sys.stdout)
    for index, (of, comparison) in enumerate(zip(prepared, comparisons, strict=True)):
        lines = render(comparison, of.speeds_from)
        best = [row.usd == best_usd(comparison) for row in comparison.rows]
        styles = [*["bold"] * (len(lines) - len(best) - 1), "dim", *("green" if each else "" for each in best)]
        for line, style in zip(["", *lines] if index else lines, ["", *styles] if index else styles, strict=True):
            console.print(Text(line, style=style))
    for line in render_total(comparisons):
        console.print(Text(line))


def _draw(path: Path, comparisons: Sequence[Comparison]) -> None:
    from flotilla_simulation.plot import draw  # noqa: PLC0415

    from .errors import InputError  # noqa: PLC0415

    for comparison in comparisons:
        expert = comparison.case.expert.name
        own = path if len(comparisons) == 1 else path.with_stem(f"{path.stem}-{expert.name}")
        curves = {row.policy: row.series for row in comparison.rows if row.series is not None}
        try:
            draw(own, f"Expert {expert}", curves)
        except OSError as error:
            raise InputError(f"{own}: {error.strerror or error}") from error
