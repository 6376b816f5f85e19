"""`flotilla diff`: who moves from one model to another with another artifact, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .encoder import EmbedKeyEnv, EmbedUrl, connected
from .options import Examples, Output, Seed
from .reading import check_ids, judged, names_of, rankings, read_artifact, read_rows

if TYPE_CHECKING:
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.choosing import Setting
    from flotilla_learning.datasets import Example
    from flotilla_learning.diffing import Diff, Interval

_PROMPT_WIDTH = 72


def command(
    *,
    before: Annotated[Path, typer.Argument(metavar="A", help="The artifact that is in use: its folder or tar.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The artifact that would take its place.")],
    log: Annotated[
        Path,
        typer.Argument(
            metavar="LOG", help="An exported log, labelled or not, or a data set; B/test.jsonl for quality."
        ),
    ],
    threshold: Annotated[
        list[float] | None,
        typer.Option(metavar="T", min=0, max=1, help="The threshold of both; given twice: of A, then of B."),
    ] = None,
    strong_ratio: Annotated[
        float | None,
        typer.Option(metavar="R", min=0, max=1, help="Give each the threshold with this strong share of the log."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(metavar="A", min=0, max=1, help="The alpha of Cluster artifacts; given twice: of A, then of B."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=NAME", help="Name in the log of a model's id, as strategy.models. Default: the same."),
    ] = None,
    embed_url: EmbedUrl = None,
    embed_key_env: EmbedKeyEnv = None,
    examples: Examples = 3,
    seed: Seed = 0,
    output: Output = "table",
) -> None:
    """Compare two artifacts on one log.

    Says which prompts would be asked of another model with B than with A, what that costs by the dollars in the log,
    and, where rows are labelled with both outcomes, what it does to quality:

      flotilla diff router-10 router-11 router-11/test.jsonl --strong-ratio 0.3
    """
    from flotilla_learning.diffing import compare  # noqa: PLC0415 - the extra [train] may not be installed

    settings = _settings(threshold or (), strong_ratio, alpha or ())
    rows = read_rows(log)
    names = names_of(model)
    artifacts = connected([read_artifact(path) for path in (before, after)], embed_url, embed_key_env)
    check_ids(names, *artifacts)
    sides = zip((before, after), artifacts, settings, strict=True)
    chosen = [_choices(stored, rows, each, str(path)) for path, stored, each in sides]
    ours = [[names.get(each, each) for each in choices] for choices in chosen]
    diff = compare(rows, *ours, seed=seed, shown=examples)
    prompts = {row.id: row.prompt for row in rows}
    if output == "json":
        typer.echo(json.dumps(summarize(diff), indent=2))
    else:
        typer.echo("\n".join(screen(diff, prompts, ("A", "B"))))


def _settings(thresholds: Sequence[float], ratio: float | None, alphas: Sequence[float]) -> list[Setting]:
    """Of A and of B."""
    from flotilla_learning.choosing import Setting  # noqa: PLC0415

    if sum([bool(thresholds), ratio is not None, bool(alphas)]) != 1:
        raise typer.BadParameter("give one of --threshold, --strong-ratio and --alpha", param_hint="--threshold")
    if max(len(thresholds), len(alphas)) > 2:
        raise typer.BadParameter("there are two artifacts", param_hint="--threshold" if thresholds else "--alpha")
    if ratio is not None:
        return [Setting(strong_ratio=ratio)] * 2
    if thresholds:
        return [Setting(threshold=thresholds[0]), Setting(threshold=thresholds[-1])]
    return [Setting(alpha=alphas[0]), Setting(alpha=alphas[-1])]


def _choices(stored: Stored, rows: Sequence[Example], setting: Setting, name: str) -> list[str]:
    return [each[0] for each in rankings(stored, judged(stored, rows, name), setting, name)]


def screen(diff: Diff, prompts: Mapping[str, str], sides: tuple[str, str]) -> list[str]:
    """The lines of a comparison; `prompts` are those of the examples' ids."""
    from flotilla_learning.reports import dollars, one_line, table  # noqa: PLC0415

    lines = [f"{diff.moved:,} of {diff.prompts:,} prompts ({diff.moved / diff.prompts:.1%}) get another model"]
    lines.append(f"Dollars a request: {_shown(diff.usd_per_request, 'a model has no known cost in the log')}")
    unknown = "no row that moves has outcomes of both of its models"
    known = f"known of {diff.quality_rows:,} of {diff.moved:,} that move"
    quality = _shown(diff.quality, unknown if diff.moved else "the choices are the same")
    lines.append(f"Quality a request: {quality}" + (f" ({known})" if diff.quality else ""))
    shares = [[model, f"{old:.1%}", f"{new:.1%}"] for model, (old, new) in diff.shares.items()]
    lines += ["", *table([["MODEL", *sides], *shares])]
    for move in diff.moves:
        lines += ["", f"{move.before} -> {move.after}: {move.prompts:,} prompts, {dollars(move.usd)} in all"]
        lines += [f"  {one_line(prompts[each], _PROMPT_WIDTH)}" for each in move.examples]
    return lines


def _shown(interval: Interval | None, unknown: str) -> str:
    if interval is None:
        return f"not known: {unknown}"
    return f"{interval.value:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}]"


def summarize(diff: Diff) -> dict[str, Any]:
    """What `-o json` writes of a comparison."""
    return {
        "prompts": diff.prompts,
        "moved": diff.moved,
        "usdPerRequest": _interval(diff.usd_per_request),
        "quality": _interval(diff.quality),
        "qualityRows": diff.quality_rows,
        "shares": {model: {"before": old, "after": new} for model, (old, new) in diff.shares.items()},
        "moves": [
            {
                "before": move.before,
                "after": move.after,
                "prompts": move.prompts,
                "usd": move.usd,
                "examples": list(move.examples),
            }
            for move in diff.moves
        ],
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}
