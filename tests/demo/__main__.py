"""`make demo`, `make up` and `make down`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.markup import escape

from demo import report
from demo.bringup import bring_up, down, ready_seconds, up
from demo.session import Fleet, Session, run_session
from localcluster.binaries import BuildError
from localcluster.config import ImageSpec
from localcluster.daemon import DaemonError
from localcluster.processes import ProcessError
from localcluster.tools import CommandError
from realengine import environment as vllm
from stack.flotilla import ROOT, Stack, quickstart_api_key, quickstart_objects, quickstart_policy, running_stack

PIPED_WIDTH = 160
"""Columns of the tables where the output is no terminal."""
INTERRUPTED = 128 + signal.SIGINT
LOG_SECONDS = 10.0
DUMP = ROOT / "build" / "cluster-dumps" / "demo"
"""Everything about the cluster, where a promise was broken."""
NOTES = {
    "simulator": "answers from `simulated` come from no model; every hop to them is real",
    "vllm": "answers from a `real model` come from vLLM with a tiny model of random weights: words without sense; "
    "those from `simulated` come from no model; every hop is real",
}


def main() -> int:
    """Exit 0 when it ended well, 1 when it did not, and say why; 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "up", "down"], default="run")
    parser.add_argument("--engine", choices=list(NOTES), default="simulator")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    try:
        if arguments.command == "run":
            return run(console, arguments.engine)
        return up(console) if arguments.command == "up" else down(console)
    except (BuildError, CommandError, DaemonError, ProcessError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def run(console: Console, engine: str) -> int:
    """Cluster, chart, quickstart, questions with two disruptions, the tables; everything is cleaned up at the end."""
    console.rule("A real Kubernetes control plane, as plain processes")
    with ExitStack() as stack:
        flotilla = stack.enter_context(running_stack(name="demo", more_images=_more_images(engine)))
        bring_up(console, flotilla, engine)
        console.rule(f"40 questions through {flotilla.gateway_address(_namespace(), _policy())}")
        client = stack.enter_context(flotilla.client(_namespace(), _policy(), quickstart_api_key()))
        session = run_session(console, Fleet(flotilla, _namespace(), client, ready_seconds(engine)))
        broken = show(console, flotilla, session, engine)
        if broken:
            console.print(f"dumped to {flotilla.cluster.dump(DUMP)}", highlight=False, soft_wrap=True)
        console.print("cleaning up")
    for line in broken:
        console.print(f"[red]broken promise[/red]: {escape(line)}", highlight=False, soft_wrap=True)
    if not broken:
        console.print(
            "[green]every promise was kept[/green]: no question failed, drained pods finished their requests,"
        )
        console.print("committed streams ended in an error event, everything else was answered elsewhere")
    return int(bool(broken))


def show(console: Console, stack: Stack, session: Session, engine: str) -> list[str]:
    """Print the tables; the promises that were broken."""
    fallback = next(o for o in quickstart_objects() if o["kind"] == "Fallback")
    names = frozenset([fallback["metadata"]["name"]])
    wanted = {answer.request_id for answer in session.everything} - {"-"}
    lines = _request_lines(stack, wanted)
    console.print(report.answers_table(session.answers, lines, names))
    console.print(NOTES[engine], highlight=False)
    console.print(report.disruption_table("deleted: they drain", session.deletion, lines, names))
    console.print(report.disruption_table("killed", session.kill, lines, names))
    cost = fallback["spec"]["cost"]
    price = report.Price(float(cost["inputPerMillionUSD"]), float(cost["outputPerMillionUSD"]))
    console.print(report.totals_table(report.add_up(session.answers, lines, price, names)))
    missing = [f"no router logged request {request_id}" for request_id in sorted(wanted - lines.keys())]
    return session.broken_promises() + missing


def _request_lines(stack: Stack, wanted: set[str]) -> dict[str, Any]:
    """The routers' log lines of these requests; they are written a moment after the answer."""
    deadline = time.monotonic() + LOG_SECONDS
    while True:
        lines = report.read_request_lines(_router_logs(stack))
        if wanted <= lines.keys() or time.monotonic() > deadline:
            return dict(lines)
        time.sleep(0.2)


def _router_logs(stack: Stack) -> list[str]:
    selector = f"flotilla.dev/owner-kind=RoutingPolicy,flotilla.dev/owner={_policy()}"
    template = '{range .items[*]}{.metadata.name}{"\\n"}{end}'
    pods = stack.cluster.kubectl("get", "pods", "-n", _namespace(), "-l", selector, "-o", f"jsonpath={template}")
    return [stack.cluster.logs(_namespace(), pod, "router") for pod in pods.split()]


def _namespace() -> str:
    return quickstart_policy()["metadata"]["namespace"]


def _policy() -> str:
    return quickstart_policy()["metadata"]["name"]


def _more_images(engine: str) -> dict[str, ImageSpec]:
    return {vllm.ENGINE_IMAGE: vllm.make_image()} if engine == "vllm" else {}


if __name__ == "__main__":
    sys.exit(main())
