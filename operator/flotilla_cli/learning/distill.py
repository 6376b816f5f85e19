"""`flotilla distill`: the table of word vectors that a static embedder looks up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flotilla_cli.errors import InputError

from .progress import bar
from .reading import read_rows

if TYPE_CHECKING:
    from flotilla_learning.minilm import Encoder


def command(
    *,
    model: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A MiniLM's folder: config.json, vocab.txt and model.safetensors."),
    ],
    target: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where the table goes (npz).")],
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Rows whose prompts say how frequent words are, and add words of their own."),
    ] = None,
    dims: Annotated[int, typer.Option(metavar="N", min=2, max=384, help="Numbers in a vector.")] = 128,
    words: Annotated[int, typer.Option(metavar="N", min=100, max=80_000, help="Words in the table, at most.")] = 30_000,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the table's size is written: table or json.")
    ] = "table",
) -> None:
    """Distil word vectors from a MiniLM.

    Every whole word of its vocabulary is encoded by itself. The table goes into each artifact that is trained with it:

      flotilla distill all-MiniLM-L6-v2 --prompts labelled.jsonl -o words.npz
    """
    from flotilla_learning.distill import DistillOptions, TableError, distill, write_table  # noqa: PLC0415

    encoder = _encoder(model)
    texts = [] if prompts is None else [row.prompt for row in read_rows(prompts)]
    try:
        with bar("words", None) as advance:
            table = distill(encoder, encoder.rows, texts, DistillOptions(dims=dims, words=words), advance)
    except TableError as error:
        raise InputError(f"{model}: {error}") from error
    data = write_table(table)
    try:
        target.write_bytes(data)
    except OSError as error:
        raise InputError(f"{target}: {error.strerror or error}") from error
    count, length = table["vectors"].shape
    if summary == "json":
        typer.echo(json.dumps({"words": count, "dims": length, "bytes": len(data), "file": str(target)}))
    else:
        typer.echo(f"{count:,} words x {length}, {len(data):,} bytes  {target}")


def _encoder(folder: Path) -> Encoder:
    from flotilla_learning.minilm import EncoderError, load_encoder  # noqa: PLC0415 - needs the extra [train]

    try:
        return load_encoder(folder)
    except EncoderError as error:
        raise InputError(str(error)) from error
