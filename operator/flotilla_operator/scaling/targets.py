"""What one Expert's spec asks of its scaling, every default resolved. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from flotilla_api import scaling as api
from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.expert import (
    DEFAULT_ACCELERATOR_COUNT,
    DEFAULT_MAX_NUM_SEQS,
    DEFAULT_STARTUP_TIMEOUT,
    ExpertSpec,
)
from flotilla_api.meta import parse_duration_seconds
from flotilla_api.snapshot import TimePrice, TokenPrice

from .fleet import ExpertSignals, NamespacedName
from .schedules import Floor, InvalidScheduleError, Window, make_window
from .signals import Known, Signal, fresh, value_of
from .types import Objectives, Target

ASSUMED_PROMPT_TOKENS = 500.0
ASSUMED_ANSWER_TOKENS = 200.0
"""Of a request, until it is measured."""
ASSUMED_TOKENS_PER_SECOND = 50.0
"""Of one answer among many, on a GPU that fits the model."""
STARTUP_SHARE = 1 / 3
"""Of `engine.startupTimeout`, that a start is thought to take."""
DOWNLOAD_SECONDS = 60.0
NEW_NODE_SECONDS = 180.0

_NO_OBJECTIVES = api.Objectives.model_validate({})


@dataclass(frozen=True, slots=True)
class Override:
    """A number that a person set."""

    replicas: int
    until: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an Expert and its profile say: the same for every tick until one of them changes."""

    minimum: int
    maximum: int
    mode: api.ScalingMode
    slots: int
    gpus: int
    """Of one replica."""
    replica_usd_per_hour: float | None
    objectives: Objectives
    slo_floor: bool
    windows: tuple[Window, ...]
    override: Override | None
    idle_after_seconds: float
    sleep_after_seconds: float | None
    """None: replicas do not sleep."""
    prior_slot_seconds: float
    prior_cold_start_seconds: float
    problems: tuple[str, ...]
    """What the API server accepted and nobody can follow, each with its field; everything else holds."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A Fallback that answers in the place of an Expert."""

    name: NamespacedName
    price: TokenPrice | TimePrice | None
    """None: it says none."""


def make_terms(spec: ExpertSpec, profile: AcceleratorProfileSpec | None) -> Terms | None:
    """The terms of an Expert; None: `replicas` says its number."""
    scaling = spec.scaling
    if scaling is None:
        return None
    gpus = spec.accelerator.count or DEFAULT_ACCELERATOR_COUNT
    start_seconds = _prior_cold_start_seconds(spec, profile)
    windows, problems = _windows(scaling.schedules or [], start_seconds)
    override, wrong_time = _override(scaling.override)
    return Terms(
        minimum=api.DEFAULT_MIN_REPLICAS if scaling.min is None else scaling.min,
        maximum=scaling.max,
        mode=scaling.mode or api.DEFAULT_SCALING_MODE,
        slots=(spec.engine and spec.engine.maxNumSeqs) or DEFAULT_MAX_NUM_SEQS,
        gpus=gpus,
        replica_usd_per_hour=float(profile.hourlyUSD) * gpus if profile and profile.hourlyUSD is not None else None,
        objectives=_objectives(scaling.objectives or _NO_OBJECTIVES),
        slo_floor=bool(scaling.sloFloor),
        windows=windows,
        override=override,
        idle_after_seconds=parse_duration_seconds(scaling.idleAfter or api.DEFAULT_IDLE_AFTER),
        sleep_after_seconds=parse_duration_seconds(scaling.sleep.after) if scaling.sleep else None,
        prior_slot_seconds=_prior_slot_seconds(spec),
        prior_cold_start_seconds=start_seconds,
        problems=(*problems, *wrong_time),
    )


