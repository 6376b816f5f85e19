"""Damaged requests and answers: the pure core refuses or passes them on, and never fails in another way."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from cases import a_request, an_escalation, encode, recording
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla_api.snapshot import RequestEdits
from flotilla_router.cascade import StreamJudge, StreamMeter, judge_whole
from flotilla_router.openai import BadRequest, Injection, error_body, parse_request, rewrite, usage_of
from flotilla_router.responses import cause_of_response, error_in_answer, error_in_event
from flotilla_router.sse import EventSplitter

EVERYTHING = Injection(5, usage=True, continuous_usage=True)
MARKS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n\n"]
WORDS = [b"null", b'"error":', b"NaN", b"1e999", b"data:", b'"usage":{', b"\xed\xa0\x80"]
PIECES = st.binary(max_size=4) | st.sampled_from([*MARKS, *WORDS])
Damage = list[tuple[float, int, bytes]]
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), PIECES), min_size=1, max_size=4)
STREAMS = ("chat_logprobs_stream", "chat_stream_continuous_usage", "chat_tools_stream_logprobs", "completions_stream")
REQUESTS = (
    encode({"model": "auto", "messages": [{"role": "user", "content": "é"}], "stream": True, "n": 2, "logprobs": None}),
    encode({"model": "auto", "prompt": ["a", "b"], "stream_options": {"include_usage": True}, "logprobs": 3}),
    encode({"model": "auto", "tools": [{"type": "function"}], "response_format": {"type": "text"}}),
)


def damaged(text: bytes, damage: Damage) -> bytes:
    """The text with pieces in place of some of its bytes."""
    for place, length, piece in damage:
        start = int(place * len(text))
        text = text[:start] + piece + text[start + length :]
    return text


@settings(max_examples=300)
@given(body=st.sampled_from(REQUESTS), damage=DAMAGE, strict=st.booleans())
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_damaged_request_is_refused_or_rewritten(api: str, body: bytes, damage: Damage, strict: bool) -> None:
    """BadRequest is the only error that a body can cause."""
    with suppress(BadRequest):
        request = parse_request("completions" if api == "completions" else "chat", damaged(body, damage))
        rewrite(request, model="m", injection=EVERYTHING, edits=RequestEdits(drop=("n",)), strict=strict)


@settings(max_examples=300)
@given(name=st.sampled_from(STREAMS), damage=DAMAGE, choices=st.integers(1, 2))
def test_damaged_stream_is_judged_and_passed_on(name: str, damage: Damage, choices: int) -> None:
    """Whatever an engine sends, there is a verdict in the end, and nothing is raised."""
    stream = damaged(b"".join(recording(name).events), damage)
    request = a_request(stream=True, n=choices)
    judge, meter = StreamJudge(request, an_escalation(), EVERYTHING), StreamMeter(request, EVERYTHING)

    for event in [*EventSplitter().feed(stream), b"data: [DONE]\n\n"]:
        error_in_event(event)
        judge.feed(event, 0.0)
        meter.pass_on(event)

    assert judge.expire(math.inf) == judge.feed(b": later\n\n", 0.0)
    assert b"".join(judge.take_held())
    assert judge.finished
    assert meter.finished
    assert (judge.usage is None) <= (meter.usage is None)


@settings(max_examples=300)
@given(name=st.sampled_from(["chat_logprobs", "chat_tools_required", "chat_n2", "completions"]), damage=DAMAGE)
def test_damaged_answer_is_judged(name: str, damage: Damage) -> None:
    """A whole answer that is not what it should be gets a verdict too."""
    body = damaged(recording(name).body, damage)

    assert judge_whole(a_request(), body, an_escalation(), Injection(0)).verdict
    usage_of(body)
    cause_of_response(400, body)
    error_in_answer(body)


@given(message=st.text())
def test_any_message_fits_an_error(message: str) -> None:
    """An error body can be made of any text."""
    assert error_body(message, type="server_error").startswith(b'{"error":{"message":"')
