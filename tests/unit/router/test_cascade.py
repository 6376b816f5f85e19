"""Commit or escalate."""

from __future__ import annotations

import math
from typing import Any

import pytest
from cases import Json, a_request, an_escalation, encode, recording

from flotilla_api.causes import Cause
from flotilla_router.cascade import (
    PENDING,
    Commit,
    Escalate,
    StreamJudge,
    Verdict,
    judge_whole,
)
from flotilla_router.openai import Api, Injection

DONE = b"data: [DONE]\n\n"
ROLE = {"role": "assistant", "content": ""}
LOW = Cause.LOW_CONFIDENCE
NOT_QUALITY = tuple(cause for cause in Cause if cause not in (LOW, Cause.EMPTY_ANSWER))
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}


def an_entry(logprob: float, *alternatives: float) -> Json:
    """A logprobs entry; the alternatives are shown with the token itself."""
    shown = [{"token": "t", "logprob": value} for value in (logprob, *alternatives)] if alternatives else []
    return {"token": "t", "logprob": logprob, "bytes": [1], "top_logprobs": shown}


FORCED = an_entry(0.0, -9999.0, -9999.0)


def a_chunk(delta: Json, *entries: Json | float, finish: str | None = None, index: int = 0) -> bytes:
    """A chat chunk; a number is an entry with that logprob; without entries the logprobs are null."""
    content = [an_entry(entry, -5.0) if isinstance(entry, float) else entry for entry in entries]
    choice: Json = {
        "index": index,
        "delta": delta,
        "logprobs": {"content": content} if content else None,
        "finish_reason": finish,
        "token_ids": None,
    }
    return b"data: " + encode({"id": "1", "choices": [choice]}) + b"\n\n"


def text(*entries: Json | float, finish: str | None = None, index: int = 0) -> bytes:
    """A chunk of text."""
    return a_chunk({"content": "x"}, *entries, finish=finish, index=index)


def a_judge(request: Json | None = None, **escalation: Any) -> StreamJudge:
    """A judge of a chat stream with injected logprobs; commits after 3 tokens at 0.5."""
    config = an_escalation(**{"commitTokens": 3, **escalation})
    return StreamJudge(a_request({"stream": True, **(request or {})}), config, Injection(5))


def feed(judge: StreamJudge, *events: bytes) -> list[Verdict]:
    """The verdict after each event; an event takes 10 ms, beginning at 100 s."""
    return [judge.feed(event, 100.0 + index / 100) for index, event in enumerate(events)]


def rounded(verdict: Verdict) -> Verdict:
    """A verdict whose score can be compared."""
    if isinstance(verdict, Commit) and verdict.score is not None:
        return Commit(round(verdict.score, 3))
    if isinstance(verdict, Escalate) and verdict.score is not None:
        return Escalate(verdict.cause, round(verdict.score, 3))
    return verdict


def score(*logprobs: float) -> float:
    """exp of the mean."""
    return round(math.exp(sum(logprobs) / len(logprobs)), 3)


# --- the point of commit


