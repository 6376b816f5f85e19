"""What a gateway keeps of its requests to learn from, where its policy asks for that.

    Entry -> finish -> pending -> flush -> thread: mask, encode, write -> segments

The loop only collects. A thread of its own does the rest, a row at a time, so that it never has the interpreter for
long. Rows are in a folder that is named for what is kept of prompts: those that were written under another setting go
when the setting changes.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import msgspec

from flotilla_api.snapshot import RequestLogConfig

from .decisions import Decision
from .logs import RequestRecord
from .rows import ANSWER_CHARACTERS, add_texts, make_row, streamed_answer, streamed_pieces, whole_answer
from .segments import Segments
from .text import prompt_text
from .wire import Api, ParsedRequest

MAX_PENDING_BYTES = 8 * 1024 * 1024
"""Of what waits for the thread; further rows are dropped."""
MAX_ROW_BYTES = 256 * 1024
_ROW_BYTES = 1024
"""Of a row without texts, about."""
_MOST_KEPT_BYTES = 32 * 1024
"""Of a stream's events, until only their text is kept."""
_ENOUGH_BYTES = 6 * ANSWER_CHARACTERS
"""Of JSON's notation: no character takes more."""


class Entry:
    """One request while it is under way: what is said in it."""

    __slots__ = (
        "_api",
        "_events",
        "_log",
        "_pieces",
        "_size",
        "_whole",
        "candidates",
        "config",
        "decision",
        "keeps_answer",
        "prompt",
        "record",
        "scores",
    )

    def __init__(
        self,
        log: RequestLog,
        config: RequestLogConfig,
        request: ParsedRequest,
        candidates: Sequence[str],
        scores: Mapping[str, float] | None,
    ) -> None:
        """candidates, scores: see RequestRow."""
        self._log = log
        self._api: Api = request.api
        self.config = config
        self.prompt = prompt_text(request)
        self.keeps_answer = config.prompts != "Features" and request.choices == 1
        """Whether what is answered is kept: text is, of requests for one answer."""
        self.candidates = candidates
        self.scores = scores
        self.record: RequestRecord | None = None
        """Once it has finished."""
        self.decision: Decision | None = None
        self._whole: bytes | None = None
        self._events: list[bytes] = []
        self._size = 0
        self._pieces = b""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        said = self._size if self._whole is None else len(self._whole)
        return _ROW_BYTES + len(self.prompt) + said + len(self._pieces)

    def answered(self, body: bytes) -> None:
        """A whole answer is sent."""
        if self.keeps_answer:
            self._whole = body

    def passed_on(self, events: bytes) -> None:
        """Whole events of a stream are sent."""
        if not self.keeps_answer or len(self._pieces) >= _ENOUGH_BYTES:
            return
        self._events.append(events)
        self._size += len(events)
        if self._size >= _MOST_KEPT_BYTES:
            self._shorten()

    def finish(self, record: RequestRecord, decision: Decision) -> None:
        """The request is over. decision: the last one."""
        self.record = record
        self.decision = decision
        self._log.add(self)

    def answer(self) -> str | None:
        """What was said, where it is kept."""
        if self._whole is not None:
            return whole_answer(self._whole)
        self._shorten()
        return streamed_answer(self._pieces)

    def _shorten(self) -> None:
        self._pieces += streamed_pieces(self._api, b"".join(self._events))
        self._events.clear()
        self._size = 0


@dataclass(frozen=True, slots=True)
class _Setting:
    """The thread is told what is kept from now on."""

    config: RequestLogConfig | None


_Job = _Setting | list[Entry] | None
"""None: the thread ends."""


