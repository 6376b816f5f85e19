"""Errors of the pure core, and the envelope in which every error reaches a client.

BadRequest       the client's own mistake; becomes its status at the edge
EventTooLarge    an upstream's event is longer than we buffer; the attempt failed
ArtifactError    a router artifact is refused; the previous one stays
"""

from __future__ import annotations

import msgspec

from flotilla_api.artifact import ArtifactFault

_LONGEST_QUOTE = 100
"""Characters."""


class BadRequest(Exception):  # noqa: N818 - named for the status it becomes
    """The client's own mistake, in the shape of OpenAI's errors."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - the wire's name
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code


class EventTooLarge(Exception):  # noqa: N818 - named for what happened
    """An event is longer than the splitter's bound."""


class ArtifactError(Exception):
    """A router artifact cannot be used; `message` says what is wrong with which part of it."""

    def __init__(self, reason: ArtifactFault, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def quote(text: str) -> str:
    """What a client sent, at a length that fits a message and a log line."""
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def error_body(message: str, *, type: str, param: str | None = None, code: str | None = None) -> bytes:  # noqa: A002
    """OpenAI's error envelope."""
    return msgspec.json.encode({"error": {"message": message, "type": type, "param": param, "code": code}})
