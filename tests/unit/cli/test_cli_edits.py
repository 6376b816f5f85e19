"""Where in a text additions stand, for what is written in less common ways."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flotilla_cli.documents import Document, compose, parse
from flotilla_cli.edits import additions, apply, open_page, replacement
from flotilla_cli.errors import EditError

ROOT = Path(__file__).parents[3]


def added(text: str, after: dict[str, Any]) -> str:
    """`text`, whose mapping is to become `after`."""
    document = Document(text, 1)
    page = open_page(document, compose(document), ())
    return apply(text, additions(page, (), parse(document), after))


@pytest.mark.parametrize(
    ("text", "new", "result"),
    [
        pytest.param("a: 1", {"b": 2}, "a: 1\nb: 2", id="a file without a last line end"),
        pytest.param("a: 1\n\n# end\n", {"b": 2}, "a: 1\nb: 2\n\n# end\n", id="a comment after a blank line"),
        pytest.param("a: 1\n# one\n# two\n", {"b": 2}, "a: 1\n# one\n# two\nb: 2\n", id="comments right after"),
        pytest.param(
            "a:\n  x: 1\n # x\n# a\n",
            {"a": {"x": 1, "z": 2}},
            "a:\n  x: 1\n  z: 2\n # x\n# a\n",
            id="comments further left",
        ),
        pytest.param("a: |\n  x\n\n", {"b": 2}, "a: |\n  x\nb: 2\n\n", id="blank lines that are no text"),
        pytest.param("a: |+\n  x\n\n", {"b": 2}, "a: |+\n  x\n\nb: 2\n", id="blank lines that are text"),
        pytest.param("a: >-\n  x\n  y\n", {"b": 2}, "a: >-\n  x\n  y\nb: 2\n", id="a folded text"),
        pytest.param("a: 'x\n\n  y'  # c\n", {"b": 2}, "a: 'x\n\n  y'  # c\nb: 2\n", id="a quoted text over lines"),
        pytest.param("a: &x 1\nc: *x # c\n", {"b": 2}, "a: &x 1\nc: *x # c\nb: 2\n", id="an alias at the end"),
        pytest.param("a: &x\n", {"b": 2}, "a: &x\nb: 2\n", id="an anchor at the end"),
        pytest.param("a: &x # c\n- 1\n", {"a": [0, 1]}, "a: &x # c\n- 0\n- 1\n", id="a list with an anchor"),
        pytest.param(
            "a:\n  # c\n\n  - 1\n", {"a": [0, 1]}, "a:\n  - 0\n  # c\n\n  - 1\n", id="a comment before the first item"
        ),
        pytest.param("a: # c\n", {"a": [0]}, "a: # c\n- 0\n", id="nothing, with a comment"),
        pytest.param("a:   ~ # c\n", {"a": {"b": 1}}, "a: # c\n  b: 1\n", id="a null with a comment"),
        pytest.param("a:\n  []\nb: 1\n", {"a": [0], "b": 1}, "a:\n\n- 0\nb: 1\n", id="brackets on a line of their own"),
        pytest.param("{a: 1}\n", {"b": "x y"}, '{b: "x y", a: 1}\n', id="brackets"),
        pytest.param("{ a: 1, }\n", {"b": 2}, "{ b: 2, a: 1, }\n", id="brackets with blanks"),
        pytest.param("{ # c\n  a: 1 }\n", {"b": 2}, "{ # c\n  b: 2,\n  a: 1 }\n", id="brackets with a comment"),
        pytest.param(
            "{a: , b: null, c: []}\n",
            {"a": [1], "b": [2], "c": [3]},
            "{a: [1] , b: [2], c: [3]}\n",
            id="nothing in brackets",
        ),
        pytest.param('{"a":[1]}', {"a": [0, 1]}, '{"a":[0,1]}', id="JSON without blanks"),
        pytest.param('{"a": [1]}', {"b": {"c": True}}, '{"b": {"c": true}, "a": [1]}', id="JSON on one line"),
        pytest.param(
            '{\n\t"a": null\n}\n',
            {"a": [{"b": 1}]},
            '{\n\t"a": [\n\t\t{\n\t\t\t"b": 1\n\t\t}\n\t]\n}\n',
            id="JSON with tabs",
        ),
        pytest.param("a: 1\r\n", {"b": {"c": [1]}}, "a: 1\r\nb:\r\n  c:\r\n  - 1\r\n", id="Windows' line ends"),
        pytest.param(
            "a: 1\n",
            {"b": "no", "c": "2", "d": "é: #", "e": "x\ny", "f": None, "n": "y"},
            'a: 1\nb: "no"\nc: "2"\nd: "é: #"\ne: "x\\ny"\nf: null\n"n": "y"\n',
            id="texts that need quotes",
        ),
        pytest.param(
            "a: 1\n",
            {"b": {}, "c": [], "d": [[1]], "e": True},
            "a: 1\nb: {}\nc: []\nd:\n- [1]\ne: true\n",
            id="values of all sorts",
        ),
    ],
)
def test_additions_stand_where_they_belong(text: str, new: dict[str, Any], result: str) -> None:
    """And what comes out holds just what it is to hold."""
    after = parse(Document(text, 1)) | new

    assert added(text, after) == result
    assert parse(Document(result, 1)) == after


def replaced(text: str, value: str) -> str:
    """`text`, whose `a.b` is to become `value`."""
    document = Document(text, 1)
    page = open_page(document, compose(document), ())
    return apply(text, [replacement(page, ("a", "b"), value)])


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        pytest.param("a:\n  b: x  # c\n", "new", "a:\n  b: new  # c\n", id="a text without quotes"),
        pytest.param("a: {b: x,c: 1}\n", "y:z", "a: {b: y:z,c: 1}\n", id="in brackets"),
        pytest.param("a:\r\n  b: 'x'\r\n", "it's", "a:\r\n  b: 'it''s'\r\n", id="single quotes"),
        pytest.param('a:\n  b: "x"', 'y"', 'a:\n  b: "y\\""', id="double quotes"),
        pytest.param('{"a": {"b":\n"x"}}', "y", '{"a": {"b":\n"y"}}', id="JSON"),
        pytest.param("a:\n  b: x\n", "0.42", 'a:\n  b: "0.42"\n', id="a text that needs quotes now"),
    ],
)
def test_replacement_keeps_everything_else(text: str, value: str, result: str) -> None:
    """And reads as what it is to be."""
    assert replaced(text, value) == result
    assert parse(Document(result, 1))["a"]["b"] == value


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("c: &x y\na: {b: *x}\n", id="an alias"),
        pytest.param("a: {b: &x y}\nc: *x\n", id="an anchor"),
        pytest.param("a:\n  b: |\n    x\n", id="a block"),
        pytest.param("a: {b: [x]}\n", id="a list"),
        pytest.param("a:\n  b:\n", id="nothing"),
        pytest.param("a: {}\n", id="no such key"),
    ],
)
def test_what_is_no_text_of_its_own_is_not_replaced(text: str) -> None:
    """Something else would change with it, or the lines around it."""
    with pytest.raises(EditError):
        replaced(text, "z")


def test_the_command_line_needs_only_its_own_extra() -> None:
    """It starts without what the operator and the router need."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {each.split(">")[0].replace("-", "_") for each in needs} for extra, needs in extras.items()}
    others = set[str]().union(*names.values()) - names["cli"]
    program = "import sys, flotilla_cli.commands; print(*{name.partition('.')[0] for name in sys.modules})"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert {"kopf", "msgspec"} <= others
    assert others.isdisjoint(loaded.stdout.split())
