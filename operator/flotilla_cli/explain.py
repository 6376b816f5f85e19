"""`flotilla explain`: why an Expert has the replicas that it has."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer
import yaml

from .cluster import Cluster, read
from .explanation import render, summarize

_TARGET = re.compile(r"(expert|experts|xp|experts\.flotilla\.dev)/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)")


def command(
    *,
    target: Annotated[str, typer.Argument(metavar="expert/NAME", help="What is to be explained.")],
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", metavar="NAME", help="Default: the context's.")
    ] = None,
    output: Annotated[
        Literal["table", "json", "yaml"], typer.Option("-o", "--output", help="How it is written: table, json or yaml.")
    ] = "table",
    kubeconfig: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: $KUBECONFIG, else ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the kubeconfig's current one.")] = None,
) -> None:
    """Say why an Expert has the replicas that it has.

    Written are the number that is right now and the rule that bound it, and the last changes with what they were made
    from, how old each value was, and what the next replica would have to save:

      kubectl flotilla explain expert/invoice -n agents
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise typer.BadParameter(f"{target!r} is not expert/NAME", param_hint="target")
    expert = read(Cluster(kubeconfig, context), "experts", namespace, match[2])
    if output == "table":
        typer.echo(render(expert, datetime.now(UTC)), nl=False)
    elif output == "json":
        typer.echo(json.dumps(summarize(expert), indent=2))
    else:
        typer.echo(yaml.safe_dump(summarize(expert), sort_keys=False), nl=False)