class RequestLog:
    """The rows of one gateway. Everything is called from the loop, and nothing waits for the disk."""

    def __init__(self, folder: Path) -> None:
        """folder: the mounted one, which is there only where a policy keeps a log."""
        self._folder = folder
        self._pending: list[Entry] = []
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._writer = _Writer(folder, self._jobs)
        self._given_bytes = 0
        self._dropped = 0
        self.config: RequestLogConfig | None = None
        """What is kept now; None: nothing."""

    @property
    def folder(self) -> Path | None:
        """Of the rows that may be read now."""
        return None if self.config is None else _folder_for(self._folder, self.config)

    @property
    def problem(self) -> str | None:
        """Why rows are not written; None: they are, or none are to be."""
        return self._writer.problem if self.config is not None else None

    @property
    def written(self) -> int:
        """Rows."""
        return self._writer.written

    @property
    def bytes(self) -> int:
        """On disk."""
        return self._writer.bytes

    def dropped(self) -> Iterator[tuple[str, int]]:
        """Rows that were lost, by why."""
        yield "Backlog", self._dropped
        yield from sorted(self._writer.dropped.items())

    def configure(self, config: RequestLogConfig | None) -> None:
        """Keep what `config` says from now on."""
        if config == self.config:
            return
        self.config = config
        if not self._writer.is_alive():
            self._writer.start()
        self.flush()
        self._jobs.put(_Setting(config))

    def add(self, entry: Entry) -> None:
        """A request is over."""
        size = entry.size
        if self._given_bytes - self._writer.taken_bytes + size > MAX_PENDING_BYTES:
            self._dropped += 1
            return
        self._given_bytes += size
        self._pending.append(entry)

    def flush(self) -> None:
        """The thread has what has finished."""
        if self._pending:
            self._jobs.put(self._pending)
            self._pending = []

    def close(self, seconds: float) -> None:
        """Everything is written, as far as the disk takes it within that time; nothing is written after it."""
        if self._writer.is_alive():
            self.flush()
            self._jobs.put(None)
            self._writer.join(seconds)


class _Writer(threading.Thread):
    """Writes rows. What it counts is read by others and written by it alone."""

    def __init__(self, folder: Path, jobs: SimpleQueue[_Job]) -> None:
        super().__init__(name="request-log", daemon=True)
        self._folder = folder
        self._jobs = jobs
        self._config: RequestLogConfig | None = None
        self._segments: Segments | None = None
        self._encode = msgspec.json.Encoder().encode
        self.problem: str | None = None
        self.written = self.bytes = self.taken_bytes = 0
        self.dropped = {"Disk": 0, "Setting": 0, "Size": 0, "Defect": 0}
        """Disk: it could not be written. Setting: it was changed meanwhile. Size: over MAX_ROW_BYTES. Defect: ours."""

    def run(self) -> None:
        """Until the log is closed."""
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Setting):
                self._use(job.config)
            else:
                for entry in job:
                    size = entry.size
                    self._take(entry)
                    self.taken_bytes += size
        self._close()

    def _use(self, config: RequestLogConfig | None) -> None:
        self._close()
        self._config = config
        self.problem = None
        try:
            _remove_others(self._folder, config)
        except OSError as error:
            self.problem = f"rows of an earlier setting of the request log cannot be removed: {error}"
        self._open()

    def _open(self) -> None:
        if self._config is None:
            return
        try:
            folder = _folder_for(self._folder, self._config)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._segments = Segments(folder, self._config.maxBytes, lambda: time.time_ns() // 1_000_000)
            self.bytes = self._segments.bytes
        except OSError as error:
            self.problem = f"the request log cannot be opened: {error}"

    def _close(self) -> None:
        if self._segments is not None:
            self._segments.close()
        self._segments = None
        self.bytes = 0

    def _take(self, entry: Entry) -> None:
        """Write a row, or count why not."""
        if self._config is None or entry.config.prompts != self._config.prompts:
            self.dropped["Setting"] += 1
            return
        try:
            line = self._line(entry)
        except Exception as error:  # a mistake of ours; its message might quote the prompt
            self.dropped["Defect"] += 1
            self.problem = f"a row of the request log cannot be made: {type(error).__name__}"
            return
        if len(line) > min(MAX_ROW_BYTES, self._config.maxBytes):
            self.dropped["Size"] += 1
            return
        self._append(line)

    def _line(self, entry: Entry) -> bytes:
        record, decision = entry.record, entry.decision
        assert record is not None
        assert decision is not None
        row = make_row(record, decision, entry.candidates, entry.scores)
        answer = entry.answer() if entry.keeps_answer else None
        add_texts(row, entry.config.prompts, entry.prompt, answer)
        return self._encode(row)

    def _append(self, line: bytes) -> None:
        if self._segments is None:
            self._open()
        if self._segments is None:
            self.dropped["Disk"] += 1
            return
        try:
            self._segments.append(line)
        except OSError as error:
            self.dropped["Disk"] += 1
            self.problem = f"the request log cannot be written: {error}"
        else:
            self.written += 1
            self.problem = None
        self.bytes = self._segments.bytes


def _folder_for(folder: Path, config: RequestLogConfig) -> Path:
    return folder / config.prompts.lower()


def _remove_others(folder: Path, config: RequestLogConfig | None) -> None:
    """Rows of other settings go.

    Raises:
        OSError: they cannot be removed.
    """
    kept = None if config is None else _folder_for(folder, config)
    if folder.is_dir():
        for path in folder.iterdir():
            if path != kept and path.name in _NAMES:
                shutil.rmtree(path)


_NAMES = ("features", "redacted", "text")
