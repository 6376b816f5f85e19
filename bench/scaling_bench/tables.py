"""Markdown tables of the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flotilla_simulation.baselines import KINDS
from scaling_bench.comparison import Chosen, geometric_mean
from scaling_bench.contenders import GRID, Contender, Ours
from scaling_bench.measure import Results
from scaling_bench.scenarios import PRICES, Trace
from slice_bench.markdown import make_table

AIMS: Mapping[str, tuple[str, float | None]] = {
    "usd_ratio_hpa": ("to the best-tuned HorizontalPodAutoscaler", 0.95),
    "usd_ratio_keda": ("to KEDA on request rate", 0.98),
    "usd_ratio_kpa": ("to Knative's autoscaler", 0.95),
    "usd_ratio_static": ("to a fixed number", None),
    "usd_ratio_keda_mixed_lengths": ("to KEDA, where token lengths differ", 0.80),
    "usd_ratio_hindsight": ("to the best baseline of each trace, in hindsight", 1.03),
    "usd_ratio_hindsight_worst": ("the same, worst trace and price", 1.20),
    "usd_ratio_oracle": ("to the oracle's bound", None),
    "code_usd_ratio_static": ("the code hour, to its best fixed number in hindsight", 1.10),
    "quality_step_gpu_hours_ratio": ("GPU-hours with half of the answers escalated for quality", 1.02),
    "tick_cpu_seconds_1000": ("CPU seconds of a tick of 1,000 experts", 1.0),
}


def headline_table(figures: Mapping[str, float]) -> str:
    """Each figure, its spread over seeds, and its aim."""
    rows: list[list[str]] = []
    for name, (text, aim) in AIMS.items():
        spread = f" ({figures[f'{name}_min']:.3f}-{figures[f'{name}_max']:.3f})" if f"{name}_min" in figures else ""
        missed = ": missed" if aim is not None and figures[name] > aim else ""
        shown_aim = "" if aim is None else f"{aim:g}{missed}"
        rows.append([f"{text} (`{name}`)", f"{figures[name]:.3f}{spread}", shown_aim])
    return make_table(["figure", "value", "aim"], rows)


def policies_table(results: Results, traces: Sequence[Trace], chosen: Chosen) -> str:
    """Sums over the report set, by price and policy."""
    rows: list[list[str]] = []
    for price in PRICES:
        contenders: dict[str, Contender] = {"flotilla": Ours(price)} | {kind: chosen[kind, price] for kind in KINDS}
        for name, contender in contenders.items():
            found = [results[trace, contender] for trace in traces]
            requests = sum(each.requests for each in found)
            rows.append(
                [
                    f"{price}",
                    name,
                    f"{geometric_mean(each.dollars(price) for each in found):.1f}",
                    f"{sum(each.gpu_hours for each in found):,.0f}",
                    f"{100 * (1 - sum(each.lost + each.late for each in found) / requests):.2f} %",
                    f"{sum(each.lost for each in found):,}",
                    f"{sum(each.late for each in found):,}",
                    f"{sum(each.cold_starts for each in found):,}",
                    f"{sum(each.reversals for each in found):,}",
                    f"{geometric_mean(each.ttft_p95_seconds for each in found):.2f} s",
                ]
            )
    heads = ["price", "policy", "$ a day", "GPU-hours", "in time", "escalated", "late", "cold starts", "reversals"]
    return make_table([*heads, "p95 TTFT"], rows)


def tuned_table(chosen: Chosen, tuned_mixed: Chosen) -> str:
    """The numbers that were chosen on the tuning set."""
    rows = [[kind, *(chosen[kind, price].label for price in PRICES)] for kind in KINDS]
    rows.append(["keda, mixed lengths", *(tuned_mixed["keda", price].label for price in PRICES)])
    return make_table(["policy", *(f"price {price}" for price in PRICES)], rows)


def traces_table(
    results: Results, traces: Sequence[Trace], chosen: Chosen, bounds: Mapping[tuple[Trace, float], float]
) -> str:
    """Each trace and price: ours, and what others and the bound are."""
    rows: list[list[str]] = []
    for trace in traces:
        for price in PRICES:
            ours = results[trace, Ours(price)].dollars(price)
            best = min(GRID, key=lambda each: results[trace, each].dollars(price))
            rows.append(
                [
                    trace.name,
                    f"{price}",
                    f"{ours:.1f}",
                    f"{results[trace, chosen['keda', price]].dollars(price):.1f}",
                    f"{results[trace, best].dollars(price):.1f} ({best.kind} {best.label})",
                    f"{bounds[trace, price]:.1f}",
                    f"{ours / results[trace, best].dollars(price):.2f}",
                ]
            )
    return make_table(["trace", "price", "flotilla $", "keda $", "best in hindsight $", "oracle $", "ratio"], rows)


def ablation_table(ratios: Mapping[str, float]) -> str:
    """Dollars of each variant over those of all rules."""
    return make_table(["rules", "dollars"], [[name, f"{ratio:.3f}"] for name, ratio in ratios.items()])
