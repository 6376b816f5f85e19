"""JSON Patch (RFC 6902) of what was added to an object. PURE.

Whole fields are never sent: other admission webhooks may have added to the same list, and would lose it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from .manifest import Manifest

Operation = dict[str, Any]


def make_additive_patch(before: Manifest, after: Manifest) -> list[Operation]:
    """Only `add` operations, in the order in which they are to be applied; none when nothing was added.

    Entries of lists are told by their `name`, and those of `before` are in the same order in `after`.

    Raises:
        ValueError: something was changed or taken away.
    """
    return list(_added(before, after, ""))


def _added(before: object, after: object, path: str) -> Iterator[Operation]:
    if before == after:
        return
    if before is None:
        yield {"op": "add", "path": path, "value": after}
    elif isinstance(before, dict) and isinstance(after, dict):
        yield from _added_to_mapping(cast("Manifest", before), cast("Manifest", after), path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _added_to_list(cast("list[Any]", before), cast("list[Any]", after), path)
    else:
        raise ValueError(f"{path} was changed, not added to")


def _added_to_mapping(before: Manifest, after: Manifest, path: str) -> Iterator[Operation]:
    if not before.keys() <= after.keys():
        raise ValueError(f"{path} has lost a field")
    for name, value in after.items():
        yield from _added(before.get(name), value, f"{path}/{_escape(name)}")


def _added_to_list(before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[Operation]:
    """Each index is that of `after`: what comes before it has been added by then."""
    kept = 0
    for index, entry in enumerate(after):
        if kept < len(before) and _same(before[kept], entry):
            yield from _added(before[kept], entry, f"{path}/{index}")
            kept += 1
        else:
            yield {"op": "add", "path": f"{path}/{index}", "value": entry}
    if kept < len(before):
        raise ValueError(f"{path} has lost an entry")


def _same(before: object, after: object) -> bool:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return before == after
    return cast("Manifest", before).get("name") == cast("Manifest", after).get("name")


def _escape(name: str) -> str:
    """As a reference token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
