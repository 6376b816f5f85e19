"""Runs every measurement, prints the figures as tables and writes them to build/bench/*.json."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slice_bench import logged, operator, router, sidecars
from slice_bench.figures import router_figures, save
from slice_bench.progress import shown_progress
from slice_bench.proxies import COMPILED, envoy_version
from slice_bench.router import Cost, middle, spread

BUILD = "router compiled" if COMPILED else "router interpreted"
OUTPUT = Path("build/bench/slice.json")
SIDECAR_OUTPUT = Path("build/bench/sidecar.json")
LOG_OUTPUT = Path("build/bench/request_log.json")


def main() -> int:
    """Exit 0 when every figure was taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["router", "operator", "sidecar", "log"]
    parser.add_argument("--only", choices=parts, help="take only these figures, keep the others")
    only: str | None = parser.parse_args().only
    wanted = [only] if only else parts
    console = Console()
    figures: dict[str, float] = {}
    if "router" in wanted:
        figures |= _router_figures(console)
    if "operator" in wanted:
        figures |= _operator_figures(console)
    if figures:
        save(OUTPUT, figures, keep=only is not None)
        console.print(f"written to {OUTPUT}")
    if "sidecar" in wanted:
        save(SIDECAR_OUTPUT, _sidecar_figures(console), keep=False)
        console.print(f"written to {SIDECAR_OUTPUT}")
    if "log" in wanted:
        save(LOG_OUTPUT, _log_figures(console), keep=False)
        console.print(f"written to {LOG_OUTPUT}")
    return 0


def _router_figures(console: Console) -> dict[str, float]:
    loads = router.ROUNDS * len(router.STARTERS)
    with shown_progress() as stage, tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        scratch = Path(folder)
        whole = router.compare(router.WHOLE, scratch, stage("router: JSON requests", loads))
        streams = router.compare(router.STREAMS, scratch, stage("router: streams", loads))
        held = stage("router: open streams", 1)
        memory = router.kb_per_open_stream(scratch)
        held(1)
    console.print(_router_table(whole, streams))
    console.print(f"each of {router.OPEN_STREAMS} open streams adds {memory:.1f} KB to the router")
    return router_figures(whole, streams, memory)


def _router_table(whole: Mapping[str, list[Cost]], streams: Mapping[str, list[Cost]]) -> Table:
    table = Table(
        title=f"One processor each, medians of {router.ROUNDS} rounds (least-most); {BUILD}; Envoy {envoy_version()}"
    )
    table.add_column("")
    for heading in ("CPU us / 1 KB JSON request", "requests / s", "CPU us / SSE event", "events / read"):
        table.add_column(heading, justify="right")
    for name, costs in whole.items():
        table.add_row(
            name,
            spread(costs, lambda cost: cost.cpu_us_per_request, 1),
            spread(costs, lambda cost: cost.requests_per_second, 0),
            spread(streams[name], lambda cost: cost.cpu_us_per_event, 1),
            f"{middle(streams[name], lambda cost: cost.events_per_read):.2f}",
        )
    return table


def _operator_figures(console: Console) -> dict[str, float]:
    with shown_progress() as stage:
        figures = operator.measure(stage)
    table = Table(title="Operator on a real API server")
    table.add_column("")
    table.add_column("figure", justify="right")
    table.add_row(
        f"{operator.EXPERTS} Experts applied, until all have a Deployment", f"{figures.experts_seconds:.1f} s"
    )
    table.add_row("API writes for them, statuses included", str(figures.experts_writes))
    table.add_row("API writes at rest, the Lease aside", f"{figures.idle_writes_per_minute:.0f} / minute")
    table.add_row(
        f"policy edit until its status says that every router serves it, worst of {operator.EDITS}",
        f"{figures.policy_ack_seconds:.2f} s",
    )
    console.print(table)
    return {
        "operator_200_experts_seconds": round(figures.experts_seconds, 1),
        "operator_200_experts_writes": figures.experts_writes,
        "operator_idle_writes_per_minute": round(figures.idle_writes_per_minute, 1),
        "policy_ack_seconds": round(figures.policy_ack_seconds, 3),
    }


def _sidecar_figures(console: Console) -> dict[str, float]:
    with shown_progress() as stage, tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        one = sidecars.measure_one(stage("sidecar: JSON requests", sidecars.LOADS), Path(folder))
        many = sidecars.measure_many(stage)
    figures = sidecars.figures_of(one, many)
    table = Table(title=f"Sidecars; {BUILD}; medians of {router.ROUNDS} rounds (least-most)")
    table.add_column("")
    table.add_column("figure", justify="right")
    gateway, sidecar = one.costs.values()
    count = sidecars.SIDECARS
    for name, text in (
        ("gateway, CPU us / 1 KB JSON request", spread(gateway, lambda cost: cost.cpu_us_per_request, 1)),
        ("sidecar, CPU us / 1 KB JSON request", spread(sidecar, lambda cost: cost.cpu_us_per_request, 1)),
        ("ratio of the two", f"{figures['sidecar_cpu_ratio_gateway']:.2f}"),
        ("resident memory of a sidecar, idle", f"{figures['sidecar_rss_idle_mb']:.1f} MB"),
        ("resident memory of a sidecar, after the load", f"{figures['sidecar_rss_mb']:.1f} MB"),
        (f"operator's CPU for an edit that {count} sidecars get", f"{many.cpu_ms_per_edit:.0f} ms"),
        (f"operator's CPU with {count} sidecars at rest", f"{many.cpu_ms_per_second_at_rest:.1f} ms / s"),
        (f"operator's resident memory with {count} sidecars", f"{figures['control_api_rss_mb_200']:.1f} MB"),
        ("of that for the sidecars", f"{figures['control_api_rss_added_mb_200']:.1f} MB"),
        (f"edit until the last of {count} has it, worst of {sidecars.EDITS}", f"{max(many.last_heard_seconds):.2f} s"),
    ):
        table.add_row(name, text)
    console.print(table)
    return figures


def _log_figures(console: Console) -> dict[str, float]:
    with shown_progress() as stage, tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        costs = logged.compare(Path(folder), stage("request log: JSON requests", logged.LOADS))
    table = Table(title=f"Request log; {BUILD}; medians of {router.ROUNDS} rounds (least-most)")
    table.add_column("prompts")
    for heading in ("CPU us / request on the loop", "CPU us / request, all threads"):
        table.add_column(heading, justify="right")
    for name, spent in costs.items():
        table.add_row(name, logged.spread(spent, "loop"), logged.spread(spent, "process"))
    console.print(table)
    return logged.figures_of(costs)


if __name__ == "__main__":
    sys.exit(main())
