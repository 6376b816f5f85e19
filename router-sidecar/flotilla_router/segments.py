"""Lines in files of bounded size, the oldest of which go: what a request log is kept in.

A file is `NUMBER.jsonl`; later files have higher numbers, also after a restart or a removal. A line has an end, so what
a crash or a full disk leaves without one is no line. One thread writes; others may read at any time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEGMENTS = 8
"""Files that the bound is divided by: the oldest of the log go in steps of an eighth."""
_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place between two lines."""

    segment: int
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}:{self.offset}"

    @staticmethod
    def parse(text: str) -> Cursor | None:
        """The place that a text names; None: it names none."""
        segment, colon, offset = text.partition(":")
        numbers = (segment, offset)
        if not colon or any(not (each.isascii() and each.isdecimal() and len(each) <= 18) for each in numbers):
            return None
        return Cursor(int(segment), int(offset))


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines that follow each other."""

    lines: bytes
    end: Cursor
    """After the last of them: where the next page begins."""
    more: bool
    """Whether there may be another page now."""
    gap: bool
    """Whether lines between the place that was asked for and the first of these may have gone."""


class Segments:
    """The files of one folder, for the thread that writes them."""

    def __init__(self, folder: Path, max_bytes: int, milliseconds: Callable[[], int]) -> None:
        """Go on after what is there. milliseconds: since 1970, from which files get their numbers.

        Raises:
            OSError: the folder cannot be read.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._milliseconds = milliseconds
        self._sizes = {number: _path(folder, number).stat().st_size for number in segment_numbers(folder)}
        self._descriptor: int | None = None
        """Of the last file, once this has begun one."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self._sizes.values())

    def append(self, line: bytes) -> None:
        """Write a line; the oldest files go before the bound is passed.

        Raises:
            OSError: it cannot be written; later lines go into another file.
        """
        line += b"\n"
        if self._descriptor is None or self._sizes[max(self._sizes)] + len(line) > self._max_bytes // SEGMENTS:
            self._begin()
        assert self._descriptor is not None
        self._make_room(len(line))
        number = max(self._sizes)
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            self.close()
            raise
        self._sizes[number] += written
        if written < len(line):
            self.close()
            raise OSError(f"only {written} of {len(line)} bytes could be written")

    def close(self) -> None:
        """Write no more to the last file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self) -> None:
        self.close()
        number = max(self._milliseconds(), max(self._sizes, default=0) + 1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(_path(self._folder, number), flags, 0o600)
        self._sizes[number] = 0

    def _make_room(self, wanted: int) -> None:
        for number in sorted(self._sizes)[:-1]:
            if self.bytes + wanted <= self._max_bytes:
                return
            _path(self._folder, number).unlink(missing_ok=True)
            del self._sizes[number]


def segment_numbers(folder: Path) -> list[int]:
    """Of the files that are there, from the oldest to the newest.

    Raises:
        OSError: the folder cannot be read.
    """
    names = (path.name.removesuffix(_SUFFIX) for path in folder.iterdir() if path.name.endswith(_SUFFIX))
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def read_page(folder: Path, after: Cursor | None, *, max_lines: int, max_bytes: int) -> Page:
    """The lines from `after` on, None: from the oldest; at least one where there is one of no more than max_bytes.

    Raises:
        OSError: a file cannot be read.
    """
    numbers = _numbers_if_any(folder)
    start = after or Cursor(0, 0)
    gap = after is not None and bool(numbers) and after.segment not in numbers
    end = start
    for number in [each for each in numbers if each >= start.segment]:
        end = Cursor(number, start.offset if number == start.segment else 0)
        data = _read(folder, end, max_bytes)
        if data is None:
            gap = True  # it went between the listing and the reading
            continue
        lines = _whole_lines(data, max_lines)
        if lines:
            end = Cursor(number, end.offset + len(lines))
            whole = number == numbers[-1] and len(lines) == len(data) < max_bytes
            return Page(lines, end, more=not whole, gap=gap)
    return Page(b"", end, more=False, gap=gap)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}{_SUFFIX}"


def _numbers_if_any(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return segment_numbers(folder)
    return []


def _read(folder: Path, start: Cursor, max_bytes: int) -> bytes | None:
    """What is there from a place on; None: the file is gone."""
    try:
        with _path(folder, start.segment).open("rb") as file:
            file.seek(start.offset)
            return file.read(max_bytes)
    except FileNotFoundError:
        return None


def _whole_lines(data: bytes, most: int) -> bytes:
    """The first lines that have an end."""
    end = 0
    for _ in range(most):
        found = data.find(b"\n", end)
        if found < 0:
            break
        end = found + 1
    return data[:end]
