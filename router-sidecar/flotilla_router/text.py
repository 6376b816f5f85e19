"""The text of a prompt, as far as learned routing looks at it."""

from __future__ import annotations

import json
import re
from typing import cast

import msgspec
from msgspec import Raw

from .wire import DECODE_ERRORS, ParsedRequest

CLIP_CHARACTERS = 512
_COUNTED_FROM_BYTES = 262_144
_MOST_ITEMS = 100_000
"""Commas in what is decoded item by item; a million would hold up everybody else."""
_SYSTEM_CHARACTERS = 256
"""Of a first message that is not the user's."""
_MOST_SEARCHED = 4_096
"""Messages of a body that is not decoded, from its end, among which the user's last one is looked for."""
_MOST_OPENING = 64
"""Messages among which the user's first one is looked for."""


class _Chat(msgspec.Struct, gc=False):
    messages: list[Raw] = []


class _WholeChat(msgspec.Struct, gc=False):
    messages: Raw = Raw(b"[]")


class _Message(msgspec.Struct, gc=False):
    role: str = ""
    content: Raw = Raw(b"null")


class _ContentPart(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


class _Completion(msgspec.Struct, gc=False):
    prompt: Raw = Raw(b"null")


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_whole = msgspec.json.Decoder(_WholeChat).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_content = msgspec.json.Decoder(str | list[_ContentPart] | None).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_scan = json.JSONDecoder(strict=False).raw_decode
_user_text = re.compile(rb'"role"\s*+:\s*+"user"\s*+,\s*+"content"\s*+:\s*+"').match
_CUT_WORD = re.compile(r"\A[\w.+/=%@-]+")
"""The rest of a secret might not look like one to whoever masks it."""
_blanks = re.compile(r"[ \t\r\n,]+").match


def clip(text: str) -> str:
    """The first and the last 512 characters, which is all that training and serving ever see of a text."""
    if len(text) <= 2 * CLIP_CHARACTERS:
        return text
    return text[:CLIP_CHARACTERS] + text[-CLIP_CHARACTERS:]


def prompt_text(request: ParsedRequest) -> str:
    """The text that strategies score, clipped: of a chat the last user message's, of a completion the first prompt.

    It is "" where there is none: no user message, only images, token ids, half a surrogate pair. A body over 256 KiB
    with more than 100,000 commas is not decoded item by item, which would hold up everybody.
    """
    body = request.body
    many = len(body) > _COUNTED_FROM_BYTES and body.count(b",") > _MOST_ITEMS
    try:
        if request.api == "completions":
            return clip(_completion_text(body, many=many))
        return _text_by_search(body) if many else clip(_chat_text(body))
    except DECODE_ERRORS:
        return ""


def _text_by_search(body: bytes) -> str:
    """Of a long body the last text that follows on the role user, as clients write messages; else the body's end."""
    place = len(body)
    for _ in range(_MOST_SEARCHED):
        place = body.rfind(b'"role"', 0, place)  # no text holds it: a quote in a text has a backslash before it
        if place < 0:
            break
        if found := _user_text(body, place):
            text, _ = cast("tuple[str, int]", _scan(body[found.end() - 1 :].decode(), 0))
            return clip(text)
    return _CUT_WORD.sub("", body[-CLIP_CHARACTERS:].decode(errors="ignore"))


def _chat_text(body: bytes) -> str:
    for raw in reversed(_decode_chat(body).messages):
        message = _decode_message(raw)
        if message.role == "user":
            content = _decode_content(message.content)
            return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
    return ""


def _completion_text(body: bytes, *, many: bool) -> str:
    prompt = _decode_completion(body).prompt
    if bytes(memoryview(prompt)[:1]) == b"[":
        items = [] if many else _decode_items(prompt)
        prompt = items[0] if items else Raw(b'""')
    return _decode_text(prompt)


def opening_of(request: ParsedRequest) -> tuple[str, ...]:
    """How a conversation begins, which its later requests have in common with its first, whatever is beside the text.

    Of a chat the first message, 256 characters of it, and the user's first, clipped; of a completion the beginning of
    the prompt. No more than the first 256 KiB are read.
    """
    try:
        if request.api == "completions":
            return (_beginning(_decode_completion(request.body).prompt, _SYSTEM_CHARACTERS),)
        return _chat_opening(_beginning(_decode_whole(request.body).messages, _COUNTED_FROM_BYTES))
    except DECODE_ERRORS:
        return ()


def _beginning(part: Raw, size: int) -> str:
    return bytes(memoryview(part)[:size]).decode(errors="ignore")


def _chat_opening(messages: str) -> tuple[str, ...]:
    """messages: a list in JSON, which may be cut off."""
    found: list[str] = []
    place = _next(messages, 1)
    while len(found) < _MOST_OPENING and messages[place : place + 1] not in ("]", ""):
        try:
            message, end = cast("tuple[object, int]", _scan(messages, place))
        except ValueError:  # the list is cut off here
            return (*found[:1], messages[place : place + CLIP_CHARACTERS])
        fields = cast("dict[str, object]", message) if isinstance(message, dict) else {}
        said = _said(fields.get("content")) or messages[place:end]
        if fields.get("role") == "user":
            return (*found[:1], clip(said))
        found.append(said[:_SYSTEM_CHARACTERS])
        place = _next(messages, end)
    return tuple(found[:1])


def _next(messages: str, place: int) -> int:
    """Where the next message begins, or the list ends."""
    blank = _blanks(messages, place)
    return place if blank is None else blank.end()


def _said(content: object) -> str:
    """The text of a message; "": it has none, such as one that is an image."""
    if isinstance(content, str):
        return content
    parts = cast("list[object]", content) if isinstance(content, list) else []
    texts = [cast("dict[str, object]", part).get("text") for part in parts if isinstance(part, dict)]
    return "\n".join([text for text in texts if isinstance(text, str)])
