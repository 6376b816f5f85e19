"""The text of a request that strategies score."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flotilla_router.request import parse_request
from flotilla_router.text import clip, prompt_text
from flotilla_router.wire import Api

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def text_of(api: Api, **fields: Any) -> str:
    return prompt_text(parse_request(api, json.dumps({"model": "auto", **fields}).encode()))


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        pytest.param([user("Hello")], "Hello", id="one message"),
        pytest.param(
            [
                {"role": "system", "content": "Be brief"},
                user("first"),
                {"role": "assistant", "content": "ok"},
                user("last"),
            ],
            "last",
            id="the last of the user's",
        ),
        pytest.param(
            [user("do it"), {"role": "tool", "tool_call_id": "1", "content": "42"}], "do it", id="in a tool loop"
        ),
        pytest.param(
            [user([{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}])], "a\n\nb", id="parts"
        ),
        pytest.param([user([IMAGE])], "", id="only an image"),
        pytest.param([user(None)], "", id="null"),
        pytest.param([user({"text": "x"})], "", id="no content of the API"),
        pytest.param([{"role": "system", "content": "x"}], "", id="no user"),
        pytest.param(["x"], "", id="no message"),
        pytest.param([], "", id="none"),
        pytest.param([user('é 素 \n"quoted" \\ 🙂')], 'é 素 \n"quoted" \\ 🙂', id="escapes"),
        pytest.param([user("x" * 600 + "y" * 600)], "x" * 512 + "y" * 512, id="clipped"),
    ],
)
def test_chat_text_is_the_last_user_messages(messages: list[object], text: str) -> None:
    """Its text parts, clipped; "" where it has none."""
    assert text_of("chat", messages=messages) == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        pytest.param("Hello", "Hello", id="a text"),
        pytest.param(["first", "second"], "first", id="the first of several"),
        pytest.param([1, 2, 3], "", id="token ids"),
        pytest.param([[1, 2], [3]], "", id="lists of them"),
        pytest.param([], "", id="none"),
        pytest.param(None, "", id="null"),
    ],
)
def test_completion_text_is_the_first_prompt(prompt: object, text: str) -> None:
    """Token ids have no text."""
    assert text_of("completions", prompt=prompt) == text


def test_a_missing_field_is_no_text() -> None:
    """Nothing to score is scored as the empty text."""
    assert (text_of("chat"), text_of("completions")) == ("", "")


def test_half_a_surrogate_pair_is_no_text() -> None:
    """The standard has no such JSON, but Python's parser takes it, and so does the request's."""
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}'

    assert prompt_text(parse_request("chat", body)) == ""


def test_a_million_items_are_not_decoded_one_by_one() -> None:
    """Such a body is scored by the bytes that it ends with, where no message is found, and holds nobody else up."""
    body = b'{"model": "auto", "messages": [' + b"{}," * 400_000 + b'{"content": "end", "role": "user"}]}'

    assert prompt_text(parse_request("chat", body)) == body[-512:].decode()


@pytest.mark.parametrize(
    ("text", "more"),
    [
        pytest.param("sum this, please", [], id="the last message"),
        pytest.param("1,2," * 200_000 + "sum", [], id="a table"),
        pytest.param('say \\"role\\": "user" 素 \\\\', [], id="escapes"),
        pytest.param(
            "go on", [{"role": "assistant", "content": None}, {"role": "tool", "content": "7," * 9}], id="a loop"
        ),
    ],
)
@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_the_users_last_message_is_found_in_a_body_of_many_commas(
    text: str, more: list[object], separators: tuple[str, str] | None
) -> None:
    """Whoever sends tables and tool results means what stands beside them; such a body is searched, not decoded."""
    before = [user("first"), {"role": "tool", "content": "1," * 150_000, "tool_call_id": "a"}]
    chat = {"model": "auto", "messages": [*before, user(text), *more], "tools": [{"role": "x"}]}

    found = prompt_text(parse_request("chat", json.dumps(chat, separators=separators).encode()))

    assert found == clip(text)


def test_a_completion_of_many_commas_is_read_as_any() -> None:
    """A text is decoded in one piece; of a list of so many items nothing is."""
    table = "1,2," * 200_000

    assert text_of("completions", prompt=table) == clip(table)
    assert text_of("completions", prompt=[1] * 200_000) == ""


def test_an_end_of_a_body_begins_with_a_whole_word() -> None:
    """Half a key would not be masked in the request log as a whole one is."""
    body = b'{"model": "auto", "messages": [' + b"{}," * 400_000 + b'{"content": "sk-%b"}]}'

    text = prompt_text(parse_request("chat", body % (b"0123456789" * 60 + b" end" * 5)))

    assert text == " end" * 5 + '"}]}'


def test_a_megabyte_is_clipped() -> None:
    """1,024 characters are left of it."""
    long = "word " * 200_000

    assert text_of("chat", messages=[user(long)]) == long[:512] + long[-512:]
