"""Errors of the control API."""

from __future__ import annotations

from aiohttp import web

from .tokens import Denied


def problem(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as JSON: {"error": {"reason", "message"}}."""
    return web.json_response({"error": {"reason": reason, "message": message}}, status=status, headers=headers)


def unavailable(message: str) -> web.Response:
    """A 503 that asks to come back."""
    return problem(503, "Unavailable", message, {"Retry-After": "1"})


def denial(denied: Denied) -> web.Response:
    """Of a caller that may not ask at all."""
    return problem(denied.status, "Unauthorized" if denied.status == 401 else "Forbidden", denied.message)
