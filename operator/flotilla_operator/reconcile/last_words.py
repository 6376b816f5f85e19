"""The one line of a container's last output that a person wants to read."""

from __future__ import annotations

import re

_MAX_LENGTH = 300
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Colours, and what else no status should hold."""
_PREFIX = re.compile(
    r"^(?:\([^)]*pid=\d+[^)]*\)\s*"  # (EngineCore_DP0 pid=123)
    r"|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:?\s+"
    r"|\[?\d{4}-\d\d-\d\d[T ][\d:.,]+Z?(?:[+-]\d\d:?\d\d)?\]?\s*"
    r"|\d\d-\d\d \d\d:\d\d:\d\d\s*"
    r"|\[[\w./-]+:\d+\]\s*)"
)
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*|Value error,.*|.*\berror:.*", re.IGNORECASE)
_SAYS_NOTHING = re.compile(
    r"Engine core initialization failed|Engine process failed to start|See (?:root cause|stack trace)"
)
_PID = re.compile(r"\bpid[= ]\d+")


def last_words(message: str) -> str:
    """The last line that names an error, else the last line; without times and process ids, which differ every time."""
    lines = [text for line in _CONTROL.sub("", message).splitlines() if (text := _plain(line))]
    errors = [line for line in lines if _ERROR.match(line)]
    telling = [line for line in errors if not _SAYS_NOTHING.search(line)]
    found = (telling or errors or lines or [""])[-1]
    return found if len(found) <= _MAX_LENGTH else f"{found[: _MAX_LENGTH - 3]}..."


def _plain(line: str) -> str:
    text = line.strip()
    while match := _PREFIX.match(text):
        text = text[match.end() :]
    return _PID.sub("pid", text).strip()
