"""Conditions as they change: one line for every change of an object's Ready condition."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from rich.console import Console

from stack.flotilla import Stack

_KINDS = "experts,fallbacks,routingpolicies"
_POLL_SECONDS = 0.3


class Ready(NamedTuple):
    """One object's Ready condition."""

    kind: str
    name: str
    status: str
    reason: str
    message: str


def watch_until_ready(stack: Stack, namespace: str, console: Console, timeout_seconds: float) -> None:
    """Print changes until every Expert, Fallback and RoutingPolicy is Ready.

    Raises:
        TimeoutError: one is not; the message names it and its reason.
    """
    started = time.monotonic()
    seen: set[Ready] = set()
    while True:
        current = _ready_conditions(stack, namespace)
        for ready in current:
            if ready not in seen:
                _print_change(console, time.monotonic() - started, ready)
        seen = set(current)
        waiting = [ready for ready in current if ready.status != "True"]
        if current and not waiting:
            return
        if time.monotonic() - started > timeout_seconds:
            said = "; ".join(f"{ready.kind} {ready.name}: {ready.reason}: {ready.message}" for ready in waiting)
            raise TimeoutError(f"not Ready after {timeout_seconds:.0f} s: {said}")
        time.sleep(_POLL_SECONDS)


def _ready_conditions(stack: Stack, namespace: str) -> list[Ready]:
    items: list[dict[str, Any]] = json.loads(stack.cluster.kubectl("get", _KINDS, "-n", namespace, "-o", "json"))[
        "items"
    ]
    return [_ready(item) for item in items]


def _ready(item: dict[str, Any]) -> Ready:
    conditions: list[dict[str, str]] = item.get("status", {}).get("conditions", [])
    found = next((c for c in conditions if c["type"] == "Ready"), {"status": "Unknown", "reason": "-", "message": ""})
    return Ready(item["kind"], item["metadata"]["name"], found["status"], found["reason"], found["message"])


def _print_change(console: Console, seconds: float, ready: Ready) -> None:
    colour = {"True": "green", "False": "yellow"}.get(ready.status, "dim")
    console.print(
        f"{seconds:6.1f} s  {ready.kind:<14} {ready.name:<14} Ready=[{colour}]{ready.status:<7}[/{colour}] "
        f"{ready.reason:<22} {ready.message}",
        highlight=False,
        no_wrap=True,
        overflow="ellipsis",
    )
