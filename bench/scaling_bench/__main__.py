"""Runs every replay; tables go to standard output and docs/benchmarks.md, figures to build/bench/scaling.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from flotilla_simulation.baselines import KINDS, Baseline
from flotilla_simulation.plot import draw
from scaling_bench.ablation import ABLATIONS, ablate
from scaling_bench.comparison import Chosen, best_hpa, geometric_mean, hindsight, ratio, tune
from scaling_bench.contenders import GRID, KEDA, STATIC, Contender, Ours
from scaling_bench.measure import CODE, Results, bounds_of, measure, series_of
from scaling_bench.scenarios import PRICES, Trace, mixed, report_set, tune_set
from scaling_bench.special import quality_step_ratio, tick_cpu_seconds
from scaling_bench.tables import ablation_table, headline_table, policies_table, traces_table, tuned_table
from slice_bench.markdown import write_tables
from slice_bench.progress import Stage, shown_progress

OUTPUT = Path("build/bench/scaling.json")
DOCUMENT = Path("docs/benchmarks.md")
PLOTS = Path("docs/plots")
SEEDS = 3
PLOTTED = Trace("m-small-chunk-11", 8)


def main() -> int:
    """Exit 0 when every figure was taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="samples of the report set's arrivals")
    seeds = range(parser.parse_args().seeds)
    with shown_progress() as stage:
        chosen, ablation = _tuned(stage)
        tuned_mixed = _tuned_mixed(stage)
        reported = [_reported(stage, chosen, tuned_mixed, seed) for seed in seeds]
        code = _code(stage)
        bounds = bounds_of(report_set(0))
        special = _special(stage)
    figures = _figures([each for each, _ in reported], reported[0], bounds) | code | special
    tables = {
        "scaling-headline": headline_table(figures),
        "scaling-policies": policies_table(reported[0][1], report_set(0), chosen),
        "scaling-tuned": tuned_table(chosen, tuned_mixed),
        "scaling-traces": traces_table(reported[0][1], report_set(0), chosen, bounds),
        "scaling-ablation": ablation_table(ablation),
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(figures, indent=2) + "\n")
    write_tables(DOCUMENT, tables, "bench-scaling")
    _plots(chosen)
    print("\n\n".join(tables.values()))
    return 0


def _tuned(stage: Stage) -> tuple[Chosen, Mapping[str, float]]:
    """Each baseline's best number on the tuning set, and what each of our rules is worth there."""
    traces = tune_set()
    variants: list[Contender] = [Ours(price, **options) for options in ABLATIONS.values() for price in PRICES]
    work = {trace: [*GRID, *variants] for trace in traces}
    results = measure(work, stage("tuning set: the grid and the ablation", sum(map(len, work.values()))))
    return tune(results, traces), ablate(results, traces)


def _tuned_mixed(stage: Stage) -> Mapping[tuple[str, float], Baseline]:
    """KEDA's best shared threshold where token lengths differ."""
    traces = list(mixed(tune_set()))
    work: dict[Trace, list[Contender]] = {trace: [*KEDA] for trace in traces}
    results = measure(work, stage("tuning set: one threshold, mixed lengths", sum(map(len, work.values()))))
    return tune(results, traces, KEDA)


def _reported(stage: Stage, chosen: Chosen, tuned_mixed: Chosen, seed: int) -> tuple[dict[str, float], Results]:
    """The ratios of one seed; the whole grid is replayed for the first only, for hindsight."""
    traces, varied = report_set(seed), list(mixed(report_set(seed)))
    ours: list[Contender] = [Ours(price) for price in PRICES]
    baselines: list[Contender] = [*GRID] if seed == 0 else list(dict.fromkeys(chosen.values()))
    work: dict[Trace, list[Contender]] = {trace: [*baselines, *ours] for trace in traces}
    for trace in varied:
        # A factor of 1 does not occur, so these are other traces than those above.
        work[trace] = [*dict.fromkeys(tuned_mixed.values()), *ours]
    results = measure(work, stage(f"report set, seed {seed}", sum(map(len, work.values()))))
    hpa = best_hpa(results, traces, chosen)
    return {
        "usd_ratio_hpa": ratio(results, traces, Ours, lambda price: hpa[price]),
        "usd_ratio_keda": ratio(results, traces, Ours, lambda price: chosen["keda", price]),
        "usd_ratio_kpa": ratio(results, traces, Ours, lambda price: chosen["knative", price]),
        "usd_ratio_static": ratio(results, traces, Ours, lambda price: chosen["static", price]),
        "usd_ratio_keda_mixed_lengths": ratio(results, varied, Ours, lambda price: tuned_mixed["keda", price]),
    }, results


def _code(stage: Stage) -> dict[str, float]:
    """The code hour against every number of replicas that never changes."""
    numbers = [Baseline("static", number) for number in range(1, 25)]
    ours: list[Contender] = [Ours(price) for price in PRICES]
    work: dict[Trace, list[Contender]] = {CODE: [*numbers, *ours]}
    results = measure(work, stage("the code hour", len(numbers) + len(ours)))
    against = hindsight(results, [CODE], Ours, numbers)
    by_price = {f"code_usd_ratio_static_{price}": round(against[CODE, price], 3) for price in PRICES}
    return {"code_usd_ratio_static": round(geometric_mean(against.values()), 3)} | by_price


def _special(stage: Stage) -> dict[str, float]:
    done = stage("a step in quality, and a tick", 2)
    ratios = [quality_step_ratio(report_set(0)[0], price) for price in PRICES]
    done(1)
    cpu = tick_cpu_seconds(1000)
    done(2)
    return {"quality_step_gpu_hours_ratio": round(max(ratios), 4), "tick_cpu_seconds_1000": round(cpu, 3)}


def _figures(
    seeds: list[dict[str, float]],
    first: tuple[dict[str, float], Results],
    bounds: Mapping[tuple[Trace, float], float],
) -> dict[str, float]:
    """Means over the seeds, with the least and the most; hindsight and the oracle of the first seed."""
    figures: dict[str, float] = {}
    for name in first[0]:
        values = [each[name] for each in seeds]
        figures[name] = round(geometric_mean(values), 3)
        figures[f"{name}_min"], figures[f"{name}_max"] = round(min(values), 3), round(max(values), 3)
    traces, results = report_set(0), first[1]
    against = hindsight(results, traces, Ours)
    figures["usd_ratio_hindsight"] = round(geometric_mean(against.values()), 3)
    figures["usd_ratio_hindsight_worst"] = round(max(against.values()), 3)
    oracle = [results[trace, Ours(price)].dollars(price) / bounds[trace, price] for trace in traces for price in PRICES]
    figures["usd_ratio_oracle"] = round(geometric_mean(oracle), 3)
    return figures


def _plots(chosen: Chosen) -> None:
    PLOTS.mkdir(parents=True, exist_ok=True)
    named: dict[str, Contender] = {"flotilla": Ours(10)} | {
        kind: chosen[kind, 10] for kind in KINDS if kind not in {"static", "hpa-waiting"}
    }
    draw(
        PLOTS / "scaling-day.svg",
        f"{PLOTTED.name}, a lost request at 10 shares of a GPU",
        {name: series_of(PLOTTED, contender) for name, contender in named.items()},
    )
    code: dict[str, Contender] = {"flotilla": Ours(10), "static 4": STATIC[3]}
    draw(
        PLOTS / "scaling-code.svg",
        "Azure code, an hour",
        {name: series_of(CODE, contender) for name, contender in code.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
