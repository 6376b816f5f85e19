"""Whole answers with the headers of the dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fakes.engine import wire
from fakes.engine.dialect import Dialect
from fakes.engine.http import Exchange, Request
from fakes.engine.requests import RequestError

JSON = {"content-type": "application/json"}

Handler = Callable[[Request, Exchange], None]
Routes = dict[str, dict[str, Handler]]
"""Path -> method -> handler."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Answers an exchange at once."""

    dialect: Dialect

    def json(self, exchange: Exchange, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer with a JSON body."""
        exchange.respond(status, wire.encode(value), {**JSON, **(headers or {}), **self.dialect.headers()})

    def text(self, exchange: Exchange, body: bytes, content_type: str | None = None) -> None:
        """Answer 200 with a plain body, by default without a content type."""
        kind = {"content-type": content_type} if content_type else {}
        exchange.respond(200, body, {**kind, **self.dialect.headers()})

    def error(self, exchange: Exchange, error: RequestError, headers: Mapping[str, str] | None = None) -> None:
        """Answer a refused request."""
        self.json(exchange, error.status, self.dialect.error(error), headers)
