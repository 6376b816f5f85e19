"""Why a request leaves its expert, and where it may go: words that policies, snapshots, headers and metrics share.

A router needs these and no model of a kind, whose schema takes memory in every pod with a sidecar.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Boundary = Literal["Any", "LocalOnly"]
ColdStartMode = Literal["Bridge", "Hold", "Reject"]


class Cause(StrEnum):
    """Why a request left the expert that it was first meant for; one enum in policies, headers, logs and metrics."""

    LOW_CONFIDENCE = "LowConfidence"
    EMPTY_ANSWER = "EmptyAnswer"
    CONTEXT_OVERFLOW = "ContextOverflow"
    OVERLOADED = "Overloaded"
    NO_READY_REPLICA = "NoReadyReplica"
    TIMEOUT = "Timeout"
    UPSTREAM_ERROR = "UpstreamError"
    COLD_START = "ColdStart"
    """It has no replica and is being woken: `coldStart` decides what follows, not `escalation.on`."""


class CauseGroup(StrEnum):
    """What a cause says about the fleet: more GPUs help only with capacity, and policy is what was asked for."""

    CAPACITY = "capacity"
    QUALITY = "quality"
    LIMIT = "limit"
    FAULT = "fault"
    POLICY = "policy"


CAUSE_GROUPS: dict[Cause, CauseGroup] = {
    Cause.LOW_CONFIDENCE: CauseGroup.QUALITY,
    Cause.EMPTY_ANSWER: CauseGroup.QUALITY,
    Cause.CONTEXT_OVERFLOW: CauseGroup.LIMIT,
    Cause.OVERLOADED: CauseGroup.CAPACITY,
    Cause.NO_READY_REPLICA: CauseGroup.CAPACITY,
    Cause.TIMEOUT: CauseGroup.FAULT,
    Cause.UPSTREAM_ERROR: CauseGroup.FAULT,
    Cause.COLD_START: CauseGroup.POLICY,
}
