"""How a gateway's request log is read: `GET REQUEST_LOG_PATH?after=CURSOR&limit=LINES` on its admin port.

A page is JSON lines, oldest first. 401: no API key of the policy in KEY_HEADER. 403: its holder is no reader.
404: the policy keeps no log.
"""

from __future__ import annotations

REQUEST_LOG_PATH = "/v1/request-log"
KEY_HEADER = "x-flotilla-key"
"""Of a request: the API key, because on the way through the API server `authorization` is that one's own."""
CURSOR_HEADER = "x-flotilla-cursor"
"""Of a page: where the next one begins, its `after`."""
MORE_HEADER = "x-flotilla-more"
"""Of a page: `true` if there may be another one now."""
GAP_HEADER = "x-flotilla-gap"
"""Of a page: `true` if rows between `after` and this page may have made room for others."""
DEFAULT_LINES = 1000
MAX_LINES = 10_000
"""Rows of a page, where `limit` is not said, and at most."""
