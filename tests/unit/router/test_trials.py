"""Which sessions try an artifact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flotilla_router.request import parse_request
from flotilla_router.text import opening_of
from flotilla_router.trials import named_session, session_of, takes_part

Json = dict[str, Any]

ARTIFACT, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SESSIONS = [f"session {number}".encode() for number in range(4000)]


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_canary_takes_its_share_of_the_sessions(percent: int) -> None:
    """Of 4,000 sessions the wanted percent, give or take four standard deviations."""
    taken = sum(takes_part(ARTIFACT, session, percent) for session in SESSIONS)

    share = percent / 100
    assert abs(taken / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_all_or_none_take_part_at_the_ends() -> None:
    """100 percent is everybody, 0 nobody."""
    assert all(takes_part(ARTIFACT, session, 100) for session in SESSIONS)
    assert not any(takes_part(ARTIFACT, session, 0) for session in SESSIONS)


def test_a_higher_percent_adds_sessions_and_moves_none_back() -> None:
    """Those that took part at 5 percent still do at 20."""
    assert all(takes_part(ARTIFACT, session, 20) for session in SESSIONS if takes_part(ARTIFACT, session, 5))


def test_another_artifact_is_tried_by_other_sessions() -> None:
    """The same tenth of the users is not tried upon every time."""
    both = sum(takes_part(ARTIFACT, session, 10) and takes_part(OTHER, session, 10) for session in SESSIONS)

    assert both < 4000 * 0.02


def test_a_session_is_named_by_the_first_header_that_is_there() -> None:
    """The order is the policy's, not the request's; without any of them it has no name."""
    names = (b"x-session-id", b"x-user")

    by_both = named_session({b"x-user": b"u", b"x-session-id": b"s"}, names)

    assert by_both == named_session({b"x-session-id": b"s"}, names)
    assert by_both != named_session({b"x-user": b"s"}, names)
    assert named_session({b"x-session-id": b""}, names) is None


def test_without_a_header_the_key_and_how_the_conversation_begins_are_the_session() -> None:
    """Half a surrogate pair is text like any other."""
    assert session_of("key", ("You are a clerk.", "Hello")) == session_of("key", ("You are a clerk.", "Hello"))
    assert session_of("key", ("Hello",)) != session_of("other", ("Hello",))
    assert session_of(None, ("a\ud800",)) != session_of(None, ("b",))


def message(role: str, content: object, **more: object) -> Json:
    return {"role": role, "content": content, **more}


SYSTEM = message("system", "You are a clerk of a bank, and patient. " * 40)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def opening(messages: object, **more: object) -> tuple[str, ...]:
    """How a chat of these messages begins."""
    body = json.dumps({"model": "auto", **more, "messages": messages}).encode()
    return opening_of(parse_request("chat", body))


@pytest.mark.parametrize(
    "first",
    [
        pytest.param([message("user", "hi")], id="a short question"),
        pytest.param([message("user", "How do I reset my password? " * 200)], id="a long one"),
        pytest.param([SYSTEM, message("user", "hi")], id="after a system prompt"),
        pytest.param([message("user", [{"type": "text", "text": "What is this?"}, IMAGE])], id="in parts"),
        pytest.param([message("user", [IMAGE])], id="an image"),
        pytest.param(["of no shape", SYSTEM], id="no user's"),
        pytest.param([], id="none"),
    ],
)
def test_later_turns_of_a_conversation_begin_as_its_first(first: list[Any]) -> None:
    """Whatever comes after, beside and around: turns, tools, settings, marks for a cache, other spacing."""
    later = [*first, message("assistant", "Which one?"), message("system", "go on"), message("tool", "[1, 2]" * 9)]
    more = [message("user", "the second question")] if any("user" in str(each) for each in first) else []
    marked = [each if isinstance(each, str) else {**each, "cache_control": {"type": "ephemeral"}} for each in first]

    if first:
        assert opening(first) == opening([*later, *more], max_tokens=5, tools=[{"messages": [message("user", "x")]}])
    if first and first != [message("user", [IMAGE])]:
        assert opening(first) == opening(marked)


def test_conversations_behind_one_system_prompt_are_told_apart() -> None:
    """By the user's first message, at whichever of its ends they differ; and so are system prompts."""
    asked = [message("user", "Please. " * 1_000 + text) for text in ("one", "two")]
    systems = [message("system", text) for text in ("You are a clerk.", "You are a judge.")]

    assert opening([SYSTEM, asked[0]]) != opening([SYSTEM, asked[1]])
    assert opening([systems[0], asked[0]]) != opening([systems[1], asked[0]])
    assert opening([message("user", [IMAGE])]) != opening([message("user", [{**IMAGE, "detail": "high"}])])


def test_what_is_hashed_of_a_conversation_is_bounded() -> None:
    """256 characters of the system's, 1,024 of the user's, and only the first 64 messages are searched."""
    long = opening([message("system", "s" * 10**5), message("user", "u" * 10**5)])
    late = opening([message("assistant", "a")] * 64 + [message("user", "u")])

    assert list(map(len, long)) == [256, 1024]
    assert late == ("a",)


def test_a_conversation_of_a_million_commas_begins_as_any() -> None:
    """A long tool loop has them; its session is that of its first request."""
    first = [SYSTEM, message("user", "hi")]

    assert opening([*first, message("tool", "[" + "1," * 400_000)]) == opening(first)


def test_a_first_message_that_is_too_long_to_be_read_begins_the_session_all_the_same() -> None:
    """By what stands at its beginning, so that later turns find the same."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000}}
    first, other = [SYSTEM, message("user", [image])], [SYSTEM, message("user", [{"text": "x"}, image])]

    assert opening(first) == opening([*first, message("assistant", "a cat")])
    assert opening(first) != opening(other)
    assert max(map(len, opening(first))) <= 512


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [
        pytest.param("x" * 1000, '"' + "x" * 255, id="a text"),
        pytest.param([1, 2], "[1, 2]", id="token ids"),
        pytest.param(None, "null", id="none"),
    ],
)
def test_completions_begin_with_their_prompt(prompt: object, begins: str) -> None:
    """They have no turns, but a longer prompt may begin as a shorter one did."""
    request = parse_request("completions", json.dumps({"model": "auto", "prompt": prompt}).encode())

    assert opening_of(request) == (begins,)


@pytest.mark.parametrize("text", ["null", '"x"', "3", '{"role": "user"}', "[[[]]]", "[null]", "[]"])
def test_messages_of_any_shape_have_an_opening(text: str) -> None:
    """What they mean is for the engine to say."""
    assert all(isinstance(part, str) for part in opening(json.loads(text)))
