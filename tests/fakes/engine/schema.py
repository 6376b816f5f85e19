"""One instance of a JSON schema: what grammar-guided decoding would let through, the shortest sensible one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Schema = Mapping[str, "Json"]

_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "host.example.com",
}

MAX_DEPTH = 16
"""Recursive schemas stop here; optional properties are left out from then on."""


def instance(schema: object, choice: int) -> Json:
    """Return a value that `schema` accepts; `choice` picks among its free values. `pattern` is not solved."""
    root: Schema = _mapping(schema)
    return _value(root, root, choice, 0)


def _value(schema: Schema, root: Schema, choice: int, depth: int) -> Json:
    schema = _resolved(schema, root, choice)
    if "const" in schema:
        return schema["const"]
    if isinstance(options := schema.get("enum"), list) and options:
        return options[choice % len(options)]
    kind = _type(schema, choice)
    if kind == "object":
        return _object(schema, root, choice, depth)
    if kind == "array":
        item = _mapping(schema.get("items"))
        return [_value(item, root, choice + i, depth + 1) for i in range(_int(schema, "minItems", 1))]
    return _scalar(kind, schema, choice)


def _scalar(kind: str, schema: Schema, choice: int) -> Json:
    match kind:
        case "string":
            return _string(schema)
        case "integer":
            return int(_number(schema, choice, 1))
        case "number":
            return _number(schema, choice, 0.5)
        case "boolean":
            return bool(choice % 2)
        case _:
            return None


def _resolved(schema: Schema, root: Schema, choice: int) -> Schema:
    """Follow `$ref`, `allOf`, `anyOf` and `oneOf` until a plain schema is left."""
    for _ in range(MAX_DEPTH):
        if isinstance(ref := schema.get("$ref"), str):
            schema = _pointed(root, ref)
        elif isinstance(parts := schema.get("allOf"), list):
            schema = _merged([{k: v for k, v in schema.items() if k != "allOf"}, *map(_mapping, parts)])
        elif isinstance(options := schema.get("anyOf") or schema.get("oneOf"), list) and options:
            rest = {k: v for k, v in schema.items() if k not in {"anyOf", "oneOf"}}
            schema = _merged([rest, _mapping(options[choice % len(options)])])
        else:
            break
    return schema


def _merged(parts: Sequence[Schema]) -> Schema:
    merged: dict[str, Json] = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                merged[key] = {**_mapping(merged.get(key)), **_mapping(value)}
            elif key == "required" and isinstance(value, list):
                before = merged.get(key)
                merged[key] = [*(before if isinstance(before, list) else []), *value]
            else:
                merged[key] = value
    return merged


def _pointed(root: Schema, ref: str) -> Schema:
    target: Json = dict(root)
    for part in ref.removeprefix("#").strip("/").split("/"):
        if part:
            target = _mapping(target).get(part.replace("~1", "/").replace("~0", "~"))
    return _mapping(target)


def _type(schema: Schema, choice: int) -> str:
    declared = schema.get("type")
    if isinstance(declared, list) and declared:
        return str(declared[choice % len(declared)])
    if isinstance(declared, str):
        return declared
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _object(schema: Schema, root: Schema, choice: int, depth: int) -> Json:
    properties = _mapping(schema.get("properties"))
    required = schema.get("required")
    names = list(properties) if depth < MAX_DEPTH else []
    names += [str(name) for name in (required if isinstance(required, list) else []) if name not in names]
    if depth >= MAX_DEPTH * 2:
        return {}
    return {name: _value(_mapping(properties.get(name)), root, choice, depth + 1) for name in names}


def _string(schema: Schema) -> str:
    text = _FORMATS.get(str(schema.get("format")), "simulated")
    text += "x" * (_int(schema, "minLength", 0) - len(text))
    return text[: _int(schema, "maxLength", len(text))]


def _number(schema: Schema, choice: int, step: float) -> float:
    low, high = (
        _bound(schema, "minimum", "exclusiveMinimum", step),
        _bound(schema, "maximum", "exclusiveMaximum", -step),
    )
    multiple = schema.get("multipleOf")
    if isinstance(multiple, int | float) and multiple > 0:
        lowest = -(-(low if low is not None else 0) // multiple) * multiple
        return min(lowest, high) if high is not None else lowest
    if low is None:
        return min(choice % 10, high) if high is not None else choice % 10
    span = 10 if high is None else max(1, int(high - low) + 1)
    value = low + choice % span
    return value if high is None else min(value, high)


def _bound(schema: Schema, inclusive: str, exclusive: str, step: float) -> float | None:
    if isinstance(value := schema.get(inclusive), int | float):
        return value
    if isinstance(value := schema.get(exclusive), int | float):
        return value + step
    return None


def _int(schema: Schema, key: str, default: int) -> int:
    value = schema.get(key)
    return int(value) if isinstance(value, int | float) else default


def _mapping(value: object) -> dict[str, Json]:
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}