@pytest.mark.parametrize(
    ("events", "request_fields", "last"),
    [
        pytest.param([a_chunk(ROLE), text(-0.1), text(-0.1)], {}, PENDING, id="two of three tokens"),
        pytest.param([text(-0.1), text(-0.2), text(-0.3)], {}, Commit(score(-0.1, -0.2, -0.3)), id="three tokens"),
        pytest.param(
            [text(-0.1, -0.2, -0.3)], {}, Commit(score(-0.1, -0.2, -0.3)), id="a token is an entry, not a delta"
        ),
        pytest.param([text(-2.0, -2.0, -2.0)], {}, Escalate(LOW, score(-2.0)), id="below the bar"),
        pytest.param(
            [text(-2.0), text(-2.0, finish="stop")], {}, Escalate(LOW, score(-2.0)), id="finish before the third"
        ),
        pytest.param([text(-0.1, finish="stop")], {}, Commit(score(-0.1)), id="finish with the first"),
        pytest.param([text(-0.1), DONE], {}, Commit(score(-0.1)), id="the end without a finish"),
        pytest.param(
            [a_chunk({}, -0.1, -0.1, -0.1, -0.1), a_chunk({}, -0.1)], {}, PENDING, id="empty deltas are no content"
        ),
        pytest.param(
            [a_chunk({}, -0.1), a_chunk({}, -0.1), text(-0.4)],
            {},
            Commit(score(-0.1, -0.1, -0.4)),
            id="tokens before the first text count",
        ),
        pytest.param(
            [text(FORCED), text(FORCED), text(FORCED), text(-0.1)], {}, PENDING, id="forced tokens do not count"
        ),
        pytest.param(
            [text(an_entry(0.0, -1.0)), text(-0.1), text(-0.2)],
            {},
            Commit(score(0.0, -0.1, -0.2)),
            id="a sure token with alternatives counts",
        ),
        pytest.param(
            [text(an_entry(0.0)), text(-0.1, -0.1)], {}, Commit(score(0.0, -0.1, -0.1)), id="sure, no grammar"
        ),
        pytest.param([a_chunk({"reasoning": "x"}, -0.1, -0.1, -0.1)], {}, Commit(score(-0.1)), id="reasoning commits"),
        pytest.param(
            [a_chunk({"reasoning_content": "x"}, -3.0, -3.0, -3.0)], {}, Escalate(LOW, score(-3.0)), id="or not"
        ),
        pytest.param([a_chunk(CALL, -0.1, -0.1, -0.1)], {"tools": TOOLS}, PENDING, id="a tool call is judged whole"),
        pytest.param(
            [a_chunk(CALL, -0.1, -0.1, -0.1), a_chunk({}, -0.9, finish="tool_calls")],
            {"tools": TOOLS},
            Commit(score(-0.1, -0.1, -0.1, -0.9)),
            id="a finished tool call",
        ),
        pytest.param(
            [text(-0.1, -0.1, -0.1)], {"tools": TOOLS}, Commit(score(-0.1)), id="text where tools are offered"
        ),
        pytest.param(
            [text(-0.1, -0.1, -0.1)], {"tools": TOOLS, "tool_choice": "required"}, PENDING, id="tools demanded"
        ),
        pytest.param(
            [text(-0.1, -0.1, -0.1, -0.1)],
            {"response_format": {"type": "json_object"}},
            PENDING,
            id="JSON is judged whole",
        ),
        pytest.param(
            [text(an_entry(0.0)), text(-0.3), a_chunk({}, finish="stop")],
            {"response_format": {"type": "json_object"}},
            Commit(score(-0.3)),
            id="sure under a grammar is forced",
        ),
    ],
)
def test_stream_is_judged_at_its_point(events: list[bytes], request_fields: Json, last: Verdict) -> None:
    """commit.tokens entries or the finish for text, the finish for tool calls and JSON; never an event earlier."""
    verdicts = feed(a_judge(request_fields), *events)

    assert set(verdicts[:-1]) <= {PENDING}
    assert rounded(verdicts[-1]) == last


@pytest.mark.parametrize(
    ("events", "on", "last"),
    [
        pytest.param(
            [a_chunk(ROLE), a_chunk({}, -0.1, finish="stop")],
            tuple(Cause),
            Escalate(Cause.EMPTY_ANSWER, None),
            id="empty",
        ),
        pytest.param([a_chunk(ROLE), DONE], tuple(Cause), Escalate(Cause.EMPTY_ANSWER, None), id="the end at once"),
        pytest.param([DONE], tuple(Cause), Escalate(Cause.EMPTY_ANSWER, None), id="nothing but the end"),
        pytest.param([a_chunk(ROLE), a_chunk({}, finish="stop")], (LOW,), Commit(None), id="empty is not a cause here"),
        pytest.param(
            [a_chunk({"reasoning": "x"}, -0.1, finish="stop")],
            tuple(Cause),
            Escalate(Cause.EMPTY_ANSWER, None),
            id="reasons only",
        ),
        pytest.param([text(-9.0, -9.0, -9.0)], NOT_QUALITY, Commit(0.0), id="confidence is not a cause here"),
        pytest.param([text(-9.0)], NOT_QUALITY, Commit(0.0), id="then the first token commits"),
        pytest.param([b": keep-alive\n\n"], tuple(Cause), PENDING, id="a comment"),
    ],
)
def test_stream_escalates_for_the_policys_causes_only(
    events: list[bytes], on: tuple[Cause, ...], last: Verdict
) -> None:
    """What is not in `on` is sent on."""
    assert rounded(feed(a_judge(on=on), *events)[-1]) == last


