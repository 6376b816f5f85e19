"""How an Expert's replicas follow its demand: `Expert.spec.scaling`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .meta import Cel, Model, PositiveDuration, Ratio, cel_is_duration, checked

ScalingMode = Literal["Apply", "Recommend", "Off"]

DEFAULT_MIN_REPLICAS = 1
DEFAULT_SCALING_MODE: ScalingMode = "Apply"
DEFAULT_IDLE_AFTER = "15m"
DEFAULT_TIME_ZONE = "UTC"

Timestamp = Annotated[
    str,
    checked(
        Cel(
            "self.matches('^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}"
            "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$')",
            "must be an RFC 3339 time with a zone, in whole seconds, such as 2026-11-23T18:00:00Z",
        ),
        max_length=25,
    ),
]
"""A point in time. That its day is one of its month's is left to the operator: CEL fails on 30 February."""


class Objectives(Model):
    """What users of the expert may expect; the scaler adds replicas where they are missed for want of capacity."""

    ttftP95: PositiveDuration | None = Field(
        None,
        description="Time to the first token, 95th percentile; a request that starts later counts as lost. Default: none.",
    )
    queueP95: PositiveDuration | None = Field(
        None, description="Wait in the engine's queue, 95th percentile. Default: none."
    )
    tpotP95: PositiveDuration | None = Field(
        None, description="Time per output token after the first, 95th percentile. Default: none."
    )
    escalationRatio: Ratio | None = Field(
        None,
        description='Share of requests that may leave the expert for want of capacity, as a quoted decimal such as "0.05"; escalations for quality never count. Default: what costs least.',
    )


class Schedule(Model):
    """A least number of replicas while a time window is open."""

    cron: str = checked(
        Cel(
            r"self.matches('^[0-9A-Za-z*/,#-]+( [0-9A-Za-z*/,#-]+){4}$')",
            'must be five fields: minute, hour, day of the month, month and day of the week, such as "0 7 * * 1-5"',
        ),
        description='When the window opens: minute, hour, day of the month, month, day of the week, such as "0 7 * * 1-5".',
        max_length=100,
    )
    timeZone: str | None = checked(
        Cel(
            "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$')",
            "must be a time zone's name, such as Europe/Berlin",
        ),
        default=None,
        description="Time zone of cron, such as Europe/Berlin. Default: UTC.",
        max_length=64,
    )
    duration: PositiveDuration = Field(description="How long the window is open.")
    min: int = Field(description="The least number of replicas meanwhile; at most scaling.max.", ge=1)


class Override(Model):
    """A number that a person sets for a while, whatever demand says."""

    replicas: int = Field(description="How many replicas run, from scaling.min to scaling.max.")
    until: Timestamp = Field(description="When it ends, as an RFC 3339 time such as 2026-11-23T18:00:00Z.")


class Sleep(Model):
    """A level between serving and zero: the engine's GPU memory is freed, its pod stays and wakes within seconds."""

    after: PositiveDuration = Field(
        description="How long demand must have been zero before the replicas sleep; at most idleAfter."
    )


class Scaling(Model):
    """How many replicas run: between min and max, as demand, prices and objectives say."""

    min: int | None = Field(
        None,
        description="The least number of replicas; 0 lets the expert stop when nobody asks for it, and a request wakes it. Default: 1.",
        ge=0,
    )
    max: int = Field(description="The largest number of replicas.", ge=1, le=1000)
    mode: ScalingMode | None = Field(
        None,
        description='Apply scales. Recommend only says in the status what it would do; "Off", to be quoted, does neither: in both the number is left to others, such as a HorizontalPodAutoscaler on the Deployment. Default: Apply.',
    )
    objectives: Objectives | None = Field(
        None,
        description="What users may expect. Default: what costs least, GPUs and requests that go to a fallback taken together.",
    )
    sloFloor: bool | None = Field(
        None,
        description="Whether there are always replicas for the 95th percentile of the last hour's demand, even if that costs more. Default: false.",
    )
    schedules: list[Schedule] | None = Field(
        None,
        description="Least numbers of replicas by the clock, such as for office hours; of several open windows the largest holds. They are asked for as long before as a start takes.",
        max_length=16,
    )
    override: Override | None = Field(None, description="A number that holds for a while instead of what demand says.")
    idleAfter: PositiveDuration | None = Field(
        None,
        description="How long demand must have been zero before the last replica goes. It needs min: 0. Default: 15m.",
    )
    sleep: Sleep | None = Field(
        None, description="Whether replicas sleep before they go. It needs min: 0 and mode Apply. Default: they do not."
    )

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("!has(self.min) || self.min <= self.max", "scaling.min must be at most scaling.max"),
        Cel(
            "!has(self.schedules) || self.schedules.all(each, each.min <= self.max)",
            "a schedule's min must be at most scaling.max",
        ),
        Cel(
            "!has(self.override) || (self.override.replicas <= self.max"
            f" && self.override.replicas >= (has(self.min) ? self.min : {DEFAULT_MIN_REPLICAS}))",
            "override.replicas must be from scaling.min to scaling.max",
        ),
        Cel(
            "(has(self.min) && self.min == 0) || (!has(self.idleAfter) && !has(self.sleep))",
            "idleAfter and sleep need min: 0, else the expert never stops answering",
        ),
        Cel(
            f"!has(self.sleep) || !has(self.mode) || self.mode == '{DEFAULT_SCALING_MODE}'",
            f"sleep needs mode: {DEFAULT_SCALING_MODE}, else nothing puts replicas to sleep",
        ),
        Cel(
            f"!has(self.sleep) || !({cel_is_duration('self.sleep.after')})"
            f" || (has(self.idleAfter) && !({cel_is_duration('self.idleAfter')})) || duration(self.sleep.after)"
            f" <= duration(has(self.idleAfter) ? self.idleAfter : '{DEFAULT_IDLE_AFTER}')",
            f"sleep.after must be at most idleAfter (default {DEFAULT_IDLE_AFTER}), after which the replicas go",
        ),
    )
