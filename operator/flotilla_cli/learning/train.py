"""`flotilla train`: a router's artifact from rows of outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .assessment import assess_rows, screen, summarize
from .encoder import EmbedKeyEnv, connect, fetch_vectors
from .options import Prices, Without
from .progress import bar
from .reading import read_artifact, read_data

if TYPE_CHECKING:
    from flotilla_api.artifact import ModelPrice
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.assessing import Assessment
    from flotilla_learning.datasets import Example
    from flotilla_learning.training import Trained, TrainingOptions
    from flotilla_learning.vectors import PromptVectors

TEST_FILE = "test.jsonl"


def command(
    *,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled rows, RouteLLM's tables (.csv) or LLMRouter's (.json).")
    ],
    target: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder of the artifact.")],
    models: Annotated[
        str,
        typer.Option(metavar="WEAK,STRONG", help="The models, as the data name them; Cluster takes more."),
    ],
    strategy: Annotated[
        Literal["WinRate", "QualityGap", "Cluster"],
        typer.Option(help="WinRate, QualityGap or Cluster."),
    ] = "WinRate",
    embedder: Annotated[
        Literal["hashed", "static", "both"] | None,
        typer.Option(
            help="What a prompt is to it: hashed n-grams, word vectors (static), or both. "
            "Default: both with --vectors, else hashed."
        ),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The table of word vectors of the embedders static and both.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=6,
            max=20,
            help="Hashed n-grams have 2^N buckets. Default: 16; 12 for Cluster, 10 for SimilarityWeighted.",
        ),
    ] = None,
    embed_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Score by the vectors of an embedding Expert, asked at this base URL such as "
            "http://127.0.0.1:8000/v1; what --embedder says scores where no vector comes in time.",
        ),
    ] = None,
    embed_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="That model's name, there and in the policy.")
    ] = None,
    embed_key_env: EmbedKeyEnv = None,
    scorer: Annotated[
        Literal["Linear", "Factorised", "SimilarityWeighted"] | None,
        typer.Option(
            help="How WinRate and QualityGap score; Factorised, of WinRate: Linear by matrix factorisation. "
            "Default: Linear."
        ),
    ] = None,
    label: Annotated[
        Literal["Det", "Prob", "Trans"] | None,
        typer.Option(help="What QualityGap calls good enough, after its paper. Default: Prob."),
    ] = None,
    holdout: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=0.9, help="Rows that are not trained on, but judged by.")
    ] = 0.2,
    prices: Prices = None,
    without: Without = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the split, of training and of the bootstrap.")] = 0,
    summary: Annotated[
        Literal["table", "json"], typer.Option(help="How the figures are written: table or json.")
    ] = "table",
) -> None:
    """Train an artifact.

    Near duplicates are never parted, so the rows held out say what new prompts will see; they are written to
    DIR/test.jsonl. The same data and seed always give the same artifact:

      flotilla train labelled.jsonl --models invoice,big -o router-11
    """
    names = tuple(each.strip() for each in models.split(",") if each.strip())
    _check_usage((strategy, scorer, label), (embedder, vectors, bits))
    encoder = _encoder(embed_url, embed_model, embed_key_env)
    rows = read_data(data, prices=prices, without=without)
    rest, test = _parted(rows, holdout, seed)
    kind = embedder or ("hashed" if vectors is None else "both")
    options = _options(names, (strategy, scorer or "Linear", label or "Prob"), (kind, vectors, bits), seed)
    with bar("training", None):
        trained = _train(rest, options, str(data))
    fallback = None
    if encoder is not None:
        fetch_vectors(encoder, [row.prompt for row in rest])
        fallback, trained = trained, _train(rest, replace(options, embedder=encoder), str(data))
    paid = _paid(prices, names)
    _write(target, _packed(trained, fallback, (), paid), test)
    if trained.skipped:
        say("warning", f"{trained.skipped} rows not trained on: they lack an outcome of {', '.join(names)}")
    stored = replace(read_artifact(target), vectors=encoder)
    assessment = _assessed(stored, test, seed)
    if assessment is not None:
        _write(target, _packed(trained, fallback, assessment.metrics, paid), test)
        stored = read_artifact(target)
    _report(target, stored, trained, assessment, summary)


def _check_usage(
    kinds: tuple[str, str | None, str | None], reading: tuple[str | None, Path | None, int | None]
) -> None:
    (strategy, scorer, label), (embedder, vectors, bits) = kinds, reading
    if scorer is not None and strategy == "Cluster":
        raise typer.BadParameter("it belongs to WinRate and QualityGap", param_hint="--scorer")
    if label is not None and strategy != "QualityGap":
        raise typer.BadParameter("it belongs to QualityGap", param_hint="--label")
    if vectors is not None and embedder == "hashed":
        raise typer.BadParameter("it belongs to the embedders static and both", param_hint="--vectors")
    if bits is not None and embedder == "static":
        raise typer.BadParameter("it belongs to the embedders hashed and both", param_hint="--bits")


def _encoder(url: str | None, model: str | None, key_env: str | None) -> PromptVectors | None:
    """None: words alone are trained on."""
    if (url is None) != (model is None):
        raise typer.BadParameter("--embed-url and --embed-model need each other", param_hint="--embed-model")
    if url is None and key_env is not None:
        raise typer.BadParameter("it belongs to --embed-url", param_hint="--embed-key-env")
    return None if url is None else connect(url, model or "", key_env)


def _parted(rows: Sequence[Example], holdout: float, seed: int) -> tuple[list[Example], list[Example]]:
    from flotilla_learning.splits import split_groups  # noqa: PLC0415 - the extra [train] may not be installed

    rest, test = split_groups(rows, share=holdout, seed=seed)
    return [rows[int(each)] for each in rest], [rows[int(each)] for each in test]


def _options(
    models: tuple[str, ...],
    kinds: tuple[Any, Any, Any],
    reading: tuple[Any, Path | None, int | None],
    seed: int,
) -> TrainingOptions:
    from flotilla_learning.embedding import embedder_of  # noqa: PLC0415
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415
    from flotilla_learning.training import DEFAULT_BITS, TrainingOptions  # noqa: PLC0415

    strategy, method, label = kinds
    plane = "Factorised" if method == "Factorised" else "Ridge"
    scorer = "SimilarityWeighted" if method == "SimilarityWeighted" else "Linear"
    if len(set(models)) != len(models) or len(models) < 2 or (strategy != "Cluster" and len(models) != 2):
        wanted = "two or more models" if strategy == "Cluster" else "two models, the weak one first"
        raise typer.BadParameter(f"{strategy} takes {wanted}", param_hint="--models")
    embedder, vectors, bits = reading
    buckets = bits or DEFAULT_BITS["Clusters" if strategy == "Cluster" else scorer]
    try:
        found = embedder_of(embedder, vectors, bits=buckets)
    except TrainingError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"{vectors}: {error.strerror or error}") from error
    return TrainingOptions(strategy, models, found, scorer, label, seed, plane=plane)


def _train(rows: Sequence[Example], options: TrainingOptions, name: str) -> Trained:
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415
    from flotilla_learning.training import train  # noqa: PLC0415

    try:
        return train(rows, options)
    except TrainingError as error:
        raise InputError(f"{name}: {error}") from error


def _paid(table: Path | None, models: Sequence[str]) -> dict[str, ModelPrice]:
    """The prices of these models, for the manifest; the table was read with the data before."""
    from flotilla_api.artifact import ModelPrice  # noqa: PLC0415
    from flotilla_learning.llmrouter import read_prices  # noqa: PLC0415

    found = {} if table is None else {name: each for name, each in read_prices(table).items() if name in models}
    return {name: ModelPrice(inputPerMillionUSD=given, outputPerMillionUSD=got) for name, (given, got) in found.items()}


def _packed(
    trained: Trained, fallback: Trained | None, metrics: Sequence[Any], prices: Mapping[str, ModelPrice]
) -> Mapping[str, bytes]:
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415
    from flotilla_learning.packing import pack  # noqa: PLC0415

    try:
        return pack(trained, fallback=fallback, metrics=metrics, prices=prices)
    except TrainingError as error:
        raise InputError(str(error)) from error


def _write(target: Path, files: Mapping[str, bytes], test: Sequence[Example]) -> None:
    from flotilla_learning.artifacts import write_artifact  # noqa: PLC0415
    from flotilla_learning.datasets import format_example  # noqa: PLC0415

    try:
        write_artifact(target, files)
        lines = "".join(format_example(replace(row, group="")) + "\n" for row in test)
        (target / TEST_FILE).write_text(lines, encoding="utf-8", errors="surrogatepass")
    except OSError as error:
        raise InputError(f"{target}: {error.strerror or error}") from error


def _assessed(stored: Stored, test: Sequence[Example], seed: int) -> Assessment | None:
    """None: too little is held out to say anything, which is said."""
    if not test:
        say("warning", "no row is held out, so nothing is known of new prompts")
        return None
    try:
        return assess_rows(stored, test, "the rows held out", seed=seed)
    except InputError as error:
        say("warning", f"the artifact has no figures: {error}")
        return None


def _report(target: Path, stored: Stored, trained: Trained, assessment: Assessment | None, summary: str) -> None:
    digest, rows = stored.artifact.digest, len(trained.examples)
    if summary == "json":
        figures = None if assessment is None else summarize(assessment)
        typer.echo(json.dumps({"digest": digest, "trainedRows": rows, "heldOut": figures}, indent=2))
        return
    typer.echo(f"{target}: {digest}, trained on {rows:,} rows")
    if assessment is not None:
        typer.echo("\n".join([f"On {assessment.rows:,} rows held out:", "", *screen(assessment)]))