@pytest.mark.parametrize(
    ("no_signal", "last"),
    [pytest.param("Accept", Commit(None), id="accept"), pytest.param("Escalate", Escalate(LOW, None), id="escalate")],
)
@pytest.mark.parametrize(
    ("events", "request_fields"),
    [
        pytest.param([a_chunk(ROLE), text()], {}, id="no logprobs"),
        pytest.param([a_chunk(ROLE), a_chunk(CALL)], {"tools": TOOLS}, id="a tool call without logprobs"),
        pytest.param([text(-0.1)], {"echo": True}, id="an echoed prompt"),
        pytest.param([text(FORCED, finish="stop")], {}, id="all tokens forced"),
        pytest.param([b'data: {"choices":[{"delta":3}]}\n\n'], {}, id="an unknown shape of a delta"),
    ],
)
def test_stream_without_a_signal_is_its_own_case(
    events: list[bytes], request_fields: Json, no_signal: str, last: Verdict
) -> None:
    """No logprobs: noSignal decides at the first content, nothing is waited for."""
    verdicts = feed(a_judge(request_fields, noSignal=no_signal), *events)

    assert verdicts == [PENDING] * (len(events) - 1) + [last]


# --- several choices


@pytest.mark.parametrize(
    ("events", "last"),
    [
        pytest.param([text(-0.1, -0.1, -0.1)], PENDING, id="one of two"),
        pytest.param(
            [text(-0.1, -0.1, -0.1), text(-0.3, -0.3, -0.3, index=1)], Commit(score(-0.3)), id="the lowest score"
        ),
        pytest.param([text(-0.1), text(-2.0, -2.0, -2.0, index=1)], Escalate(LOW, score(-2.0)), id="one below the bar"),
        pytest.param(
            [text(-0.1, -0.1, -0.1), a_chunk({}, finish="stop", index=1)],
            Escalate(Cause.EMPTY_ANSWER, None),
            id="one empty",
        ),
        pytest.param([text(-0.1, finish="stop"), text(-0.2, index=1), DONE], Commit(score(-0.2)), id="the end"),
    ],
)
def test_choices_commit_when_every_one_passes(events: list[bytes], last: Verdict) -> None:
    """n > 1 commits when each choice has reached its point, and escalates with the first that fails."""
    assert rounded(feed(a_judge({"n": 2}), *events)[-1]) == last


# --- deadlines and bounds


def test_deadline_runs_from_the_first_content_token() -> None:
    """maxWait is counted from the first text, not from the role, empty deltas or forced tokens."""
    judge = a_judge()
    deadlines: list[tuple[float | None, bool]] = []
    for event in (a_chunk(ROLE), a_chunk({}, -0.1), text(FORCED), text(-0.1), text(FORCED)):
        feed(judge, event)
        deadlines.append((judge.deadline, judge.first_token_seen))

    assert deadlines == [(None, False)] * 3 + [(pytest.approx(100.2), True)] * 2


def test_deadline_is_longer_once_a_tool_call_appears() -> None:
    """Text before a tool call does not shorten what a structured answer is given."""
    judge = a_judge({"tools": TOOLS})

    feed(judge, text(-0.1))
    plain = judge.deadline
    feed(judge, a_chunk(CALL, -0.1))

    assert (plain, judge.deadline) == (pytest.approx(100.2), pytest.approx(105.0))


@pytest.mark.parametrize(
    ("event", "now", "verdict"),
    [
        pytest.param(text(-0.1), 100.1, PENDING, id="too early"),
        pytest.param(text(-0.1), 100.3, Commit(score(-0.1)), id="good so far"),
        pytest.param(text(-3.0), 100.3, Escalate(LOW, score(-3.0)), id="bad so far"),
        pytest.param(a_chunk(ROLE), 999.0, PENDING, id="no content yet: no deadline"),
    ],
)
def test_expire_judges_by_what_is_there(event: bytes, now: float, verdict: Verdict) -> None:
    """When maxWait is over, fewer tokens have to do."""
    judge = a_judge()
    feed(judge, event)

    assert rounded(judge.expire(now)) == verdict