def make_target(terms: Terms, floor: Floor, loss_usd: float | None, now: float) -> Target:
    """What `decide` is to reach at `now`; `floor` is that of the terms' windows."""
    override = terms.override
    return Target(
        minimum=terms.minimum,
        maximum=terms.maximum,
        slots=terms.slots,
        replica_usd_per_hour=terms.replica_usd_per_hour,
        loss_usd=loss_usd,
        objectives=terms.objectives,
        slo_floor=terms.slo_floor,
        scheduled_minimum=min(floor.replicas, terms.maximum),
        override=override.replicas if override and now < override.until else None,
        idle_after_seconds=terms.idle_after_seconds,
        prior_slot_seconds=terms.prior_slot_seconds,
        prior_cold_start_seconds=terms.prior_cold_start_seconds,
    )


def lost_request_usd(
    replacements: Iterable[Replacement], measured_usd: Mapping[NamespacedName, Signal], expert: ExpertSignals
) -> float | None:
    """What one request costs that leaves the Expert; of several replacements the dearest. None: no price is known.

    | dollars a request measured | price      | costs                                             |
    |----------------------------|------------|---------------------------------------------------|
    | yes                        |            | those                                             |
    | no                         | per token  | of the Expert's mean request, else an assumed one |
    | no                         | per second | of an assumed answer                              |
    | no                         | none       | unknown                                           |
    """
    found = [_request_usd(each, measured_usd, expert) for each in replacements]
    return max((usd for usd in found if usd is not None), default=None)


def _request_usd(
    replacement: Replacement, measured_usd: Mapping[NamespacedName, Signal], expert: ExpertSignals
) -> float | None:
    measured = measured_usd.get(replacement.name)
    found = fresh(measured) if measured is not None else None
    if isinstance(found, Known):
        return found.value
    match replacement.price:
        case TokenPrice() as price:
            prompt = value_of(expert.prompt_tokens, ASSUMED_PROMPT_TOKENS)
            answer = value_of(expert.generation_tokens, ASSUMED_ANSWER_TOKENS)
            return (prompt * price.inputPerMillionUSD + answer * price.outputPerMillionUSD) / 1e6
        case TimePrice() as price:
            return price.perSecondUSD * ASSUMED_ANSWER_TOKENS / ASSUMED_TOKENS_PER_SECOND
        case None:
            return None


def _objectives(given: api.Objectives) -> Objectives:
    return Objectives(
        ttft_p95=_seconds(given.ttftP95),
        queue_p95=_seconds(given.queueP95),
        tpot_p95=_seconds(given.tpotP95),
        escalation_ratio=None if given.escalationRatio is None else float(given.escalationRatio),
    )


def _seconds(duration: str | None) -> float | None:
    return None if duration is None else parse_duration_seconds(duration)


def _windows(schedules: list[api.Schedule], start_seconds: float) -> tuple[tuple[Window, ...], list[str]]:
    windows: list[Window] = []
    problems: list[str] = []
    for index, schedule in enumerate(schedules):
        try:
            windows.append(make_window(schedule, start_seconds=start_seconds))
        except InvalidScheduleError as error:
            problems.append(f"spec.scaling.schedules[{index}]: {error}")
    return tuple(windows), problems


def _override(given: api.Override | None) -> tuple[Override | None, list[str]]:
    if given is None:
        return None, []
    try:
        until = datetime.fromisoformat(given.until).timestamp()
    except ValueError:
        return None, [f"spec.scaling.override.until: {given.until!r} is no day of its month"]
    return Override(given.replicas, until), []


def _prior_slot_seconds(spec: ExpertSpec) -> float:
    """Of an answer that fits half of the longest context."""
    length = spec.engine.maxModelLen if spec.engine else None
    tokens = ASSUMED_ANSWER_TOKENS if length is None else min(ASSUMED_ANSWER_TOKENS, length / 2)
    return tokens / ASSUMED_TOKENS_PER_SECOND


def _prior_cold_start_seconds(spec: ExpertSpec, profile: AcceleratorProfileSpec | None) -> float:
    """A usual start, and what has to be fetched for it."""
    timeout = (spec.engine and spec.engine.startupTimeout) or DEFAULT_STARTUP_TIMEOUT
    download = DOWNLOAD_SECONDS if spec.model.uri.startswith("hf://") else 0.0
    node = NEW_NODE_SECONDS if profile and profile.capacity == "Unbounded" else 0.0
    return parse_duration_seconds(timeout) * STARTUP_SHARE + download + node
