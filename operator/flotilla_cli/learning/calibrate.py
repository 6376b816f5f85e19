"""`flotilla calibrate`: an artifact's table of thresholds, and its score distribution, from other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flotilla_cli.errors import InputError

from .assessment import curve_lines
from .encoder import EmbedKeyEnv, EmbedUrl, connected
from .options import Prices
from .reading import check_ids, judged, names_of, read_artifact, read_data, with_ids


def command(
    *,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder, which is written anew.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Rows with outcomes of all its models, such as recent traffic.")
    ],
    target: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write another folder instead.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=NAME", help="Name in DATA of a model's id, as strategy.models. Default: the same."),
    ] = None,
    prices: Prices = None,
    embed_url: EmbedUrl = None,
    embed_key_env: EmbedKeyEnv = None,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the table is written: table or json.")
    ] = "table",
) -> None:
    """Calibrate an artifact.

    What each threshold, or alpha, gives is counted anew: the strong share, quality and cost. The scorer stays as it
    is; the artifact gets another digest. targetStrongRatio starts from this table, and drift is measured against it:

      flotilla calibrate router-11 last-week.jsonl -o router-12
    """
    from flotilla_learning.artifacts import recalibrated, write_artifact  # noqa: PLC0415 - [train] may be missing
    from flotilla_learning.assessing import complete  # noqa: PLC0415
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415

    if target is None and not source.is_dir():
        raise typer.BadParameter("a tar is not written anew: give the folder of the new artifact", param_hint="-o")
    (stored,) = connected([read_artifact(source)], embed_url, embed_key_env, writes=True)
    names = names_of(model)
    check_ids(names, stored)
    models = stored.artifact.manifest.models
    rows = complete(with_ids(read_data(data, prices=prices), names), models)
    if not rows:
        raise InputError(f"{data} has no row with outcomes of {', '.join(models)}")
    try:
        files = recalibrated(stored, judged(stored, rows, "rows"), rows)
        write_artifact(target or source, files)
    except TrainingError as error:
        raise InputError(f"{data}: {error}") from error
    except OSError as error:
        raise InputError(f"{target or source}: {error.strerror or error}") from error
    after = read_artifact(target or source)
    curve = after.artifact.manifest.calibration
    if summary == "json":
        points = [point.model_dump(exclude_none=True) for point in curve]
        typer.echo(json.dumps({"digest": after.artifact.digest, "rows": len(rows), "calibration": points}, indent=2))
        return
    typer.echo(f"{target or source}: {after.artifact.digest}, calibrated on {len(rows):,} rows")
    typer.echo("\n".join(["", *curve_lines(curve)]))
