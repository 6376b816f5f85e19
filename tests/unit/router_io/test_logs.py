"""Log lines reach their reader, or are counted; they never hold the router up."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import pytest
from rig import ListLog

from flotilla_router.logs import MAX_PENDING_BYTES, AttemptRecord, JsonLog, Lines, RequestRecord, TerminalLog
from flotilla_router.telemetry import Telemetry


@dataclass
class Pipe:
    """The two ends of a pipe whose reader may wait."""

    reader: int
    writer: int
    reads: bool = True

    def read(self) -> bytes:
        """What is in the pipe."""
        os.set_blocking(self.reader, False)
        parts: list[bytes] = []
        try:
            while part := os.read(self.reader, 1 << 20):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts)

    def close(self) -> None:
        """Nobody reads or writes any more."""
        if self.reads:
            os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Generator[Pipe]:
    with closing(Pipe(*os.pipe())) as both:
        yield both


def a_record(alias: str) -> RequestRecord:
    attempt = AttemptRecord(target="maths", endpoint="maths-0", ms=12.5)
    return RequestRecord(request_id="1", policy="p", alias=alias, api="chat", stream=False, attempts=[attempt])


def test_a_line_is_one_json_object(pipe: Pipe) -> None:
    """Whatever is in it."""
    log = JsonLog(Lines(pipe.writer))
    log.write("refused", {"error": "two\nlines \x1b[2J"})
    log.request(a_record("auto"))
    log.flush()
    first, second = [json.loads(line) for line in pipe.read().splitlines()]

    assert (first["event"], first["error"]) == ("refused", "two\nlines \x1b[2J")
    assert (second["event"], second["alias"], second["attempts"][0]["target"]) == ("request", "auto", "maths")
    assert log.dropped == 0


def test_a_reader_that_stalls_holds_nothing_up(pipe: Pipe) -> None:
    """Lines wait within bounds, then they are dropped and counted; those that come out later are whole."""
    log = JsonLog(Lines(pipe.writer))
    written = 2 * MAX_PENDING_BYTES // 1000
    for number in range(written):
        log.write("request", {"number": number, "padding": "x" * 1000})
    log.flush(0.01)
    dropped = log.dropped
    received = b""
    while part := pipe.read():
        received += part
        log.flush()
    numbers = [json.loads(line)["number"] for line in received.splitlines()]

    assert dropped > 0
    assert numbers == list(range(written - dropped))
    log.write("request", {"number": -1})
    log.flush()
    assert json.loads(pipe.read())["number"] == -1


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    """Lines are lost, and counted."""
    log = JsonLog(Lines(pipe.writer))
    os.close(pipe.reader)
    pipe.reads = False
    for _ in range(3):
        log.write("request", {})
    log.flush()

    assert log.dropped == 3


def test_lost_lines_are_a_metric() -> None:
    """Whoever misses lines can see that they were lost."""
    log = ListLog()
    log.dropped = 7

    exposition = Telemetry("agents", "helpdesk", log).exposition()
    assert b'flotilla_router_log_lines_dropped_total{policy="helpdesk"} 7.0' in exposition


def test_a_terminal_is_not_steered_by_clients(pipe: Pipe) -> None:
    """Control characters are shown as escapes, and a text of several lines cannot pass for a line of the log."""
    log = TerminalLog(Lines(pipe.writer))
    log.write("refused", {"error": "é \x1b[2J\x07", "path": "/a\r\n12:00:00 forged", "none": None})
    log.request(a_record("a\tb"))
    log.flush()
    lines = pipe.read().decode().splitlines()

    assert lines[0].endswith(r"error=é \x1b[2J\x07 path=/a")
    assert lines[1] == "    12:00:00 forged"
    assert r"alias=a\tb" in lines[2]
    assert "attempts=maths/maths-0:ok:12.5ms" in lines[2]
