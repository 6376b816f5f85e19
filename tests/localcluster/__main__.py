"""`python -m localcluster`: a cluster that survives the shell, to try things by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from localcluster import daemon
from localcluster.binaries import BuildError, ensure_binaries
from localcluster.processes import ProcessError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when what it promises is true, 1 with a message on standard error otherwise."""
    arguments = _parser().parse_args(argv)
    try:
        return _perform(arguments)
    except (OSError, ValidationError, BuildError, ProcessError, TimeoutError, daemon.DaemonError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the control plane's programs into the cache")
    commands.add_parser("status", help="list the clusters that `up` started")
    for command, text in (
        ("up", "start a cluster that outlives the shell, and print its KUBECONFIG"),
        ("down", "stop a cluster and delete its files"),
        ("serve", "run a cluster in the foreground until a signal; what `up` starts"),
    ):
        commands.add_parser(command, help=text).add_argument("--name", default="local", type=daemon.valid_name)
    up = commands.choices["up"]
    up.add_argument("--contents", type=Path, help="JSON file with `nodes`, `images` (see config.py), `runner`")
    return parser


def _perform(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "build":
            print(ensure_binaries())
        case "up":
            ensure_binaries()
            already, state = daemon.up(arguments.name, _read_contents(arguments.contents))
            print(f"cluster {arguments.name} {'was already running' if already else 'is running'} at {state.url}")
            print(f"export KUBECONFIG={state.kubeconfig}")
        case "down":
            stopped = daemon.down(arguments.name)
            print(f"cluster {arguments.name} {'stopped' if stopped else 'was not running'}")
        case "serve":
            daemon.serve(arguments.name)
        case _:
            _print_status()
    return 0


def _read_contents(path: Path | None) -> daemon.Contents | None:
    return None if path is None else TypeAdapter(daemon.Contents).validate_json(path.read_bytes())


def _print_status() -> None:
    rows = [("NAME", "STATUS", "KUBECONFIG"), *((c.name, c.status, str(c.kubeconfig or "")) for c in daemon.clusters())]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, status, kubeconfig in rows:
        print(f"{name:<{widths[0]}}  {status:<{widths[1]}}  {kubeconfig}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
