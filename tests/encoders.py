"""A sentence encoder of one layer and four numbers, in the files in which encoders are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN, INNER = 4, 6
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "prime", "numbers", "##s", "un", "##believ", "##able", "?", "素"]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "layer_norm_eps": 1e-12,
}
Weights = dict[str, NDArray[np.float32]]


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every tensor that a model of one layer has, by its published name."""
    layer = "encoder.layer.0."
    dense = {
        f"{layer}attention.self.query": (HIDDEN, HIDDEN),
        f"{layer}attention.self.key": (HIDDEN, HIDDEN),
        f"{layer}attention.self.value": (HIDDEN, HIDDEN),
        f"{layer}attention.output.dense": (HIDDEN, HIDDEN),
        f"{layer}intermediate.dense": (INNER, HIDDEN),
        f"{layer}output.dense": (HIDDEN, INNER),
    }
    norms = ["embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    return {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": (512, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        **{f"{name}.weight": shape for name, shape in dense.items()},
        **{f"{name}.bias": shape[:1] for name, shape in dense.items()},
        **{f"{name}.{part}": (HIDDEN,) for name in norms for part in ("weight", "bias")},
    }


def random_weights() -> Weights:
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes().items()}


def safetensors(weights: Weights) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    position = 0
    for name, array in weights.items():
        blobs.append(array.tobytes())
        offsets = [position, position := position + len(blobs[-1])]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(blobs)


def a_folder(folder: Path, weights: Weights, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    return folder
