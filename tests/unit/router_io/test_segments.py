"""A request log's files: bounded, in order, and readable whatever a crash has left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.segments import Cursor, Segments, read_page

MANY = 1_000_000


def opened(folder: Path, *, max_bytes: int = MANY, at: int = 1000) -> Segments:
    return Segments(folder, max_bytes, lambda: at)


def everything(
    folder: Path, after: Cursor | None = None, *, max_lines: int = MANY, max_bytes: int = MANY
) -> list[bytes]:
    """All lines that pages show, one page after the other."""
    lines: list[bytes] = []
    while True:
        page = read_page(folder, after, max_lines=max_lines, max_bytes=max_bytes)
        lines += page.lines.splitlines()
        after = page.end
        if not page.more:
            return lines


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    """From the oldest on where no place is named, and only later ones where one is."""
    log = opened(tmp_path)
    log.append(b"1")
    log.append(b"2")
    page = read_page(tmp_path, None, max_lines=MANY, max_bytes=MANY)
    log.append(b"3")

    assert page.lines == b"1\n2\n"
    assert (page.more, page.gap) == (False, False)
    assert everything(tmp_path, page.end) == [b"3"]


def test_folder_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    """A reader may come before the first row, and keeps its place."""
    page = read_page(tmp_path / "none", Cursor(5, 7), max_lines=1, max_bytes=1)

    assert (page.lines, page.end, page.more, page.gap) == (b"", Cursor(5, 7), False, False)


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=60), max_size=60),
    restarts=st.sets(st.integers(min_value=0, max_value=59)),
)
def test_files_never_hold_more_than_their_bound(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], restarts: set[int]
) -> None:
    """Whatever is written, over restarts too; and what is left is the newest, without a hole."""
    folder, bound = tmp_path_factory.mktemp("log"), 640
    log = opened(folder, max_bytes=bound)
    written: list[bytes] = []
    for number, size in enumerate(sizes):
        if number in restarts:
            log.close()
            log = opened(folder, max_bytes=bound, at=1)
        written.append(b"%d" % number + b"x" * size)
        log.append(written[-1])

        held = sum(path.stat().st_size for path in folder.iterdir())
        assert held == log.bytes <= bound
    log.close()

    left = everything(folder)
    assert left == written[len(written) - len(left) :]
    assert bool(left) == bool(written)


def test_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Also where the clock has gone back."""
    first = opened(tmp_path, at=1000)
    first.append(b"1")
    first.close()
    second = opened(tmp_path, at=10)
    second.append(b"2")
    second.close()

    assert everything(tmp_path) == [b"1", b"2"]


def test_line_that_a_crash_has_cut_is_no_line(tmp_path: Path) -> None:
    """Lines after the restart are read all the same."""
    log = opened(tmp_path)
    log.append(b"1")
    log.close()
    (file,) = tmp_path.iterdir()
    with file.open("ab") as torn:
        torn.write(b'{"half')
    after = opened(tmp_path)
    after.append(b"2")
    after.close()

    assert everything(tmp_path) == [b"1", b"2"]


def test_line_that_is_being_written_is_read_later(tmp_path: Path) -> None:
    """A place never lies within a line."""
    log = opened(tmp_path)
    log.append(b"1")
    (file,) = tmp_path.iterdir()
    with file.open("ab") as slow:
        slow.write(b"ha")
        slow.flush()
        page = read_page(tmp_path, None, max_lines=MANY, max_bytes=MANY)
        slow.write(b"lf\n")
    log.close()

    assert page.lines == b"1\n"
    assert everything(tmp_path, page.end) == [b"half"]


@pytest.mark.parametrize("max_lines", [1, 2, 7])
@pytest.mark.parametrize("max_bytes", [4, 9, MANY])
def test_pages_part_no_line_and_lose_none(tmp_path: Path, max_lines: int, max_bytes: int) -> None:
    """However small they are, over several files."""
    log = opened(tmp_path, max_bytes=200)
    lines = [b"%03d" % number for number in range(20)]
    for line in lines:
        log.append(line)
    log.close()

    assert everything(tmp_path, max_lines=max_lines, max_bytes=max_bytes) == lines


def test_page_says_where_lines_may_have_gone(tmp_path: Path) -> None:
    """A reader that comes too late is told."""
    log = opened(tmp_path, max_bytes=80)
    log.append(b"1")
    early = read_page(tmp_path, None, max_lines=1, max_bytes=MANY)
    for number in range(40):
        log.append(b"%08d" % number)
    log.close()

    late = read_page(tmp_path, early.end, max_lines=MANY, max_bytes=MANY)

    assert late.gap
    assert everything(tmp_path, early.end)[-1] == b"00000039"


def test_full_disk_is_an_error_and_later_lines_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of a line that still fitted is not taken for one."""
    log = opened(tmp_path)
    log.append(b"1")
    write = os.write

    def little_space(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[:2])

    with monkeypatch.context() as full:
        full.setattr(os, "write", little_space)
        with pytest.raises(OSError, match="only 2 of 5 bytes"):
            log.append(b"lost")

    def no_space(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space)
        with pytest.raises(OSError, match="No space"):
            log.append(b"lost")
    log.append(b"2")
    log.close()

    assert everything(tmp_path) == [b"1", b"2"]


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    """They may hold what people wrote."""
    log = opened(tmp_path)
    log.append(b"1")
    log.close()

    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "7", ":", "7:", ":7", "-1:0", "1:2:3", "a:b", "1:٣", "1:" + "9" * 19])
def test_cursor_is_two_numbers(text: str) -> None:
    """What else a reader sends names no place."""
    assert Cursor.parse(text) is None


def test_cursor_is_read_as_it_was_written() -> None:
    """Readers keep it as a text."""
    assert Cursor.parse(str(Cursor(1700000000000, 12))) == Cursor(1700000000000, 12)
