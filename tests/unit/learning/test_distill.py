"""Tables of whole-word vectors, as the router looks them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from artifacts import npz
from flotilla_api.artifact import EmbedderOptions
from flotilla_learning.distill import (
    DistillOptions,
    TableError,
    distill,
    frequencies,
    principal_components,
    read_table,
    write_table,
)
from flotilla_router.embedders import VECTORS, VOCABULARY, make_embedder

TOPICS = {"cat": 0.0, "dog": 0.2, "lion": 0.1, "sum": 1.5, "proof": 1.6, "prime": 1.4}
"""Angles: animals are near to each other, and so is mathematics."""


class Angles:
    """An encoder for which a word is a direction."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = [TOPICS.get(text, 3.0) for text in texts]
        return np.array([[np.cos(angle), np.sin(angle), 0.5, 0.5] for angle in angles], np.float32)


def words_in(table: dict[str, NDArray[np.generic]]) -> list[str]:
    return table[VOCABULARY].tobytes().decode().split("\n")


def test_words_alike_for_the_encoder_are_alike_for_the_router() -> None:
    """Through the table, `the cat` is nearer to `a lion` than to `a proof`."""
    table = distill(Angles(), TOPICS, [], DistillOptions(dims=2))
    embedder = make_embedder("Static", EmbedderOptions(), table)
    cat, lion, proof = (embedder.embed(text).dense for text in ("the cat", "a lion", "a proof"))

    assert cat @ lion > 0.9
    assert cat @ lion > cat @ proof


def test_only_whole_words_are_taken_and_the_encoders_own_first() -> None:
    """Pieces, marks and capitals are no words of the router's; single characters come after words."""
    vocabulary = ["[CLS]", "?", "a", "cat", "##s", "Dog", "dog", "don't"]
    prompts = ["zebra Zebra zebra!", "cat rare", "ants ants ants ants"]
    whole, cut = (distill(Angles(), vocabulary, prompts, DistillOptions(dims=2, words=words)) for words in (9, 3))

    assert words_in(whole) == ["cat", "dog", "a", "ants", "zebra"]
    assert words_in(cut) == ["cat", "dog", "a"]


def test_frequencies_are_those_of_prompts_with_zipfs_law_as_prior() -> None:
    """Three words have the Zipf shares 6/11, 3/11, 2/11; 11 words of prior beside 9 counted ones."""
    counts = {b"dog": 6, b"cat": 1, b"elsewhere": 2}

    assert frequencies([b"cat", b"dog", b"ant"], counts, 11).tolist() == pytest.approx([7 / 20, 9 / 20, 2 / 20])


def test_frequent_words_have_short_vectors() -> None:
    """At a frequency as large as the smoothing a vector has half its length."""
    options = DistillOptions(dims=2, smoothing=0.5, prior_words=0)
    plain, weighed = (distill(Angles(), TOPICS, prompts, options)[VECTORS] for prompts in (["none"], ["cat none"]))

    assert weighed[0] / plain[0] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert weighed[1:].tolist() == plain[1:].tolist()


def test_a_table_goes_through_its_file() -> None:
    """The same arrays come back."""
    table = distill(Angles(), TOPICS, [], DistillOptions(dims=2))
    read = read_table(write_table(table))

    assert {name: array.tolist() for name, array in read.items()} == {k: v.tolist() for k, v in table.items()}


def changed_table(**arrays: NDArray[np.generic]) -> bytes:
    return write_table(distill(Angles(), TOPICS, [], DistillOptions(dims=2)) | arrays)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(npz({"weights": np.zeros(1, np.float32)}), id="an artifact's weights"),
        pytest.param(changed_table(vectors=np.zeros((2, 2), np.float16)), id="too few vectors"),
        pytest.param(changed_table(vectors=np.full((6, 2), np.nan, np.float16)), id="no numbers"),
    ],
)
def test_a_file_without_a_table_is_refused(data: bytes) -> None:
    """It is looked at when it is read."""
    with pytest.raises(TableError, match="no table of words"):
        read_table(data)


def test_principal_components_keep_the_distances_that_vary() -> None:
    """Points in a plane of four dimensions stay as far from each other in two."""
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, 4)) + 7).astype(np.float32)

    kept = principal_components(points, 2)

    assert kept.shape == (50, 2)
    assert np.linalg.norm(kept[0] - kept[1:], axis=1) == pytest.approx(
        np.linalg.norm(points[0] - points[1:], axis=1), abs=1e-3
    )
    assert kept.var(axis=0)[0] >= kept.var(axis=0)[1]


def test_the_same_words_give_the_same_table() -> None:
    """So an artifact's embedder can be made again, with the same digest."""
    one, two = (distill(Angles(), TOPICS, [], DistillOptions(dims=3)) for _ in range(2))

    assert one[VECTORS].tobytes() == two[VECTORS].tobytes()


def test_too_few_words_are_refused() -> None:
    """Six words have no seven directions."""
    with pytest.raises(TableError, match="6 words"):
        distill(Angles(), TOPICS, [], DistillOptions(dims=6))
