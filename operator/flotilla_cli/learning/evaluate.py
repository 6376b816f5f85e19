"""`flotilla eval`: how well an artifact chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .assessment import assess_rows, check_plot, draw_plot, screen, summarize
from .encoder import EmbedKeyEnv, EmbedUrl, connected
from .offpolicy import Question, is_refused, judge_log, lines_of, object_of
from .options import Output, Prices, Seed, Without
from .reading import check_ids, names_of, read_artifact, read_data, setting_of, with_ids


def command(
    *,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder or tar.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="Rows with outcomes of all its models that it was not trained on, such as DIR/test.jsonl.",
            show_default=False,
        ),
    ] = None,
    offpolicy: Annotated[
        Path | None,
        typer.Option(
            metavar="LOG",
            help="Judge it as well by a labelled log of choices that were partly random, such as DIR/test.jsonl; rows "
            "that it was trained on say nothing.",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="T", min=0, max=1, help="With --offpolicy: its threshold.")
    ] = None,
    strong_ratio: Annotated[
        float | None,
        typer.Option(metavar="R", min=0, max=1, help="With --offpolicy: the threshold with this strong share of LOG."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(metavar="A", min=0, max=1, help="With --offpolicy: its alpha, of Cluster.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=NAME", help="Name in DATA and LOG of a model's id, as strategy.models. Default: the same."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curve of cost and quality; .svg or .png.")
    ] = None,
    prices: Prices = None,
    without: Without = None,
    embed_url: EmbedUrl = None,
    embed_key_env: EmbedKeyEnv = None,
    seed: Seed = 0,
    output: Output = "table",
) -> None:
    """Say how well an artifact chooses.

    On DATA: the recovered lead of the strong model (APGR, CPT), hypervolume and curve, beside the oracle, chance,
    the prompt's length alone and single models. From a log with explored choices: what it would have come to.

      flotilla eval router-11 router-11/test.jsonl --plot curve.svg
      flotilla eval router-11 --offpolicy router-11/test.jsonl --threshold 0.42
    """
    settings = (threshold, strong_ratio, alpha)
    _check_usage((data, plot, prices, without), (offpolicy, settings))
    names = names_of(model)
    question = None if offpolicy is None else Question(offpolicy, setting_of(*settings), names, seed)
    (stored,) = connected([read_artifact(source)], embed_url, embed_key_env)
    check_ids(names, stored)
    written: dict[str, object] = {"artifact": stored.artifact.digest}
    lines: list[str] = []
    if data is not None:
        rows = with_ids(read_data(data, prices=prices, without=without), names)
        assessment = assess_rows(stored, rows, str(data), seed=seed)
        written |= summarize(assessment)
        lines += [f"{data}: {assessment.rows:,} rows", "", *screen(assessment)]
        if plot is not None:
            draw_plot(plot, f"{source.name} on {data.name}", assessment)
    refused = False
    if question is not None:
        found = judge_log(stored, question)
        refused = is_refused(found)
        written["offPolicy"] = object_of(found)
        lines += ["", *lines_of(question.log, found)] if lines else lines_of(question.log, found)
    typer.echo(json.dumps(written, indent=2) if output == "json" else "\n".join(lines))
    if refused:
        raise typer.Exit(1)


def _check_usage(
    on_data: tuple[Path | None, Path | None, Path | None, Path | None],
    on_log: tuple[Path | None, tuple[float | None, float | None, float | None]],
) -> None:
    (data, plot, prices, without), (offpolicy, settings) = on_data, on_log
    check_plot(plot)
    if data is None and offpolicy is None:
        raise typer.BadParameter("give DATA, --offpolicy, or both", param_hint="DATA")
    if data is None and plot is not None:
        raise typer.BadParameter("the curve is that of DATA", param_hint="--plot")
    if data is None and (prices is not None or without is not None):
        raise typer.BadParameter("it belongs to DATA", param_hint="--without" if prices is None else "--prices")
    if offpolicy is None and any(each is not None for each in settings):
        raise typer.BadParameter("it belongs to --offpolicy", param_hint="--threshold")
