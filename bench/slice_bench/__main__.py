"""Runs every measurement, prints the figures as a table and writes them to build/bench/slice.json."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from slice_bench import operator, router
from slice_bench.proxies import envoy_version
from slice_bench.router import Cost

OUTPUT = Path("build/bench/slice.json")
CPU: Callable[[Cost], float] = lambda cost: cost.cpu_us_per_request  # noqa: E731 - a column, not a function to call
RATE: Callable[[Cost], float] = lambda cost: cost.requests_per_second  # noqa: E731
EVENT: Callable[[Cost], float] = lambda cost: cost.cpu_us_per_request * cost.requests / cost.events  # noqa: E731


def main() -> int:
    """Exit 0 when every figure was taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["router", "operator"], help="take only these figures")
    only = parser.parse_args().only
    console = Console()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        if only != "operator":
            figures |= _router_figures(console, Path(folder))
        if only != "router":
            figures |= _operator_figures(console)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"written to {OUTPUT}")
    return 0


def _router_figures(console: Console, scratch: Path) -> dict[str, float]:
    rounds = 2 * router.ROUNDS * len(router.STARTERS)
    with _progress() as progress:
        task = progress.add_task("router, Envoy, bare splice", total=rounds)

        def tick() -> None:
            progress.advance(task)

        whole = router.compare(stream=False, requests=router.JSON_REQUESTS, scratch=scratch, tick=tick)
        streams = router.compare(stream=True, requests=router.STREAM_REQUESTS, scratch=scratch, tick=tick)
        memory = router.kb_per_open_stream(scratch)
    console.print(_router_table(whole, streams))
    console.print(f"each of {router.OPEN_STREAMS} open streams adds {memory:.1f} KB to the router")
    ours, envoy = whole["Flotilla"], whole["Envoy"]
    return {
        "router_cpu_us_json": round(router.middle(ours, CPU), 1),
        "router_cpu_ratio_envoy": round(router.ratio(ours, envoy, CPU), 3),
        "router_cpu_ratio_splice": round(router.ratio(ours, whole["bare splice"], CPU), 3),
        "router_cpu_us_sse_event": round(router.middle(streams["Flotilla"], EVENT), 2),
        "router_cpu_ratio_envoy_sse": round(router.ratio(streams["Flotilla"], streams["Envoy"], CPU), 3),
        "router_rps": round(router.middle(ours, RATE)),
        "router_rps_ratio_envoy": round(router.ratio(ours, envoy, RATE), 3),
        "router_kb_per_stream": round(memory, 1),
    }


def _router_table(whole: dict[str, list[Cost]], streams: dict[str, list[Cost]]) -> Table:
    table = Table(title=f"One processor each, medians of {router.ROUNDS} rounds; Envoy {envoy_version()}")
    table.add_column("")
    for heading in ("CPU us / 1 KB JSON request", "requests / s", "CPU us / SSE event", "CPU us / stream"):
        table.add_column(heading, justify="right")
    for name, costs in whole.items():
        table.add_row(
            name,
            f"{router.middle(costs, CPU):.1f}",
            f"{router.middle(costs, RATE):.0f}",
            f"{router.middle(streams[name], EVENT):.2f}",
            f"{router.middle(streams[name], CPU):.0f}",
        )
    return table


def _operator_figures(console: Console) -> dict[str, float]:
    with _progress() as progress:
        task = progress.add_task(f"operator, {operator.EXPERTS} Experts", total=4)
        figures = operator.measure(lambda: progress.advance(task))
    table = Table(title="Operator on a real API server")
    table.add_column("")
    table.add_column("figure", justify="right")
    table.add_row(
        f"{operator.EXPERTS} Experts applied, until all have a Deployment", f"{figures.experts_seconds:.1f} s"
    )
    table.add_row("API writes for them, statuses included", str(figures.experts_writes))
    table.add_row("API writes at rest, the Lease aside", f"{figures.idle_writes_per_minute:.0f} / minute")
    table.add_row(
        f"policy edit until every router serves it, worst of {operator.EDITS}", f"{figures.policy_ack_seconds:.2f} s"
    )
    console.print(table)
    return {
        "operator_200_experts_seconds": round(figures.experts_seconds, 1),
        "operator_200_experts_writes": figures.experts_writes,
        "operator_idle_writes_per_minute": round(figures.idle_writes_per_minute, 1),
        "policy_ack_seconds": round(figures.policy_ack_seconds, 3),
    }


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())


if __name__ == "__main__":
    sys.exit(main())