def test_expire_repeats_a_verdict() -> None:
    """A timer that fires late changes nothing."""
    judge = a_judge()
    feed(judge, text(-3.0, -3.0, -3.0))

    assert rounded(judge.expire(999.0)) == Escalate(LOW, score(-3.0))
    assert judge.deadline is None


def test_structured_answer_is_held_up_to_max_bytes() -> None:
    """A JSON answer that grows over maxBytes is judged by what is there."""
    judge = a_judge({"response_format": {"type": "json_object"}}, structuredMaxBytes=400)

    verdicts = feed(judge, *[text(-0.1, -0.1)] * 5)

    assert PENDING in verdicts
    assert rounded(verdicts[-1]) == Commit(score(-0.1))


# --- what is held


def test_held_events_come_back_once_and_stripped() -> None:
    """Everything up to the verdict, without what was injected, in order."""
    judge = a_judge()
    feed(judge, a_chunk(ROLE), a_chunk({}, -0.1), b": ping\n\n", text(-0.1), text(-0.1))

    assert judge.take_held() == [a_chunk(ROLE), b": ping\n\n", text(), text()]
    assert judge.take_held() == []


def test_paused_expert_keeps_its_buffer() -> None:
    """Events that come after an Escalate are held too, so that the answer can still be used if every fallback fails."""
    judge = a_judge()
    feed(judge, text(-3.0, -3.0, -3.0), text(-3.0))

    assert feed(judge, text(-3.0, finish="stop"), DONE)[-1] == judge.expire(0.0)
    assert judge.take_held() == [text(), text(), text(finish="stop"), DONE]
    assert judge.finished


def test_finished_tells_a_whole_stream_from_a_broken_one() -> None:
    """A finish or [DONE] was seen, before the verdict or after it."""
    before, after, broken = a_judge(), a_judge(), a_judge()
    feed(before, text(-0.1, finish="stop"))
    feed(after, text(-0.1, -0.1, -0.1))
    after.pass_on(text(-0.1, finish="stop"))
    feed(broken, text(-0.1, -0.1, -0.1))
    broken.pass_on(text(-0.1))

    assert (before.finished, after.finished, broken.finished) == (True, True, False)


# --- recordings


@pytest.mark.parametrize(
    ("name", "first_token_event", "judged_event"),
    [
        pytest.param("chat_logprobs_stream", 2, 3, id="chat"),
        pytest.param("chat_tools_stream_logprobs", 19, 42, id="a tool call with forced tokens"),
        pytest.param("completions_stream", 0, 2, id="completions"),
    ],
)
def test_recorded_streams_are_judged_by_their_entries(name: str, first_token_event: int, judged_event: int) -> None:
    """The first content token and the commit of what a real vLLM wrote."""
    stream = recording(name)
    judge = StreamJudge(stream.request, an_escalation(minConfidence=0, commitTokens=3), Injection())
    first: list[int] = []
    verdicts: list[Verdict] = []
    for index, event in enumerate(stream.events):
        verdicts.append(judge.feed(event, 0.0))
        first += [index] * judge.first_token_seen

    assert first[0] == first_token_event
    assert verdicts.index(verdicts[-1]) == judged_event
    assert isinstance(verdicts[-1], Commit)


# --- whole answers


def an_answer(*choices: Json) -> bytes:
    """A whole chat answer."""
    shaped = [{"index": i, "logprobs": None, "finish_reason": "stop", **choice} for i, choice in enumerate(choices)]
    return encode({"choices": shaped, "usage": {"prompt_tokens": 1, "completion_tokens": 2}})


def said(*logprobs: float) -> Json:
    """A choice with text."""
    entries = [an_entry(value) for value in logprobs]
    return {"message": {"role": "assistant", "content": "x"}, "logprobs": {"content": entries} if entries else None}


