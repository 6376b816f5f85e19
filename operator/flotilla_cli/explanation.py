"""What an Expert's status says of its scaling, as a screen. PURE: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Manifest = Mapping[str, Any]
_TOLD_CONDITIONS = ("Accepted", "ScalingActive", "EscalationHealthy", "Scheduled", "Ready")


def summarize(expert: Manifest) -> dict[str, Any]:
    """What `-o json` and `-o yaml` write."""
    status: Manifest = expert.get("status") or {}
    return {
        "kind": "Expert",
        "namespace": expert["metadata"]["namespace"],
        "name": expert["metadata"]["name"],
        "replicas": status.get("replicas"),
        "readyReplicas": status.get("readyReplicas"),
        "scaling": status.get("scaling"),
        "conditions": _conditions(status),
    }


def render(expert: Manifest, now: datetime) -> str:
    """The screen: what is right now and why, the conditions that bear on it, and the last changes, newest first."""
    metadata: Manifest = expert["metadata"]
    spec: Manifest = expert["spec"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    if "scaling" not in spec:
        return f"Expert {name} is not scaled: spec.replicas says {spec.get('replicas', 1)}\n"
    status: Manifest = expert.get("status") or {}
    scaling: Manifest = status.get("scaling") or {}
    is_off = spec["scaling"].get("mode") == "Off"
    is_decided = "recommended" in scaling and not is_off
    nothing = "nothing: scaling.mode is Off" if is_off else "nothing was decided yet"
    right = _recommended(scaling, now) if is_decided else [["Recommended:", nothing]]
    parts = [table([*_head(name, status, scaling), *right]), _conditiontable(status)]
    decisions: Sequence[Manifest] = scaling.get("decisions") or []
    parts += [_decision(each, now) for each in decisions]
    if is_decided and not decisions:
        parts.append("The number has not been changed yet.\n")
    return "\n".join(part for part in parts if part)


def _head(name: str, status: Manifest, scaling: Manifest) -> list[list[str]]:
    replicas = f"{status.get('replicas', 0)}, {status.get('readyReplicas', 0)} ready"
    asleep = scaling.get("asleep") or 0
    return [["Expert:", name], ["Replicas:", f"{replicas}, {asleep} asleep" if asleep else replicas]]


def _recommended(scaling: Manifest, now: datetime) -> list[list[str]]:
    """What is right, and why."""
    rows = [
        ["Recommended:", f"{scaling['recommended']}  {scaling.get('rule', '')}".rstrip()],
        ["Because:", scaling.get("message", "")],
    ]
    if at := scaling.get("at"):
        rows.append(["Found:", f"{at} ({_age(at, now)} ago)"])
    shadow = scaling.get("shadowUSDPerHour")
    if shadow is not None:
        rows.append(["Short of:", f"accelerators; one more in the pool would save ${shadow}/h"])
    return [row for row in rows if row[1]]


def _conditions(status: Manifest) -> list[Manifest]:
    found: Sequence[Manifest] = status.get("conditions") or []
    return [each for told in _TOLD_CONDITIONS for each in found if each["type"] == told]


def _conditiontable(status: Manifest) -> str:
    rows = [[each["type"], each["status"], each["reason"], each["message"]] for each in _conditions(status)]
    return table([["CONDITION", "STATUS", "REASON", "MESSAGE"], *rows]) if rows else ""


def _decision(decision: Manifest, now: datetime) -> str:
    """One change: when, from what to what, the rule, the numbers, the counterfactual, and what was known."""
    at = decision["at"]
    lines = [f"{at} ({_age(at, now)} ago)  {decision['from']} -> {decision['to']}  {decision['rule']}"]
    lines += [f"  {text}" for text in (decision.get("message"), decision.get("counterfactual")) if text]
    inputs: Sequence[Manifest] = decision.get("inputs") or []
    rows = [[each["name"], each.get("value", "unknown"), _seconds(each.get("ageSeconds"))] for each in inputs]
    if rows:
        lines += [f"  {line}" for line in table([["INPUT", "VALUE", "AGE"], *rows]).splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _age(at: str, now: datetime) -> str:
    return _duration(max(0, int((now - datetime.fromisoformat(at)).total_seconds())))


def _seconds(age: int | None) -> str:
    return "" if age is None else _duration(age)


def _duration(seconds: int) -> str:
    """As kubectl has it: the one unit that says most, two below ten."""
    for size, unit, below, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            count, left = divmod(seconds, size)
            more = left // below
            return f"{count}{unit}{more}{rest}" if count < 10 and more else f"{count}{unit}"
    return f"{seconds}s"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns three spaces apart, as kubectl aligns them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
