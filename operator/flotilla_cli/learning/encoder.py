"""The encoder whose vectors an artifact scores by, as the commands of learning ask it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .progress import bar

if TYPE_CHECKING:
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.chat import Endpoint
    from flotilla_learning.vectors import PromptVectors

_TIMEOUT_SECONDS = 60.0
EmbedUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Of an artifact that scores by an embedding Expert's vectors: that one's base URL, such as "
        "http://127.0.0.1:8000/v1. Without it eval and diff judge by words.",
    ),
]
EmbedKeyEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="The environment variable with the API key of --embed-url.")
]


def endpoint_of(url: str, model: str, key_env: str | None, timeout: float, option: str) -> Endpoint:
    """A model behind a URL, with the key of an environment variable.

    Raises:
        InputError: the variable is not set.
    """
    from flotilla_learning.chat import Endpoint  # noqa: PLC0415 - the extra [train] may not be installed

    if not re.match(r"https?://[^/]", url):
        raise typer.BadParameter(f"{url!r} is no http(s) URL", param_hint=option)
    if key_env is not None and not os.environ.get(key_env):
        raise InputError(f"the environment variable {key_env} is not set, or empty")
    return Endpoint(url, model, None if key_env is None else os.environ[key_env], timeout)


def connect(url: str, model: str, key_env: str | None, dims: int | None = None) -> PromptVectors:
    """The encoder at a URL.

    Raises:
        InputError: it gives no vectors, or not of that length.
    """
    from flotilla_learning import vectors  # noqa: PLC0415
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415

    try:
        return vectors.connect(endpoint_of(url, model, key_env, _TIMEOUT_SECONDS, "--embed-url"), dims)
    except TrainingError as error:
        raise InputError(str(error)) from error


def fetch_vectors(vectors: PromptVectors, prompts: Sequence[str]) -> None:
    """The vectors of the prompts are known; with a bar.

    Raises:
        InputError: one cannot be had.
    """
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415

    with bar("vectors", len(prompts)) as advance:
        try:
            vectors.fetch(prompts, advance)
        except TrainingError as error:
            raise InputError(str(error)) from error


def connected(artifacts: list[Stored], url: str | None, key_env: str | None, *, writes: bool = False) -> list[Stored]:
    """The artifacts, with their vectors where a URL is given; without it a warning says that words score.

    writes: what is found becomes part of the artifact, so that words will not do.

    Raises:
        InputError: there are no vectors at the URL, or none is given that is needed.
    """
    if url is None and key_env is not None:
        raise typer.BadParameter("it belongs to --embed-url", param_hint="--embed-key-env")
    remotes = [stored.artifact.remote for stored in artifacts]
    if url is not None and not any(remotes):
        raise typer.BadParameter("no artifact scores by vectors", param_hint="--embed-url")
    found: list[Stored] = []
    for stored, remote in zip(artifacts, remotes, strict=True):
        if remote is None:
            found.append(stored)
        elif url is None and writes:
            raise InputError(f"it scores by the vectors of {remote.model}: give --embed-url")
        elif url is None:
            say("warning", f"words score here, not the vectors of {remote.model}: give --embed-url")
            found.append(stored)
        else:
            found.append(replace(stored, vectors=connect(url, remote.model, key_env, remote.dimensions)))
    return found
