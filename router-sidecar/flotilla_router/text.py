"""The text of a prompt, as far as learned routing looks at it."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from .wire import DECODE_ERRORS, ParsedRequest

CLIP_CHARACTERS = 512
_COUNTED_FROM_BYTES = 262_144
_MOST_ITEMS = 100_000
"""Commas in what is decoded item by item; a million would hold up everybody else."""


class _Chat(msgspec.Struct, gc=False):
    messages: list[Raw] = []


class _Message(msgspec.Struct, gc=False):
    role: str = ""
    content: Raw = Raw(b"null")


class _ContentPart(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


class _Completion(msgspec.Struct, gc=False):
    prompt: Raw = Raw(b"null")


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_content = msgspec.json.Decoder(str | list[_ContentPart] | None).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def clip(text: str) -> str:
    """The first and the last 512 characters, which is all that training and serving ever see of a text."""
    if len(text) <= 2 * CLIP_CHARACTERS:
        return text
    return text[:CLIP_CHARACTERS] + text[-CLIP_CHARACTERS:]


def prompt_text(request: ParsedRequest) -> str:
    """The text that strategies score, clipped: of a chat the last user message's, of a completion the first prompt.

    It is "" where there is none: no user message, only images, token ids, half a surrogate pair.
    """
    body = request.body
    if len(body) > _COUNTED_FROM_BYTES and body.count(b",") > _MOST_ITEMS:
        return body[-CLIP_CHARACTERS:].decode(errors="replace")
    try:
        return clip(_chat_text(body) if request.api == "chat" else _completion_text(body))
    except DECODE_ERRORS:
        return ""


def _chat_text(body: bytes) -> str:
    for raw in reversed(_decode_chat(body).messages):
        message = _decode_message(raw)
        if message.role == "user":
            content = _decode_content(message.content)
            return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
    return ""


def _completion_text(body: bytes) -> str:
    prompt = _decode_completion(body).prompt
    if bytes(memoryview(prompt)[:1]) == b"[":
        items = _decode_items(prompt)
        prompt = items[0] if items else Raw(b'""')
    return _decode_text(prompt)
