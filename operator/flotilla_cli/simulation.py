"""What `flotilla simulate` replays: Experts from manifests, each with its requests, its engine and its prices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flotilla_api.meta import GROUP
from flotilla_operator.resources.manifest import Manifest, ObjectRef
from flotilla_simulation.comparison import Case
from flotilla_simulation.demand import Cut, Source, deal, draw, mean_replicas, read_source
from flotilla_simulation.fleet import Fleet, FleetError, FleetExpert, describe_fleet
from flotilla_simulation.speeds import Speeds, estimate_speeds, measure_speeds
from flotilla_simulation.traces import TraceError
from flotilla_simulation.workload import Engine, Workload

from .documents import parse, split
from .errors import InputError
from .injection import Source as TextSource
from .templates import find_objects

_KINDS = {"AcceleratorProfile", "Expert", "Fallback", "RoutingPolicy"}
_RATES = re.compile(r"([0-9.]+),([0-9.]+),([0-9.]+)")
_UNBOUNDED_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say; by Expert where its name stands before '=', '' is for all others."""

    traces: Mapping[str, str]
    speeds: Mapping[str, str]
    cold_starts: Mapping[str, float]
    """Seconds."""
    cut: Cut
    began: datetime
    price: float | None
    mean_replicas: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """An Expert that can be replayed, and where its engine's speeds come from."""

    case: Case
    speeds_from: str


def read_fleet(sources: Iterable[TextSource], namespace: str) -> Fleet:
    """The scaled Experts of manifests.

    Raises:
        InputError: a file cannot be parsed, an object stands twice, or cannot be simulated.
    """
    found: dict[ObjectRef, Manifest] = {}
    places: dict[ObjectRef, str] = {}
    for source in sources:
        for document in split(source.text):
            try:
                value = parse(document)
            except InputError as error:
                raise InputError(f"{source.name}: {error}") from error
            for each in find_objects(value, namespace):
                if each.owner.kind not in _KINDS or not str(each.value.get("apiVersion")).startswith(f"{GROUP}/"):
                    continue
                ref, place = _placed(each.owner), f"{source.name}:{document.line}"
                if ref in found:
                    raise InputError(f"{place}: {ref} stands in {places[ref]} as well; leave one out")
                places[ref], metadata = place, {**each.value["metadata"], "namespace": ref.namespace, "uid": str(ref)}
                found[ref] = {**each.value, "metadata": metadata}
    try:
        return describe_fleet(found)
    except FleetError as error:
        named = next((place for ref, place in places.items() if str(error).startswith(f"{ref}:")), "")
        raise InputError(f"{named}: {error}" if named else str(error)) from error


def prepare(fleet: Fleet, wishes: Wishes) -> list[Prepared]:
    """A case for each Expert.

    Raises:
        InputError: a trace or a log cannot be used, or a price or the engine's speed is not known.
    """
    engines = {expert.name.name: _engine(expert, wishes) for expert in fleet.experts}
    try:
        loads = _loads(fleet.experts, {name: engine for name, (engine, _) in engines.items()}, wishes)
    except TraceError as error:
        raise InputError(str(error)) from error
    return [_prepared(expert, loads[expert.name.name], engines[expert.name.name], wishes) for expert in fleet.experts]


def _placed(owner: ObjectRef) -> ObjectRef:
    return ObjectRef(owner.kind, "", owner.name) if owner.kind == "AcceleratorProfile" else owner


def _prepared(expert: FleetExpert, loads: tuple[Workload, ...], engine: tuple[Engine, str], wishes: Wishes) -> Prepared:
    hourly = expert.terms.replica_usd_per_hour
    if hourly is None:
        profile = expert.served.spec.accelerator.profile
        raise InputError(
            f"Expert {expert.name}: what its GPUs cost is not known; give AcceleratorProfile {profile} with hourlyUSD "
            "with -f as well"
        )
    price = expert.loss_usd(loads[0]) if wishes.price is None else wishes.price
    if price is None:
        raise InputError(
            f"Expert {expert.name}: what a lost request costs is not known; give its RoutingPolicy and a Fallback with "
            "a cost with -f as well, or --price"
        )
    return Prepared(Case(expert, engine[0], loads, price, hourly, wishes.began), engine[1])