NO_TEXT: Json = {"message": {"role": "assistant", "content": None, "tool_calls": []}}
CALLS: Json = {
    "message": {"content": "", "tool_calls": [{"id": "1"}]},
    "logprobs": {"content": [an_entry(-0.2), an_entry(0.0)]},
}


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        pytest.param(an_answer(said(-0.1, -0.3)), Commit(score(-0.2)), id="good"),
        pytest.param(an_answer(said(-1.0, -3.0)), Escalate(LOW, score(-2.0)), id="below the bar"),
        pytest.param(an_answer(said(-0.1), said(-0.3)), Commit(score(-0.3)), id="the lowest of two"),
        pytest.param(an_answer(said(-0.1), said(-3.0)), Escalate(LOW, score(-3.0)), id="one below the bar"),
        pytest.param(an_answer(NO_TEXT), Escalate(Cause.EMPTY_ANSWER, None), id="empty"),
        pytest.param(an_answer(said(-0.1), NO_TEXT), Escalate(Cause.EMPTY_ANSWER, None), id="one empty"),
        pytest.param(an_answer(), Escalate(Cause.EMPTY_ANSWER, None), id="no choices"),
        pytest.param(an_answer(CALLS), Commit(score(-0.2)), id="a tool call; its sure tokens are forced"),
        pytest.param(an_answer(said()), Commit(None), id="no signal"),
        pytest.param(
            an_answer({"message": {"content": None, "refusal": "no"}}), Commit(None), id="a refusal is an answer"
        ),
        pytest.param(b"<html>", Escalate(Cause.UPSTREAM_ERROR, None), id="no JSON"),
        pytest.param(b'{"choices":3}', Escalate(Cause.UPSTREAM_ERROR, None), id="another shape"),
    ],
)
def test_whole_answer_is_judged_by_all_its_tokens(body: bytes, verdict: Verdict) -> None:
    """The mean over every token that no grammar forced."""
    judgement = judge_whole(a_request(), body, an_escalation(), Injection(0))

    assert rounded(judgement.verdict) == verdict


def test_whole_answer_with_an_echoed_prompt_has_no_signal() -> None:
    """The prompt's tokens stand among the answer's."""
    request = a_request(api="completions", echo=True, logprobs=1)
    logprobs: Json = {"token_logprobs": [None, -9.0, -0.2], "top_logprobs": [None, {}, {}]}
    body = encode({"choices": [{"index": 0, "text": "abc", "logprobs": logprobs, "finish_reason": "stop"}]})

    assert judge_whole(request, body, an_escalation(), Injection()).verdict == Commit(None)


@pytest.mark.parametrize("body", [an_answer(NO_TEXT), an_answer(said(-3.0))], ids=["empty", "low"])
def test_whole_answer_is_sent_on_when_its_fault_is_no_cause(body: bytes) -> None:
    """A policy that escalates for overload only sends on what the expert said."""
    judgement = judge_whole(a_request(), body, an_escalation(on=(Cause.OVERLOADED,)), Injection(0))

    assert isinstance(judgement.verdict, Commit)


@pytest.mark.parametrize("body", [b"<html>", b'{"choices":3}'], ids=["html", "another shape"])
def test_what_cannot_be_read_is_no_answer_for_any_policy(body: bytes) -> None:
    """Whatever the policy escalates for, it is an error and never sent on as a good answer."""
    judgement = judge_whole(a_request(), body, an_escalation(on=(Cause.OVERLOADED,)), Injection(0))

    assert judgement.verdict == Escalate(Cause.UPSTREAM_ERROR, None)


@pytest.mark.parametrize(
    ("name", "api"),
    [
        pytest.param("chat_tools_required", "chat", id="tool call"),
        pytest.param("completions", "completions", id="text"),
    ],
)
def test_recorded_whole_answers_are_not_empty(name: str, api: Api) -> None:
    """A tool call with empty content is an answer, and so is a completion's text."""
    exchange = recording(name)

    assert exchange.api == api
    assert judge_whole(exchange.request, exchange.body, an_escalation(), Injection(0)).verdict == Commit(None)


def test_completion_is_judged_by_token_logprobs() -> None:
    """Completions keep their log probabilities in a list of their own, with null for a token without one."""
    logprobs: Json = {
        "token_logprobs": [None, -0.2, -0.4],
        "tokens": ["a", "b", "c"],
        "top_logprobs": [None, {}, {"c": -0.4}],
    }
    body = encode({"choices": [{"index": 0, "text": "abc", "logprobs": logprobs, "finish_reason": "stop"}]})

    assert rounded(judge_whole(a_request(api="completions"), body, an_escalation(), Injection(0)).verdict) == Commit(
        score(-0.3)
    )
