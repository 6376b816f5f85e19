"""The program's commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from . import explain, inject, simulate
from .errors import InputError
from .learning import calibrate, diff, distill, evaluate, label, logs, pack, promote, shadow, train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("explain")(explain.command)
app.command("inject")(inject.command)
app.command("calibrate")(calibrate.command)
app.command("diff")(diff.command)
app.command("distill")(distill.command)
app.command("eval")(evaluate.command)
app.command("label")(label.command)
app.add_typer(logs.app, name="logs")
app.command("pack")(pack.command)
app.command("promote")(promote.command)
app.command("shadow")(shadow.command)
app.command("simulate")(simulate.command)
app.command("train")(train.command)


@app.callback()
def flotilla() -> None:
    """SLM-first fleets of language models on Kubernetes."""


def run(arguments: Sequence[str] | None) -> None:
    """Run a command and exit: 0 done, 1 refused or bad input, 2 wrong usage.

    Raises:
        SystemExit: always.
    """
    try:
        app(args=arguments)
    except InputError as error:
        inject.say("error", str(error))
        sys.exit(1)
