"""`flotilla promote`: a policy's file with another artifact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say
from flotilla_cli.promotion import Promoted, Wanted, promote
from flotilla_cli.sources import STANDARD_INPUT, read_sources
from flotilla_learning.files import replace_files

StageOption = Literal["strategy", "canary", "shadow"]


def command(
    *,
    filename: Annotated[str, typer.Argument(metavar="POLICY.yaml", help="The policy's file, or - for standard input.")],
    artifact: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The artifact's ConfigMap; its path, URL or OCI reference where that is used. Default: as it is.",
        ),
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:HEX", help="The artifact's digest, as flotilla pack prints it.")
    ] = None,
    taken_from: Annotated[
        StageOption | None,
        typer.Option("--from", help="Take artifact and digest from the policy's canary or shadow instead."),
    ] = None,
    stage: Annotated[
        StageOption, typer.Option("--to", help="Which artifact of the policy is replaced: strategy, canary or shadow.")
    ] = "strategy",
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="The policy, where the file has several.")] = None,
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", metavar="NAME", help="Namespace of objects that name none.")
    ] = "default",
    output: Annotated[
        Literal["table", "json"], typer.Option("-o", "--output", help="How the change is written: table or json.")
    ] = "table",
) -> None:
    """Put another artifact into a policy's file.

    The file is edited in place, everything else stays to the byte: a line of diff for review, and another to roll
    back. From standard input the result goes to standard output:

      kubectl flotilla promote policy.yaml --artifact router-2026-11 --digest sha256:...
    """
    if (taken_from is None) == (digest is None) or (taken_from is not None and artifact is not None):
        raise typer.BadParameter("give either --digest, with or without --artifact, or --from", param_hint="--digest")
    if taken_from == stage:
        raise typer.BadParameter(f"{stage} is where it is promoted to", param_hint="--from")
    if filename == STANDARD_INPUT and output == "json":
        raise typer.BadParameter("from standard input the policy is what is written", param_hint="--output")
    (source,) = read_sources([filename])
    promoted = promote(source.text, Wanted(artifact, digest, stage, taken_from, policy, namespace))
    _write(filename, promoted, output)


def _write(filename: str, promoted: Promoted, output: str) -> None:
    if filename == STANDARD_INPUT:
        sys.stdout.buffer.write(promoted.text.encode())
        sys.stdout.buffer.flush()
        return
    if promoted.changes:
        try:
            replace_files({Path(filename): promoted.text.encode()})
        except OSError as error:
            raise InputError(f"{filename}: {error.strerror or error}") from error
    else:
        say("warning", f"{promoted.policy}: spec.{promoted.stage} has this artifact already; {filename} stays as it is")
    if output == "json":
        changes = {name: {"before": before, "after": after} for name, (before, after) in promoted.changes.items()}
        policy = {"namespace": promoted.policy.namespace, "name": promoted.policy.name}
        typer.echo(json.dumps({"policy": policy, "changes": changes}, indent=2))
        return
    for name, (before, after) in promoted.changes.items():
        typer.echo(f"{promoted.policy}: spec.{name}: {before} -> {after}")
