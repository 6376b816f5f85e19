"""An embedding Expert over HTTP: what is sent to its `/v1/embeddings`, and what is read of the answer.

The router's own I/O sends it. Source: OpenAI's embeddings API, as vLLM serves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from flotilla_router.text import clip
from flotilla_router.wire import DECODE_ERRORS

from .embedding import NONE_SPARSE, Embedding

PATH = "/v1/embeddings"
_BYTES_PER_NUMBER = 32
_BYTES_BESIDE = 65_536


class VectorError(ValueError):
    """An answer holds no vector that can be scored."""


class _Item(msgspec.Struct, gc=False):
    embedding: list[float]


class _Answer(msgspec.Struct, gc=False):
    data: list[_Item]


_decode_answer = msgspec.json.Decoder(_Answer).decode


def request_body(model: str, text: str) -> bytes:
    """The request for the vector of a text, which is clipped; `model` is what the endpoint calls it.

    Encoders often take 512 tokens, and 1,024 characters may be more: vLLM then cuts the text rather than refuse it.
    """
    text = clip(text).encode("utf-8", "replace").decode()
    return msgspec.json.encode(
        {"model": model, "input": text, "encoding_format": "float", "truncate_prompt_tokens": -1}
    )


def longest_answer(dimensions: int) -> int:
    """Bytes; a longer answer need not be read."""
    return dimensions * _BYTES_PER_NUMBER + _BYTES_BESIDE


def read_vector(body: bytes, dimensions: int) -> Embedding:
    """The vector of an answer, scaled to norm 1.

    Raises:
        VectorError: there is not exactly one, of that length, finite and not zero.
    """
    return scaled(read_numbers(body), dimensions)


def read_numbers(body: bytes) -> list[float]:
    """The numbers of an answer, of whatever length.

    Raises:
        VectorError: it is no answer with exactly one vector.
    """
    try:
        data = _decode_answer(body).data
    except DECODE_ERRORS as error:
        raise VectorError(f"The answer is no list of embeddings: {error}.") from error
    if len(data) != 1:
        raise VectorError(f"The answer has {len(data)} embeddings, not one.")
    return data[0].embedding


def scaled(vector: Sequence[float], dimensions: int) -> Embedding:
    """The vector at norm 1.

    Raises:
        VectorError: it is of another length, not finite or zero.
    """
    if len(vector) != dimensions:
        raise VectorError(f"The embedding has {len(vector)} numbers, not {dimensions}.")
    norm = math.hypot(*vector)
    if not 0 < norm < math.inf:
        raise VectorError("The embedding is zero or not finite.")
    return Embedding(*NONE_SPARSE, (np.array(vector) / norm).astype(np.float32))
