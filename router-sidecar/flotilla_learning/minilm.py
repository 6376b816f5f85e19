"""A sentence encoder of MiniLM's kind (BERT), run by numpy from a folder that holds its published weights.

Sources: Devlin et al., BERT, arXiv 1810.04805; Wang et al., MiniLM, arXiv 2002.10957. Only distilling runs it: it takes
milliseconds a text, not microseconds.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float32]
_erf = cast("Callable[[Floats], Floats]", special.erf)
_BATCH_TOKENS = 4_096


class EncoderError(Exception):
    """The folder holds no encoder of this kind."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Weights by their published names, and the rows of the vocabulary."""

    weights: Mapping[str, Floats]
    rows: Mapping[str, int]
    layers: int
    heads: int
    epsilon: float
    longest: int
    """Tokens of a text, the two marks at its ends included."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """The mean of each text's token vectors, of norm 1; shape (texts, hidden)."""
        tokens = [self._tokens(text) for text in texts]
        vectors = np.zeros((len(texts), self.weights["embeddings.word_embeddings.weight"].shape[1]), np.float32)
        for batch in _batches(tokens):
            means = self._hidden(np.array([tokens[index] for index in batch])).mean(axis=1)
            vectors[batch] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    def _tokens(self, text: str) -> list[int]:
        pieces = [piece for word in basic_words(text) for piece in self._pieces(word)]
        return [self.rows["[CLS]"], *pieces[: self.longest - 2], self.rows["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """WordPiece: the longest piece that the vocabulary has, again and again."""
        pieces: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.rows), None)
            if end is None:
                return [self.rows["[UNK]"]]
            pieces.append(self.rows[mark + word[start:end]])
            start = end
        return pieces

    def _hidden(self, tokens: NDArray[np.int64]) -> Floats:
        """The last layer, shape (texts, tokens, hidden), of texts that have as many tokens each."""
        words, positions = (self.weights[f"embeddings.{part}_embeddings.weight"] for part in ("word", "position"))
        kind = self.weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self._normalised(words[tokens] + positions[: tokens.shape[1]] + kind, "embeddings.LayerNorm")
        for layer in range(self.layers):
            hidden = self._layer(hidden, f"encoder.layer.{layer}.")
        return hidden

    def _layer(self, hidden: Floats, name: str) -> Floats:
        attended = self._dense(self._attention(hidden, name + "attention.self."), name + "attention.output.dense")
        hidden = self._normalised(hidden + attended, name + "attention.output.LayerNorm")
        inner = self._dense(hidden, name + "intermediate.dense")
        inner *= (1 + _erf(inner / np.float32(np.sqrt(2)))) / 2  # GELU
        return self._normalised(hidden + self._dense(inner, name + "output.dense"), name + "output.LayerNorm")

    def _attention(self, hidden: Floats, name: str) -> Floats:
        texts, tokens, width = hidden.shape
        query, key, value = (
            self._dense(hidden, name + part).reshape(texts, tokens, self.heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // self.heads))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).transpose(0, 2, 1, 3).reshape(texts, tokens, width)

    def _dense(self, values: Floats, name: str) -> Floats:
        flat = values.reshape(-1, values.shape[-1])  # one product: many small ones take five times as long
        dense = flat @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]
        return dense.reshape(*values.shape[:-1], -1)

    def _normalised(self, values: Floats, name: str) -> Floats:
        values = values - values.mean(axis=-1, keepdims=True)
        values /= np.sqrt(np.square(values).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        return values * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def basic_words(text: str) -> list[str]:
    """BERT's words: small letters without accents; each mark, and each Han character, is a word."""
    plain = "".join(mark for mark in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(mark) != "Mn")
    parted = "".join(f" {each} " if _is_alone(each) else each for each in plain)
    return parted.split()


def _is_alone(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS" or 0x3400 <= ord(character) <= 0x9FFF


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of texts of one length each, so that nothing is padded."""
    lengths = np.array([len(each) for each in tokens], np.int64)
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        size = max(_BATCH_TOKENS // int(length), 1)
        for start in range(0, len(same), size):
            yield same[start : start + size].tolist()


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a folder with config.json, vocab.txt and model.safetensors.

    Raises:
        EncoderError: a file is missing, or it is of another architecture.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if (config["model_type"], config["hidden_act"]) != ("bert", "gelu"):
            raise EncoderError(f"{folder} holds another architecture than BERT with GELU.")
        words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        weights = read_safetensors((folder / "model.safetensors").read_bytes())
        encoder = Encoder(
            weights=weights,
            rows={word: row for row, word in enumerate(words)},
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            epsilon=float(config["layer_norm_eps"]),
            longest=256,
        )
        encoder.encode([""])  # reads every tensor
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{folder} holds no encoder that can be read: {error!r}.") from error
    return encoder


def read_safetensors(data: bytes) -> dict[str, Floats]:
    """The tensors of 32-bit floats: eight bytes of length, a JSON header, then the numbers.

    Raises:
        ValueError: it is no such file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = cast("dict[str, dict[str, object]]", json.loads(data[8:start]))
    tensors: dict[str, Floats] = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, end = cast("tuple[int, int]", entry["data_offsets"])
            shape = cast("list[int]", entry["shape"])
            tensors[name] = np.frombuffer(data[start + first : start + end], np.dtype("<f4")).reshape(shape)
    return tensors
