"""Rows of a gateway's request log, as rows that can be labelled. PURE."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast


def convert(line: bytes, pod: str) -> dict[str, Any] | None:
    """The row for a line of a pod's log; None: the line is no row. It has all that the log says, and of its own:

    | field       | what it is                                                                     |
    |-------------|--------------------------------------------------------------------------------|
    | `id`        | the same whenever this line is read, and of no other line                      |
    | `requestId` | the request's, which its client may have chosen                                |
    | `outcomes`  | empty: `flotilla label` writes what answers were worth                         |
    | `logged`    | the choice, how likely it was, and its scores; absent where nobody had a choice |
    """
    row = _object(line)
    if row is None or not isinstance(row.get("choice"), str) or not isinstance(row.get("id"), str):
        return None
    if not isinstance(row.get("prompt"), str) and not isinstance(row.get("features"), dict):
        return None
    identity = hashlib.sha256(f"{pod}\n".encode() + line).hexdigest()[:16]
    return {**row, "id": identity, "requestId": row["id"], "outcomes": {}, **_logged(row)}


def _object(line: bytes) -> Mapping[str, Any] | None:
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one, too
        return None
    return cast("Mapping[str, Any]", row) if isinstance(row, dict) else None


def _logged(row: Mapping[str, Any]) -> dict[str, Any]:
    propensity = row.get("propensity")
    if isinstance(propensity, bool) or not isinstance(propensity, int | float) or not 0 < propensity <= 1:
        return {}
    return {"logged": {"model": row["choice"], "propensity": propensity, "scores": row.get("scores") or {}}}
