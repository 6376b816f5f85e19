"""`flotilla shadow`: what a policy's shadow would have done, from its request log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import InputError

from .diff import screen, summarize
from .options import Examples, Output, Seed
from .reading import warn_of

if TYPE_CHECKING:
    from flotilla_learning.diffing import Diff
    from flotilla_learning.shadowing import ShadowLog, ShadowReading

_TARGET = re.compile(r"(?:routingpolicy|routingpolicies|rp|policy|policies)/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)")


def command(
    *,
    target: Annotated[str, typer.Argument(metavar="policy/NAME", help="The policy whose shadow is judged.")],
    log: Annotated[
        Path, typer.Option("-f", "--log", metavar="LOG", help="Its request log, exported, and labelled or not.")
    ],
    artifact: Annotated[
        str | None,
        typer.Option(metavar="sha256:HEX", help="The shadow's digest. Default: the last one that the log has."),
    ] = None,
    examples: Examples = 3,
    seed: Seed = 0,
    output: Output = "table",
) -> None:
    """Say what a policy's shadow would have changed.

    How often it agrees with the live choice, which requests it would have moved, and what that would have cost by what
    answers cost in the same log:

      flotilla shadow policy/support --log log.jsonl
    """
    from flotilla_learning.diffing import compare  # noqa: PLC0415 - the extra [train] may not be installed
    from flotilla_learning.shadowing import mean_costs  # noqa: PLC0415

    match = _TARGET.fullmatch(target)
    if match is None:
        raise typer.BadParameter(f"{target!r} is not policy/NAME", param_hint="target")
    reading = _read(log, match[1])
    warn_of(reading.unused, "not used")
    found = _chosen(reading, log, match[1], artifact)
    diff = compare(found.rows, found.live, found.shadow, seed=seed, shown=examples, prices=mean_costs(reading))
    if output == "json":
        typer.echo(json.dumps(_object(reading, found, diff), indent=2))
        return
    prompts = {row.id: row.prompt for row in found.rows}
    typer.echo("\n".join([*_head(reading, found, diff), *screen(diff, prompts, ("LIVE", "SHADOW"))]))


def _read(log: Path, policy: str) -> ShadowReading:
    from flotilla_learning.shadowing import read_shadow  # noqa: PLC0415

    try:
        with log.open("rb") as lines:
            return read_shadow(lines, policy)
    except OSError as error:
        raise InputError(f"{log}: {error.strerror or error}") from error


def _chosen(reading: ShadowReading, log: Path, policy: str, artifact: str | None) -> ShadowLog:
    if not reading.requests:
        raise InputError(f"{log} has no request of policy {policy}")
    if artifact is None and reading.logs:
        return max(reading.logs.values(), key=lambda each: each.last)
    if artifact not in reading.logs:
        known = ", ".join(sorted(reading.logs)) or "none; set spec.shadow of the policy"
        raise InputError(f"{log} has no request that {artifact or 'a shadow'} scored; there is {known}")
    return reading.logs[artifact]


def _head(reading: ShadowReading, found: ShadowLog, diff: Diff) -> list[str]:
    from flotilla_learning.shadowing import agreement  # noqa: PLC0415

    share, low, high = agreement(diff.prompts - diff.moved, diff.prompts)
    return [
        f"Shadow {found.artifact}: scored {diff.prompts:,} of {reading.requests:,} requests",
        f"Agreement: {share:.1%} [{low:.1%}, {high:.1%}]",
    ]


def _object(reading: ShadowReading, found: ShadowLog, diff: Diff) -> dict[str, Any]:
    from flotilla_learning.shadowing import agreement  # noqa: PLC0415

    share, low, high = agreement(diff.prompts - diff.moved, diff.prompts)
    return {
        "artifact": found.artifact,
        "requests": reading.requests,
        "agreement": {"value": share, "low": low, "high": high},
        **summarize(diff),
    }
