"""`flotilla inject`: the sidecar without the admission webhook."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .chart import CONTROL_URL
from .injection import Outcome, Wishes, inject
from .sources import STANDARD_INPUT, read_settings, read_sources

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SEPARATED = re.compile(r"(?:\s*(?:#[^\r\n]*)?[\r\n])*---(?!\S)")


def command(
    *,
    filename: Annotated[
        list[str],
        typer.Option(
            "-f",
            "--filename",
            metavar="FILE",
            help="Manifests to read: a file, a folder, or - for standard input. May be given several times.",
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Add this policy's sidecar to every pod template, and the label where it is missing."
        ),
    ] = None,
    namespace: Annotated[
        str,
        typer.Option(
            "-n", "--namespace", metavar="NAME", help="Namespace of objects that name none, as for kubectl apply."
        ),
    ] = "default",
    values: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Values that the chart was installed with. Default: the chart's own."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="The router's image for policies that name none. Default: the chart's."),
    ] = None,
    control_url: Annotated[
        str, typer.Option(metavar="URL", help="Address of the operator's control API.")
    ] = CONTROL_URL,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 and name the objects that would change.")
    ] = False,
) -> None:
    """Add the router as a sidecar to workloads.

    Those whose pod template has the label flotilla.dev/policy: NAME are written to standard output with what a sidecar
    needs; all else is written as it was, and doing so again changes nothing. For clusters without the admission
    webhook, or to have in Git what runs:

      kubectl flotilla inject -f deployment.yaml | kubectl apply -f -
    """
    _check_usage(filename, policy)
    sources = read_sources(filename)
    settings = read_settings(values, image=image, control_url=control_url)
    outcome = inject(sources, Wishes(settings, namespace, policy))
    _report(outcome)
    if outcome.errors:
        raise typer.Exit(1)
    if check:
        _check(outcome)
    else:
        _write(outcome.texts)


def _check_usage(filenames: Sequence[str], policy: str | None) -> None:
    if filenames.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can be read once", param_hint="-f")
    if policy is not None and not _NAME.fullmatch(policy):
        raise typer.BadParameter(f"{policy!r} cannot be a policy's name", param_hint="--policy")


def _report(outcome: Outcome) -> None:
    for warning in outcome.warnings:
        say("warning", warning)
    for error in outcome.errors:
        say("error", error)


def _check(outcome: Outcome) -> None:
    for each in outcome.injected:
        typer.echo(each)
    if outcome.injected:
        raise typer.Exit(1)


def _write(texts: Sequence[str]) -> None:
    """One stream: a marker stands between two files where the second has none of its own."""
    stream = sys.stdout.buffer
    for index, text in enumerate(texts):
        if index and not _SEPARATED.match(text):
            stream.write(b"---\n")
        stream.write(text.encode())
        if index + 1 < len(texts) and not text.endswith(("\r", "\n")):
            stream.write(b"\n")
    stream.flush()


def say(level: str, message: str) -> None:
    """Write a line to standard error, in colour where that is a terminal."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble((f"{level}: ", {"error": "bold red", "warning": "yellow"}[level]), message))
