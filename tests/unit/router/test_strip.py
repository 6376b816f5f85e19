"""What was injected is stripped: the client sees the stream that it would have got without us."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cases import Json, a_request, an_escalation, encode, recording
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.cascade import Pending, StreamJudge, StreamMeter, judge_whole
from flotilla_router.openai import Injection, ParsedRequest, Usage

FINGERPRINT = b',"system_fingerprint":"vllm-0.32.0-86fe5d92"'
ACCEPT_ALL = an_escalation(minConfidence=0)
LOGPROBS = Injection(5)
EVERYTHING = Injection(5, usage=True, continuous_usage=True)


def judged(request: ParsedRequest, events: tuple[bytes, ...], injection: Injection) -> list[bytes]:
    """What a client gets of a judged stream."""
    judge = StreamJudge(request, ACCEPT_ALL, injection)
    sent: list[bytes] = []
    pending = True
    for event in events:
        if not pending:
            sent.append(judge.pass_on(event))
        elif not isinstance(judge.feed(event, 0.0), Pending):
            pending = False
            sent += judge.take_held()
    return [event for event in sent if event]


def metered(request: ParsedRequest, events: tuple[bytes, ...], injection: Injection) -> list[bytes]:
    """What a client gets of a stream that is not judged."""
    meter = StreamMeter(request, injection)
    return [passed for event in events if (passed := meter.pass_on(event))]


Follow = Callable[[ParsedRequest, tuple[bytes, ...], Injection], list[bytes]]
STREAMS = [
    pytest.param("chat_logprobs_stream", "chat_stream", Injection(5, usage=True), id="chat logprobs and usage"),
    pytest.param("chat_logprobs_stream", "chat_stream_usage", LOGPROBS, id="chat logprobs, the client's usage"),
    pytest.param("chat_tools_stream_logprobs", "chat_tools_required_stream", LOGPROBS, id="tool call logprobs"),
    pytest.param(
        "chat_stream_continuous_usage", "chat_stream", Injection(None, usage=True, continuous_usage=True), id="usage"
    ),
    pytest.param(
        "chat_stream_continuous_usage",
        "chat_stream_usage",
        Injection(None, continuous_usage=True),
        id="its totals stay",
    ),
    pytest.param("chat_stream_continuous_usage", "chat_stream_continuous_usage", Injection(), id="nothing injected"),
    pytest.param("chat_logprobs_stream", "chat_logprobs_stream", Injection(), id="the client's own logprobs"),
    pytest.param("completions_stream", "completions_stream", Injection(), id="completions, the client's own"),
]


@pytest.mark.parametrize("follow", [pytest.param(judged, id="judged"), pytest.param(metered, id="metered")])
@pytest.mark.parametrize(("injected", "plain", "injection"), STREAMS)
def test_stripped_stream_equals_the_stream_without_injection(
    follow: Follow, injected: str, plain: str, injection: Injection
) -> None:
    """Byte for byte, ids and times aside; only the fingerprint that injected usage draws away is missing."""
    got, want = recording(injected), recording(plain)

    sent = [got.without_identity(event) for event in follow(want.request, got.events, injection)]

    expected = [want.without_identity(event) for event in want.events]
    if injection.usage:
        expected = [event.replace(FINGERPRINT, b"") for event in expected]
    assert sent == expected


def test_completions_lose_their_logprobs_but_no_event() -> None:
    """vLLM sends completions a chunk per token, empty or not, so only the logprobs go."""
    stream = recording("completions_stream")
    request = a_request(api="completions", stream=True)

    sent = metered(request, stream.events, Injection(2))

    assert len(sent) == len(stream.events)
    chunks = [json.loads(event[6:]) for event in sent[:-1]]
    wanted = [json.loads(event[6:]) for event in stream.events[:-1]]
    for chunk in wanted:
        chunk["choices"][0]["logprobs"] = None
    assert chunks == wanted


def a_chunk(key_order: list[str], usage_first: bool) -> bytes:
    """A chunk whose choice has its keys in this order."""
    choice: Json = {
        "index": 0,
        "delta": {"content": 'a "logprobs":{ b ,"usage":{ c'},
        "logprobs": {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]},
        "finish_reason": None,
        "token_ids": None,
    }
    usage: Json = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}}
    choices: Json = {"choices": [{key: choice[key] for key in key_order}]}
    return b"data: " + encode({**usage, **choices} if usage_first else {**choices, **usage}) + b"\n\n"


@given(
    order=st.permutations(["index", "delta", "logprobs", "finish_reason", "token_ids"]),
    usage_first=st.booleans(),
    repeats=st.integers(1, 3),
)
def test_stripping_knows_any_key_order(order: list[str], usage_first: bool, repeats: int) -> None:
    """An engine that orders its keys otherwise is read instead of searched, with the same result."""
    event = a_chunk(order, usage_first)
    meter = StreamMeter(a_request(stream=True), EVERYTHING)

    passed = [meter.pass_on(event) for _ in range(repeats)]

    expected = json.loads(event[6:])
    expected["choices"][0]["logprobs"] = None
    del expected["usage"]
    assert [json.loads(event[6:]) for event in passed] == [expected] * repeats
    assert meter.usage == Usage(1, 2)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        pytest.param({}, False, id="there for its logprobs only"),
        pytest.param({"finish_reason": "stop"}, True, id="a finish"),
        pytest.param({"token_ids": [7]}, True, id="token ids that the client asked for"),
        pytest.param({"delta": {"content": ""}}, True, id="an empty text"),
        pytest.param({"logprobs": None}, True, id="an empty delta of the engine's own"),
    ],
)
@pytest.mark.parametrize("warm", [pytest.param(False, id="at first"), pytest.param(True, id="after a chunk")])
def test_only_chunks_that_logprobs_caused_are_dropped(changes: Json, kept: bool, warm: bool) -> None:
    """An un-injected stream has the other empty chunks too."""
    order = ["index", "delta", "logprobs", "finish_reason", "token_ids"]
    first = a_chunk(order, usage_first=False)
    event = json.loads(first[6:])
    event["choices"][0] |= {"delta": {}, **changes}
    meter = StreamMeter(a_request(stream=True), EVERYTHING)
    if warm:
        meter.pass_on(first)

    assert bool(meter.pass_on(b"data: " + encode(event) + b"\n\n")) is kept


def test_stripping_survives_a_change_of_order_within_a_stream() -> None:
    """A chunk that lacks what the search looks for is read like the first one."""
    usual = a_chunk(["index", "delta", "logprobs", "finish_reason", "token_ids"], usage_first=False)
    other = a_chunk(["finish_reason", "index", "delta", "logprobs"], usage_first=True)
    meter = StreamMeter(a_request(stream=True), EVERYTHING)

    passed = [json.loads(meter.pass_on(event)[6:]) for event in (usual, usual, other)]

    assert [chunk["choices"][0]["logprobs"] for chunk in passed] == [None] * 3
    assert passed[2]["choices"][0]["delta"] == json.loads(other[6:])["choices"][0]["delta"]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(b": keep-alive\n\n", id="a comment"),
        pytest.param(b"data: [DONE]\n\n", id="the end"),
        pytest.param(b'data: {"error":{"message":"x","code":500}}\n\n', id="an error"),
        pytest.param(b"data: {broken\n\n", id="broken JSON"),
        pytest.param(b'data: {"choices":[{"delta":3}]}\n\n', id="an unknown shape"),
        pytest.param(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{\n\n', id="broken usage"),
        pytest.param(b"event: x\n\n", id="no data"),
    ],
)
@pytest.mark.parametrize("warm", [pytest.param(False, id="at first"), pytest.param(True, id="after a chunk")])
def test_stripping_leaves_what_it_does_not_know(event: bytes, warm: bool) -> None:
    """An event without injected parts passes verbatim."""
    meter = StreamMeter(a_request(stream=True), EVERYTHING)
    if warm:
        meter.pass_on(a_chunk(["index", "delta", "logprobs", "finish_reason", "token_ids"], usage_first=False))

    assert meter.pass_on(event) == event


def test_openais_null_usage_is_stripped_with_the_total() -> None:
    """OpenAI writes `usage: null` into every chunk of a stream that was asked for usage."""
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":null}\n\n'
    total = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    meter = StreamMeter(a_request(stream=True), Injection(usage=True))

    passed = [meter.pass_on(event) for event in (chunk, chunk, chunk, total)]

    assert passed == [chunk.replace(b',"usage":null', b"")] * 3 + [b""]
    assert meter.usage == Usage(3, 4)


def test_usage_of_several_choices_adds_up_until_the_total_comes() -> None:
    """Continuous usage is each choice's own; a cancelled attempt is metered by their sum."""
    meter = StreamMeter(a_request(stream=True, n=2), Injection(usage=True, continuous_usage=True))
    for index, count in ((0, 1), (1, 5), (0, 2)):
        choice: Json = {"index": index, "delta": {"content": "x"}, "finish_reason": None}
        usage: Json = {"prompt_tokens": 7, "completion_tokens": count}
        meter.pass_on(b"data: " + encode({"choices": [choice], "usage": usage}) + b"\n\n")

    before = meter.usage
    meter.pass_on(b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}\n\n')

    assert (before, meter.usage) == (Usage(7, 7), Usage(7, 8))


def test_meter_notices_first_token_and_finish() -> None:
    """Neither the role nor an empty text is a token; a finish ends the stream."""
    meter = StreamMeter(recording("chat_stream").request, Injection())
    states: list[tuple[bool, bool]] = []
    for event in recording("chat_stream").events:
        meter.pass_on(event)
        states.append((meter.first_token_seen, meter.finished))

    assert states == [(False, False), (True, False), (True, False), (True, False), (True, True), (True, True)]


def test_whole_answer_is_stripped_of_logprobs() -> None:
    """Byte for byte the recorded answer without logprobs, id and time aside."""
    got, want = recording("chat_logprobs"), recording("chat")

    judgement = judge_whole(want.request, got.body, ACCEPT_ALL, Injection(0))

    assert got.without_identity(judgement.body) == want.without_identity(want.body)
    assert judgement.usage == Usage(20, 8)


def test_whole_answer_keeps_the_clients_logprobs() -> None:
    """What the client asked for stays."""
    got = recording("chat_logprobs")

    assert judge_whole(got.request, got.body, ACCEPT_ALL, Injection()).body == got.body
