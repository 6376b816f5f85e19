"""Where a live object differs from what is wanted; what the server adds or writes in another form is no difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from flotilla_operator.resources.quantity import parse_quantity

from .types import Manifest

_KEYED: dict[str, Callable[[Any], Any]] = {
    "containers": lambda each: each.get("name"),
    "initContainers": lambda each: each.get("name"),
    "env": lambda each: each.get("name"),
    "volumes": lambda each: each.get("name"),
    "imagePullSecrets": lambda each: each.get("name"),
    "volumeMounts": lambda each: each.get("mountPath"),
    "ports": lambda each: (each.get("containerPort") or each.get("port"), each.get("protocol", "TCP")),
    "topologySpreadConstraints": lambda each: (each.get("topologyKey"), each.get("whenUnsatisfiable")),
    "ownerReferences": lambda each: each.get("uid"),
}
"""Lists that the server merges by key: entries of another writer stay there whatever we apply; see `additions`."""

_ATOMIC_MAPS = frozenset({"selector", "matchLabels", "nodeSelector", "roleRef", "secretKeyRef", "configMapKeyRef"})
"""Maps that have one writer as a whole: a key that somebody added is a difference, and applying again removes it."""

_QUANTITY_PARENTS = frozenset({"limits", "requests"})
_QUANTITY_FIELDS = frozenset({"sizeLimit"})


def key_of(name: str) -> Callable[[Any], Any] | None:
    """What tells entries of the list `name` apart; None: the list has one writer as a whole."""
    return _KEYED.get(name)


def named(key: object) -> str:
    """A list entry's key as a part of a path."""
    return "/".join(map(str, cast("tuple[object, ...]", key))) if isinstance(key, tuple) else str(key)


def differences(wanted: Manifest, live: Manifest) -> Iterator[str]:
    """A sentence such as `spec.replicas: 1 -> 3` for each place where `live` is not as `wanted`."""
    yield from _compare(wanted, live, ())


def _compare(wanted: Any, live: Any, path: tuple[str, ...]) -> Iterator[str]:
    if wanted == live or (_is_empty(wanted) and _is_empty(live)):
        return
    if isinstance(wanted, dict) and isinstance(live, dict):
        yield from _compare_maps(wanted, live, path)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(wanted, list) and isinstance(live, list):
        yield from _compare_lists(wanted, live, path)  # pyright: ignore[reportUnknownArgumentType]
    elif not (_is_quantity(path) and _same_quantity(wanted, live)):
        yield f"{'.'.join(path)}: {shown(live)} -> {shown(wanted)}"


def _compare_maps(wanted: dict[str, Any], live: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in wanted.items():
        yield from _compare(value, live.get(key), (*path, key))
    if path and path[-1] in _ATOMIC_MAPS:
        for key in sorted(live.keys() - wanted.keys()):
            yield from _compare(None, live[key], (*path, key))


def _compare_lists(wanted: list[Any], live: list[Any], path: tuple[str, ...]) -> Iterator[str]:
    key = key_of(path[-1]) if path else None
    if key and all(isinstance(each, dict) for each in [*wanted, *live]):
        found = {key(each): each for each in live}
        for each in wanted:
            yield from _compare(each, found.get(key(each)), (*path, named(key(each))))
    elif len(wanted) != len(live):
        yield f"{'.'.join(path)}: {shown(live)} -> {shown(wanted)}"
    else:
        for index, (ours, theirs) in enumerate(zip(wanted, live, strict=True)):
            yield from _compare(ours, theirs, (*path, str(index)))


def _is_empty(value: Any) -> bool:
    """The server drops these where they are a field's zero value. False and 0 may be a choice, so they count."""
    if isinstance(value, dict):
        return all(_is_empty(each) for each in cast(dict[str, Any], value).values())
    return value is None or value in ("", [])


def _is_quantity(path: tuple[str, ...]) -> bool:
    return path[-1] in _QUANTITY_FIELDS or (len(path) > 1 and path[-2] in _QUANTITY_PARENTS)


def _same_quantity(wanted: Any, live: Any) -> bool:
    amount = parse_quantity(str(wanted))
    return amount is not None and amount == parse_quantity(str(live))


def shown(value: Any) -> str:
    """A value as a sentence can bear it."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
