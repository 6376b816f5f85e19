"""Shows a gateway's request log, page by page, to holders of the API keys that the policy names as its readers."""

from __future__ import annotations

import asyncio
from functools import partial
from urllib.parse import parse_qs

from flotilla_api import request_log

from .connection import ClientConnection
from .credentials import ApiKeys
from .incoming import Incoming, Problem, make_problem
from .requestlog import RequestLog
from .segments import Cursor, Page, read_page

PAGE_BYTES = 1024 * 1024
"""Most of a page; a row is smaller."""
_KEY_HEADER = request_log.KEY_HEADER.encode()
_FLAGS = {True: b"true", False: b"false"}
_UNREADABLE = Problem(
    status=503, message="the request log cannot be read", code="request_log_unreadable", type="server_error"
)


class LogPages:
    """Answers `flotilla_api.request_log.REQUEST_LOG_PATH`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: RequestLog, keys: ApiKeys) -> None:
        self._loop = loop
        self._log = log
        self._keys = keys

    def serve(self, incoming: Incoming, connection: ClientConnection) -> None:
        """Answer with a page, once the disk has given it."""
        folder, wanted = self._log.folder, _wanted(incoming.url)
        problem = self._refusal(incoming)
        if problem is None and isinstance(wanted, Problem):
            problem = wanted
        if problem is not None or folder is None or isinstance(wanted, Problem):
            connection.refuse(problem or _NO_LOG)
            return
        after, limit = wanted
        read = partial(read_page, folder, after, max_lines=limit, max_bytes=PAGE_BYTES)
        connection.exchange = _Reading(connection, self._loop.run_in_executor(None, read))

    def _refusal(self, incoming: Incoming) -> Problem | None:
        """Why somebody may not read; None: they may."""
        config = self._log.config
        if config is None:
            return _NO_LOG
        key = incoming.headers.get(_KEY_HEADER, b"")
        incoming.client = self._keys.client_of(key) if key else None
        if incoming.client is None:
            message = "Incorrect API key provided." if key else f"Send an API key in {request_log.KEY_HEADER}."
            return make_problem(401, message, "request_log_denied")
        if incoming.client not in config.readers:
            return make_problem(403, "This API key is not among requestLog.readers.", "request_log_denied")
        return None


_NO_LOG = make_problem(404, "the policy keeps no request log", "no_request_log")


def _wanted(url: bytes) -> tuple[Cursor | None, int] | Problem:
    """After which place, and how many rows at most."""
    query = parse_qs(url.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
    place, limit = query.get("after", [""])[-1], query.get("limit", [str(request_log.DEFAULT_LINES)])[-1]
    after = Cursor.parse(place)
    if place and after is None:
        return make_problem(400, "`after` is no cursor of this log", "invalid_cursor")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 9 and 0 < int(limit) <= request_log.MAX_LINES):
        return make_problem(400, f"`limit` must be a number from 1 to {request_log.MAX_LINES}", "invalid_limit")
    return after, int(limit)


class _Reading:
    """A page that is being read. Implements serving.Running."""

    def __init__(self, connection: ClientConnection, page: asyncio.Future[Page]) -> None:
        self._connection: ClientConnection | None = connection
        page.add_done_callback(self._done)

    def client_gone(self) -> None:
        """The page is for nobody."""
        self._connection = None

    def pause(self) -> None:
        """Nothing is being sent."""

    def resume(self) -> None:
        """Nothing is being sent."""

    def _done(self, page: asyncio.Future[Page]) -> None:
        connection = self._connection
        if page.cancelled() or connection is None:
            return
        if page.exception() is not None:
            connection.refuse(_UNREADABLE)
        else:
            read = page.result()
            connection.respond(200, _lines(read), read.lines)


def _lines(page: Page) -> bytes:
    fields = (
        (request_log.CURSOR_HEADER, str(page.end).encode()),
        (request_log.MORE_HEADER, _FLAGS[page.more]),
        (request_log.GAP_HEADER, _FLAGS[page.gap]),
    )
    own = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in fields)
    return b"content-type: application/x-ndjson\r\ncache-control: no-store\r\n" + own
