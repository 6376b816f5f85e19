"""From the costs of all rounds to the flat figures of build/bench/slice.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from slice_bench.proxies import ENVOY, PASS_THROUGH, QUICKSTART, SPLICE
from slice_bench.router import Cost, middle, ratio

Costs = Mapping[str, Sequence[Cost]]


def save(path: Path, taken: Mapping[str, float], *, keep: bool) -> None:
    """The file holds the figures taken now and, with `keep`, those it held that were not taken again."""
    before: dict[str, float] = json.loads(path.read_text()) if keep and path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(before | dict(taken), indent=2) + "\n")


def router_figures(whole: Costs, streams: Costs, kb_per_stream: float) -> dict[str, float]:
    """Ours with the quickstart's policy under plain names, with a policy that judges nothing under `_passthrough`."""
    figures = _ours(whole, streams, QUICKSTART, "")
    figures["router_kb_per_stream"] = round(kb_per_stream, 1)
    return figures | _ours(whole, streams, PASS_THROUGH, "_passthrough")


def _ours(whole: Costs, streams: Costs, name: str, suffix: str) -> dict[str, float]:
    mine, sse = whole[name], streams[name]
    return {
        f"router_cpu_us_json{suffix}": round(middle(mine, _cpu), 1),
        f"router_cpu_ratio_envoy{suffix}": round(ratio(mine, whole[ENVOY], _cpu), 3),
        f"router_cpu_ratio_splice{suffix}": round(ratio(mine, whole[SPLICE], _cpu), 3),
        f"router_cpu_us_sse_event{suffix}": round(middle(sse, _event), 2),
        f"router_cpu_ratio_envoy_sse{suffix}": round(ratio(sse, streams[ENVOY], _event), 3),
        f"router_rps{suffix}": round(middle(mine, _rate)),
        f"router_rps_ratio_envoy{suffix}": round(ratio(mine, whole[ENVOY], _rate), 3),
    }


def _cpu(cost: Cost) -> float:
    return cost.cpu_us_per_request


def _event(cost: Cost) -> float:
    return cost.cpu_us_per_event


def _rate(cost: Cost) -> float:
    return cost.requests_per_second
