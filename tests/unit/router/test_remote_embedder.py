"""The wire format of an embedding endpoint."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.embedders.remote import VectorError, longest_answer, read_vector, request_body

ANSWER = {
    "id": "embd-1",
    "object": "list",
    "model": "embed",
    "data": [{"index": 0, "object": "embedding", "embedding": [3, 4.0]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}


def test_the_request_is_openais_and_holds_the_ends_of_the_text() -> None:
    """Plain numbers are asked for, of the first and the last 512 characters, or of as many as the encoder takes."""
    body = json.loads(request_body("embed", "a" * 1_000 + "b" * 1_000))

    assert body.pop("truncate_prompt_tokens") == -1
    assert body == {"model": "embed", "input": "a" * 512 + "b" * 512, "encoding_format": "float"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_every_text_can_be_sent(text: str) -> None:
    """Half a surrogate pair, which UTF-8 does not have, is sent as a question mark."""
    assert len(json.loads(request_body("embed", text))["input"]) == min(len(text), 1_024)


def test_the_vector_is_scaled_to_norm_one() -> None:
    """(3, 4) is (0.6, 0.8)."""
    embedding = read_vector(json.dumps(ANSWER).encode(), 2)

    assert embedding.dense.tolist() == pytest.approx([0.6, 0.8])
    assert not len(embedding.indices)


def test_a_whole_answer_fits_the_bound() -> None:
    """Doubles at their longest, with all that is around them."""
    numbers = [-1.7976931348623157e-308] * 4_096

    assert len(json.dumps(ANSWER | {"data": [{"embedding": numbers}]})) < longest_answer(4_096)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "no list of embeddings", id="empty"),
        pytest.param(b"<html>", "no list of embeddings", id="no JSON"),
        pytest.param(b"[" * 100_000, "no list of embeddings", id="nested too deeply"),
        pytest.param(b'{"error": {"message": "no"}}', "no list of embeddings", id="an error"),
        pytest.param(b'{"data": []}', "0 embeddings", id="none"),
        pytest.param(b'{"data": [{"embedding": [1, 2]}, {"embedding": [1, 2]}]}', "2 embeddings", id="two"),
        pytest.param(b'{"data": [{"embedding": [1]}]}', "1 numbers, not 2", id="another length"),
        pytest.param(b'{"data": [{"embedding": [1, "x"]}]}', "no list of embeddings", id="a text in it"),
        pytest.param(b'{"data": [{"embedding": [1, NaN]}]}', "no list of embeddings", id="NaN"),
        pytest.param(b'{"data": [{"embedding": [0, 0]}]}', "zero", id="zero"),
        pytest.param(b'{"data": [{"embedding": [1.7e308, 1.7e308]}]}', "not finite", id="too long"),
        pytest.param(b'{"data": [{"embedding": "AACAPwAAAEA="}]}', "no list of embeddings", id="base64"),
    ],
)
def test_an_answer_without_one_usable_vector_is_refused(body: bytes, says: str) -> None:
    """The router falls back then."""
    with pytest.raises(VectorError, match=says):
        read_vector(body, 2)