def _engine(expert: FleetExpert, wishes: Wishes) -> tuple[Engine, str]:
    name = expert.name.name
    given = wishes.speeds.get(name, wishes.speeds.get(""))
    speeds, source = _estimated(expert) if given is None else _said(expert, given)
    cold = wishes.cold_starts.get(name, wishes.cold_starts.get("", expert.terms.prior_cold_start_seconds))
    engine = Engine(
        slots=expert.terms.slots,
        prefill_rate=speeds.prefill_rate,
        decode_rate=speeds.decode_rate,
        sequence_rate=speeds.sequence_rate,
        kv_tokens=speeds.kv_tokens or _UNBOUNDED_TOKENS,
        cold_start_seconds=cold,
    )
    return engine, source


def _said(expert: FleetExpert, given: str) -> tuple[Speeds, str]:
    rates = _RATES.fullmatch(given)
    try:
        if rates is None:
            speeds = measure_speeds(
                Path(given),
                expert.name.name,
                slots=expert.terms.slots,
                hold_tokens=expert.hold_tokens,
                hold_seconds=expert.hold_seconds,
            )
            return speeds, f"measured in {given}"
        prefill, batch, sequence = (float(rates[index]) for index in (1, 2, 3))
    except (TraceError, ValueError) as error:
        raise InputError(f"--speeds: {error}") from error
    if min(prefill, batch, sequence) <= 0:
        raise InputError(f"--speeds: {given}: rates must be above 0")
    return Speeds(prefill, batch, sequence), "given"


def _estimated(expert: FleetExpert) -> tuple[Speeds, str]:
    found = estimate_speeds(expert.served, expert.profile, expert.terms.slots)
    if found is None:
        raise InputError(
            f"Expert {expert.name}: how fast its engine is cannot be estimated; set model.parameters and name an "
            "accelerator that is known (L4, A10G, A100, H100), or give --speeds"
        )
    weights, profile = expert.served.spec.model.parameters, expert.served.spec.accelerator.profile
    return found, f"estimated from {weights} weights on {profile}"


def _loads(
    experts: Sequence[FleetExpert], engines: Mapping[str, Engine], wishes: Wishes
) -> dict[str, tuple[Workload, ...]]:
    own = {name for name in wishes.traces if name}
    unknown = own - set(engines)
    if unknown:
        raise InputError(f"--trace: there is no scaled Expert {sorted(unknown)[0]} among the manifests")
    sharing = {expert.name.name: expert.weight for expert in experts if expert.name.name not in own}
    found: dict[str, tuple[Workload, ...]] = {}
    for name in sorted(own):
        found |= _dealt(wishes.traces[name], {name: 1.0}, engines, wishes)
    if sharing and "" not in wishes.traces:
        raise InputError(f"Expert {sorted(sharing)[0]} has no trace; give one for all, or --trace NAME=FILE for each")
    if sharing:
        found |= _dealt(wishes.traces[""], sharing, engines, wishes)
    return found


def _dealt(
    path: str, shares: Mapping[str, float], engines: Mapping[str, Engine], wishes: Wishes
) -> dict[str, tuple[Workload, ...]]:
    """The requests of one file among those that share it, for each seed."""
    source = read_source(Path(path))
    try:
        factor = _factor(source, shares, engines, wishes)
        dealt = [deal(draw(source, wishes.cut, factor=factor, seed=seed), shares, seed) for seed in range(wishes.seeds)]
    except TraceError as error:
        raise InputError(f"{path}: {error}") from error
    return {name: tuple(each[name] for each in dealt) for name in shares}


def _factor(source: Source, shares: Mapping[str, float], engines: Mapping[str, Engine], wishes: Wishes) -> float:
    if wishes.mean_replicas is None:
        return 1.0
    dealt = deal(draw(source, wishes.cut, factor=1.0, seed=0), shares, 0)
    return wishes.mean_replicas / sum(mean_replicas(load, engines[name]) for name, load in dealt.items())
