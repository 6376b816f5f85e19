"""The sentence encoder, on weights small enough to follow by hand."""

from __future__ import annotations

from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import Weights, a_folder, random_weights, safetensors
from flotilla_learning.minilm import Encoder, EncoderError, basic_words, load_encoder, read_safetensors


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return load_encoder(a_folder(tmp_path, random_weights()))


def layer_norm(row: NDArray[np.float64], weights: Weights, name: str) -> NDArray[np.float64]:
    scaled = (row - row.mean()) / np.sqrt(row.var() + 1e-12)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def reference(tokens: list[int], weights: Weights) -> NDArray[np.float64]:
    """BERT's equations, token by token and head by head, in doubles."""

    def dense(row: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return weights[f"{name}.weight"].astype(float) @ row + weights[f"{name}.bias"]

    table, places = weights["embeddings.word_embeddings.weight"], weights["embeddings.position_embeddings.weight"]
    kind = weights["embeddings.token_type_embeddings.weight"][0]
    rows = [
        layer_norm(table[token].astype(float) + places[place] + kind, weights, "embeddings.LayerNorm")
        for place, token in enumerate(tokens)
    ]
    layer = "encoder.layer.0."
    parts = [f"{layer}attention.self.{part}" for part in ("query", "key", "value")]
    query, key, value = ([dense(row, part) for row in rows] for part in parts)
    done: list[NDArray[np.float64]] = []
    for position, row in enumerate(rows):
        heads: list[NDArray[np.float64]] = []
        for head in (slice(0, 2), slice(2, 4)):
            powers = np.exp([query[position][head] @ other[head] / sqrt(2) for other in key])
            heads.append((powers / powers.sum()) @ np.array([other[head] for other in value]))
        attended = dense(np.concatenate(heads), f"{layer}attention.output.dense")
        middle = layer_norm(row + attended, weights, f"{layer}attention.output.LayerNorm")
        inner = np.array([x * (1 + erf(x / sqrt(2))) / 2 for x in dense(middle, f"{layer}intermediate.dense")])
        done.append(layer_norm(middle + dense(inner, f"{layer}output.dense"), weights, f"{layer}output.LayerNorm"))
    mean = np.mean(done, axis=0)
    return mean / np.linalg.norm(mean)


def test_encoding_follows_berts_equations(encoder: Encoder) -> None:
    """[CLS] prime number [UNK for s] ... [SEP], the mean of all tokens, at norm 1."""
    tokens = [2, 4, 5, 10, 3]

    assert encoder.encode(["Prime numbers?"])[0] == pytest.approx(reference(tokens, random_weights()), abs=1e-5)


def test_a_text_is_encoded_the_same_alone_and_among_others(encoder: Encoder) -> None:
    """Texts of other lengths are in other batches, and the order stays."""
    texts = ["prime", "unbelievable numbers", "", "numbers", "prime prime prime"]

    together = encoder.encode(texts)

    for text, row in zip(texts, together, strict=True):
        assert row == pytest.approx(encoder.encode([text])[0], abs=1e-5)


def test_words_are_divided_into_the_longest_pieces(encoder: Encoder) -> None:
    """`unbelievable` is un ##believ ##able, `primes` prime ##s; what has no pieces is unknown."""
    unbelievable, primes, unknown = [2, 7, 8, 9, 3], [2, 4, 6, 3], [2, 1, 3]

    for text, tokens in (("unbelievable", unbelievable), ("primes", primes), ("zebra", unknown)):
        assert encoder.encode([text])[0] == pytest.approx(reference(tokens, random_weights()), abs=1e-5)


def test_a_long_text_is_cut_at_the_encoders_length(encoder: Encoder) -> None:
    """256 tokens, the marks at both ends included."""
    assert encoder.encode(["prime " * 400])[0] == pytest.approx(encoder.encode(["prime " * 254])[0], abs=1e-5)


def test_basic_words_are_berts() -> None:
    """Small letters, no accents, marks and Han characters by themselves."""
    assert basic_words("Été, 素数?") == ["ete", ",", "素", "数", "?"]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"model_type": "roberta"}, id="another architecture"),
        pytest.param({"hidden_act": "relu"}, id="another activation"),
        pytest.param({"layer_norm_eps": None}, id="no number"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    """Its equations are not these."""
    with pytest.raises(EncoderError):
        load_encoder(a_folder(tmp_path, random_weights(), **config))


def test_a_model_with_a_tensor_missing_is_refused(tmp_path: Path) -> None:
    """When it is loaded, and not at the first text."""
    weights = random_weights()
    del weights["encoder.layer.0.output.dense.bias"]

    with pytest.raises(EncoderError, match=r"output\.dense\.bias"):
        load_encoder(a_folder(tmp_path, weights))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """The message names the folder."""
    with pytest.raises(EncoderError, match=tmp_path.name):
        load_encoder(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0no json", safetensors(random_weights())[:-8]])
def test_broken_safetensors_are_refused(data: bytes) -> None:
    """Truncated or no such file."""
    with pytest.raises(ValueError, match=r".+"):
        read_safetensors(data)
