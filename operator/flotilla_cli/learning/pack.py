"""`flotilla pack`: an artifact as a policy can name it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
import yaml

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .reading import read_artifact

CONFIGMAP_MAX_BYTES = 1024 * 1024
"""More than that no API server takes."""
APPLY_MAX_BYTES = 250 * 1024
"""kubectl apply writes what it applies into an annotation, which may have 256 KiB."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _BlockText(str):
    """A text that is written as a block, which a person can read."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    pass


def _as_block(dumper: yaml.SafeDumper, text: _BlockText) -> yaml.Node:
    represent = cast("Callable[..., yaml.Node]", dumper.represent_scalar)  # pyright: ignore[reportUnknownMemberType]
    return represent("tag:yaml.org,2002:str", str(text), style="|")


_Dumper.add_representer(_BlockText, _as_block)


def command(
    *,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder, or its tar.")],
    target: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the tar, for artifact.file, url or oci of a policy."),
    ] = None,
    configmap: Annotated[
        str | None, typer.Option(metavar="NAME", help="Write a ConfigMap of this name to standard output.")
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option("-n", "--namespace", metavar="NAME", help="Of the ConfigMap. Default: none."),
    ] = None,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the tar's digest is written: table or json.")
    ] = "table",
) -> None:
    """Pack an artifact, and say its digest.

    It is read with all the checks of a router first. As a ConfigMap, which cannot be changed once it is applied:

      flotilla pack artifact --configmap router-2026-11 -n agents | kubectl apply --server-side -f -
    """
    if (target is None) == (configmap is None):
        raise typer.BadParameter("give one of -o and --configmap", param_hint="-o")
    if configmap is not None and not _NAME.fullmatch(configmap):
        raise typer.BadParameter(f"{configmap!r} cannot be a ConfigMap's name", param_hint="--configmap")
    stored = read_artifact(source)
    if target is not None:
        _write_tar(target, stored.files, stored.artifact.digest, summary)
    else:
        _write_configmap(configmap or "", namespace, stored.files, stored.artifact.digest)


def _write_tar(target: Path, files: Mapping[str, bytes], digest: str, summary: str) -> None:
    from flotilla_api.artifact import write_tar  # noqa: PLC0415

    data = write_tar(files)
    try:
        target.write_bytes(data)
    except OSError as error:
        raise InputError(f"{target}: {error.strerror or error}") from error
    if summary == "json":
        typer.echo(json.dumps({"digest": digest, "bytes": len(data), "file": str(target)}))
    else:
        typer.echo(f"{digest}  {target}")


def _write_configmap(name: str, namespace: str | None, files: Mapping[str, bytes], digest: str) -> None:
    size = sum(len(key) + len(data) for key, data in files.items())
    if size > CONFIGMAP_MAX_BYTES:
        say("warning", f"{size:,} bytes are more than a ConfigMap holds: use -o, and artifact.url or oci in the policy")
    elif size > APPLY_MAX_BYTES:
        say("warning", f"{size:,} bytes are more than kubectl apply takes without --server-side")
    typer.echo(f'# artifact: {{configMapRef: {{name: {name}}}, digest: "{digest}"}}')
    typer.echo(
        yaml.dump(_configmap(name, namespace, files), Dumper=_Dumper, sort_keys=False, allow_unicode=True), nl=False
    )


def _configmap(name: str, namespace: str | None, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Immutable: its digest would not be that of other content. What is UTF-8 stays readable."""
    texts: dict[str, str] = {}
    binary: dict[str, str] = {}
    for key, data in sorted(files.items()):
        try:
            texts[key] = _BlockText(data.decode())
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(data).decode()
    metadata = {"name": name} | ({} if namespace is None else {"namespace": namespace})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "immutable": True,
        "data": texts,
        "binaryData": binary,
    }
