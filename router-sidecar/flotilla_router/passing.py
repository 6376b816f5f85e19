"""Which of a client's headers go upstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SDK_HEADERS = (b"content-type", b"accept", b"user-agent")
_TRACE_HEADERS = (b"traceparent", b"tracestate")
"""With the request id, all of a client's headers that go upstream."""
_MOST_KNOWN_LINES, _LONGEST_KNOWN_LINES = 256, 1024
"""Of those that are kept: how many sets, and the bytes of one."""
_known_lines: dict[tuple[bytes | None, ...], bytes] = {}


def passed_headers(headers: Mapping[bytes, bytes], name: str) -> bytes:
    """Header lines that go upstream. A client's SDK sends the same ones each time, so they are made once."""
    get = headers.get
    key = (get(b"content-type"), get(b"accept"), get(b"user-agent"))
    lines = _known_lines.get(key)
    if lines is None:
        lines = _lines(_SDK_HEADERS, key)
        if len(lines) <= _LONGEST_KNOWN_LINES:
            if len(_known_lines) >= _MOST_KNOWN_LINES:
                _known_lines.clear()
            _known_lines[key] = lines
    if b"traceparent" in headers:
        lines += _lines(_TRACE_HEADERS, (get(b"traceparent"), get(b"tracestate")))
    return b"%bx-request-id: %b\r\n" % (lines, name.encode())


def _lines(names: Sequence[bytes], values: Sequence[bytes | None]) -> bytes:
    return b"".join(
        b"%b: %b\r\n" % (name, value) for name, value in zip(names, values, strict=True) if value is not None
    )
