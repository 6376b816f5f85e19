"""Streams as documents: none of their text is lost, and each value is where its text is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_cli.documents import Document, compose, parse, split
from flotilla_cli.errors import InputError

PIECES = st.sampled_from(
    ["---", "...", "--- a", "---x", "a: 1", "{}", '{"a": 1}', "# c", "\n", "\r\n", "\r", " ", "%YAML"]
)


def values(stream: str) -> list[Any]:
    return [parse(document) for document in split(stream)]


@given(pieces=st.lists(PIECES))
def test_the_documents_joined_are_the_stream(pieces: list[str]) -> None:
    """Whatever it is made of."""
    stream = "".join(pieces)

    assert "".join(document.text for document in split(stream)) == stream


@pytest.mark.parametrize(
    ("stream", "held"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param("# c\n\n", [None], id="a comment"),
        pytest.param("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}], id="a marker between"),
        pytest.param("---\r\na: 1\r\n--- # c\r\nb: 2\r\n", [{"a": 1}, {"b": 2}], id="Windows' line ends"),
        pytest.param("a: 1\r---\rb: 2\r", [{"a": 1}, {"b": 2}], id="line ends of old Macs"),
        pytest.param("a: 1\n...\n# c\n---\nb: 2\n...\n", [{"a": 1}, None, {"b": 2}], id="ends of documents"),
        pytest.param("%YAML 1.2\n---\na: 1\n", [None, {"a": 1}], id="a directive"),
        pytest.param("a: |\n  ---\n  ...\n---x: 1\n", [{"a": "---\n...\n", "---x": 1}], id="no markers"),
        pytest.param("\ufeffa: 1\n", [{"a": 1}], id="a byte order mark"),
        pytest.param('{"a": 1}\n{"b": "}{"}', [{"a": 1}, {"b": "}{"}], id="JSON after JSON"),
        pytest.param('---\n{"a": 1} # c\n', [{"a": 1}], id="JSON with a comment"),
        pytest.param("{a: 1}\n", [{"a": 1}], id="brackets that are no JSON"),
        pytest.param('{\n\t"a": "\\ud83d\\ude00"\n}', [{"a": "\U0001f600"}], id="JSON with tabs and surrogates"),
        pytest.param("a: 2026-11-23\nb: =\n", [{"a": "2026-11-23", "b": "="}], id="times are texts"),
        pytest.param("a: !x [1]\nb: !y {c: 1}\nd: !z e\n", [{"a": [1], "b": {"c": 1}, "d": "e"}], id="unknown tags"),
    ],
)
def test_a_stream_holds_these_documents(stream: str, held: list[Any]) -> None:
    """One value for each, None for one of comments alone."""
    assert values(stream) == held


@pytest.mark.parametrize("text", ["a: [1\nb: 2\n", "a: {{ .Values.a }}\n", "a: *b\n"])
def test_what_is_no_yaml_is_named_with_its_line(text: str) -> None:
    """Counted from the stream's beginning."""
    *_, document = split(f"# c\n---\n{text}")

    with pytest.raises(InputError, match=r"^line [34]: "):
        parse(document)


def test_nodes_stand_where_their_text_is() -> None:
    """Also in JSON with tabs, which YAML parsers do not take, and where an alias stands for something."""
    json = '{\n\t"a":\t[1]\n}'
    yaml = "a: &x [1]\nb: *x\n"

    (_, one) = compose(Document(json, 1)).value[0]
    (_, other) = compose(Document(yaml, 1)).value[1]

    assert json[one.start_mark.index : one.end_mark.index] == "[1]"
    assert yaml[other.start_mark.index : other.end_mark.index] == "*x"
