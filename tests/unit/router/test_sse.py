"""Server-sent events as frames."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from cases import recording
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.sse import EventSplitter, EventTooLarge, error_event, is_done, make_error_event

ENDS = st.sampled_from([b"\n", b"\r\n"])


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Events of a stream that arrives in pieces."""
    splitter = EventSplitter()
    events: list[bytes] = []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        events += splitter.feed(stream[start:end])
    return events


@given(
    lines=st.lists(st.tuples(st.sampled_from([b"data: a", b": c", b"", b"\r", b"x\ry"]), ENDS), max_size=12),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
def test_splitter_gives_the_same_events_for_any_split(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """However a stream is cut into chunks, its events and what is left are the same, and no byte is lost."""
    stream = b"".join(line + end for line, end in lines)

    events = split(stream, cuts)
    whole = b"".join(events)

    assert events == split(stream, [])
    assert stream.startswith(whole)
    assert split(stream[len(whole) :], []) == []


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: a\n\ndata: b\n\n", [b"data: a\n\n", b"data: b\n\n"], id="line feeds"),
        pytest.param(
            b"data: a\r\n\r\ndata: b\r\n\r\n", [b"data: a\r\n\r\n", b"data: b\r\n\r\n"], id="carriage returns"
        ),
        pytest.param(b"data: a\n\r\ndata: b\r\n\n", [b"data: a\n\r\n", b"data: b\r\n\n"], id="mixed line ends"),
        pytest.param(
            b"data: a\n\r\n\ndata: b\n\n", [b"data: a\n\r\n", b"\ndata: b\n\n"], id="the first empty line ends"
        ),
        pytest.param(b": ping\n\ndata: b\n\n", [b": ping\n\n", b"data: b\n\n"], id="a comment is an event"),
        pytest.param(b"event: e\ndata: a\n\n", [b"event: e\ndata: a\n\n"], id="several lines"),
        pytest.param(b"data: a\n", [], id="not ended yet"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_splitter_ends_an_event_at_an_empty_line(stream: bytes, events: list[bytes]) -> None:
    """An event ends with an empty line, whatever ends the lines."""
    assert EventSplitter().feed(stream) == events


def test_splitter_gives_back_recorded_events() -> None:
    """A recorded stream, fed byte by byte, comes out as its events."""
    events = recording("chat_stream").events
    splitter = EventSplitter()

    seen = [event for byte in b"".join(events) for event in splitter.feed(bytes([byte]))]

    assert tuple(seen) == events
    assert splitter.feed(b"data: next\n\n") == [b"data: next\n\n"]


@pytest.mark.parametrize(
    ("before", "chunk"),
    [
        pytest.param(b"", b"data: 123456\n\n", id="a whole event"),
        pytest.param(b"data: 1", b"23456789", id="one that does not end"),
    ],
)
def test_splitter_refuses_an_event_over_its_bound(before: bytes, chunk: bytes) -> None:
    """No more than max_event_bytes are ever kept."""
    splitter = EventSplitter(max_event_bytes=12)
    splitter.feed(before)

    with pytest.raises(EventTooLarge, match="12 bytes"):
        splitter.feed(chunk)


def test_splitter_bounds_events_not_chunks() -> None:
    """Many small events in one large chunk are fine."""
    assert len(EventSplitter(max_event_bytes=12).feed(b"data: a\n\n" * 10)) == 10


@pytest.mark.parametrize(
    ("event", "done"),
    [
        pytest.param(b"data: [DONE]\n\n", True, id="as vLLM writes it"),
        pytest.param(b"data:[DONE]\r\n\r\n", True, id="no blank, carriage returns"),
        pytest.param(b'data: {"a":"[DONE]"}\n\n', False, id="text of an answer"),
        pytest.param(b": [DONE]\n\n", False, id="a comment"),
    ],
)
def test_is_done_knows_the_end_of_a_stream(event: bytes, done: bool) -> None:
    """Only a data line of [DONE] ends a stream."""
    assert is_done(event) is done


def test_error_event_holds_an_envelope() -> None:
    """An in-band error is one event in OpenAI's shape, also with line ends in its message."""
    event = make_error_event("gone\n\naway", "server_error", "upstream_error")

    assert EventSplitter().feed(event) == [event]
    assert json.loads(event[6:]) == {
        "error": {"message": "gone\n\naway", "type": "server_error", "param": None, "code": "upstream_error"}
    }


@pytest.mark.parametrize(
    ("body", "event"),
    [
        pytest.param(
            b'{\n "error": {\n  "message": "a\\nb",  "code": 400}\n}',
            b'data: {"error":{"message":"a\\nb","code":400}}\n\n',
            id="written over several lines",
        ),
        pytest.param(b'{"error":"x","detail":1}', b'data: {"error":"x"}\n\n', id="text"),
        pytest.param(b"<html>", None, id="no JSON"),
        pytest.param(b'{"detail":"x"}', None, id="another shape"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_an_error_body_becomes_an_event_of_one_line(body: bytes, event: bytes | None) -> None:
    """The engine's own error, in band."""
    assert error_event(body) == event
