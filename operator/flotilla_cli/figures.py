"""What a simulation came to, as a screen and as JSON. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flotilla_simulation.comparison import ORACLE, Comparison, Row

_HEAD = (
    "POLICY", "PARAMETER", "USD", "RATIO", "GPU-HOURS", "IN-TIME", "ESCALATED", "LATE", "STARTS", "REVERSALS",
    "TTFT-P95",
)  # fmt: skip


def render(comparison: Comparison, speeds_from: str) -> list[str]:
    """The lines of one Expert: what was simulated, then a row for each policy; the oracle is nobody's rival."""
    rows = [list(_HEAD), *(_cells(row, best_usd(comparison)) for row in comparison.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    left = 2
    table = [
        "   ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [*_preamble(comparison, speeds_from), "", *table]


def best_usd(comparison: Comparison) -> float | None:
    """Dollars of the cheapest policy that somebody could run; None: there is none."""
    return min((row.usd for row in comparison.rows if row.policy != ORACLE), default=None)


def summarize(comparison: Comparison, speeds_from: str) -> dict[str, Any]:
    """What `-o json` writes of one Expert; times are seconds."""
    case, engine = comparison.case, comparison.case.engine
    return {
        "namespace": case.expert.name.namespace,
        "name": case.expert.name.name,
        "measuredSeconds": comparison.measured_seconds,
        "tunedSeconds": comparison.tuned_seconds,
        "warmUpSeconds": comparison.warm_up_seconds,
        "replicaUSDPerHour": case.hourly_usd,
        "lostRequestUSD": case.loss_usd,
        "engine": {
            "source": speeds_from,
            "prefillTokensPerSecond": engine.prefill_rate,
            "decodeTokensPerSecond": engine.decode_rate,
            "sequenceTokensPerSecond": engine.sequence_rate,
            "kvTokens": engine.kv_tokens,
            "slots": engine.slots,
            "coldStartSeconds": engine.cold_start_seconds,
        },
        "policies": [_object(row, best_usd(comparison)) for row in comparison.rows],
    }


def _preamble(comparison: Comparison, speeds_from: str) -> list[str]:
    case, engine = comparison.case, comparison.case.engine
    requests = next((row.requests for row in comparison.rows if row.requests is not None), None)
    count = "" if requests is None else f", {requests:,.0f} requests"
    tuned = f"; baselines tuned on the {duration(comparison.tuned_seconds)} before" if comparison.tuned_seconds else ""
    return [
        f"Expert {case.expert.name}: {duration(comparison.measured_seconds)}{count}{tuned}",
        f"Prices: ${case.hourly_usd:.2f}/h a replica, ${case.loss_usd:.3g} a lost or late request",
        f"Engine: {engine.slots} slots, prefill {engine.prefill_rate:,.0f}, batch {engine.decode_rate:,.0f}, one "
        f"sequence {engine.sequence_rate:,.0f} tokens/s ({speeds_from}), cold start {engine.cold_start_seconds:,.0f} s",
    ]


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds below an hour."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s"


def _cells(row: Row, best: float | None) -> list[str]:
    return [
        row.policy,
        row.parameter,
        f"{row.usd:.2f}",
        f"{row.usd / best:.3f}" if best else "",
        _shown(row.gpu_hours, ".1f"),
        _shown(row.attainment, ".2%"),
        _shown(row.lost, ",.0f"),
        _shown(row.late, ",.0f"),
        _shown(row.cold_starts, ",.0f"),
        _shown(row.reversals, ",.0f"),
        _shown(row.ttft_p95_seconds, ".2f", "s"),
    ]


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _object(row: Row, best: float | None) -> dict[str, Any]:
    found = {
        "policy": row.policy,
        "parameter": row.parameter or None,
        "usd": row.usd,
        "usdBySeed": list(row.usd_by_seed),
        "ratioToBest": row.usd / best if best else None,
        "gpuHours": row.gpu_hours,
        "requests": row.requests,
        "escalated": row.lost,
        "late": row.late,
        "attainment": row.attainment,
        "coldStarts": row.cold_starts,
        "reversals": row.reversals,
        "ttftP95Seconds": row.ttft_p95_seconds,
    }
    return {key: value for key, value in found.items() if value is not None}


def total(comparisons: Sequence[Comparison]) -> list[tuple[str, float]]:
    """Dollars of the whole fleet under each policy that all Experts were simulated with."""
    names = [row.policy for row in comparisons[0].rows]
    found: list[tuple[str, float]] = []
    for index, name in enumerate(names):
        rows = [each.rows[index] for each in comparisons if len(each.rows) == len(names)]
        if len(rows) == len(comparisons):
            found.append((name, sum(row.usd for row in rows)))
    return found


def render_total(comparisons: Sequence[Comparison]) -> list[str]:
    """The fleet's dollars where there are several Experts."""
    if len(comparisons) < 2:
        return []
    found = total(comparisons)
    width = max(len(name) for name, _ in found)
    head = f"{'POLICY'.ljust(width)}   {'USD':>10}"
    return ["", "Fleet", "", head, *(f"{name.ljust(width)}   {usd:>10.2f}" for name, usd in found)]
