"""Progress on standard error: a bar on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Tells a person how far a long job is."""

    def say(self, step: str) -> None:
        """Name the step that begins."""
        ...

    def advance(self, done: int, total: int) -> None:
        """`done` of about `total` parts are done."""
        ...


@contextmanager
def show_progress(title: str) -> Generator[Progress]:
    """Progress of the job `title` until the block ends."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    console.print(title)
    with RichProgress(*columns, console=console) as bar:
        yield _Bar(bar)


class _Lines:
    def __init__(self, title: str) -> None:
        self._tenths = 0
        _print_line(title)

    def say(self, step: str) -> None:
        _print_line(f"  {step}")

    def advance(self, done: int, total: int) -> None:
        tenths = min(10, done * 10 // max(1, total))
        if tenths > self._tenths:
            self._tenths = tenths
            _print_line(f"  {tenths * 10}%")


class _Bar:
    def __init__(self, bar: RichProgress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def say(self, step: str) -> None:
        self._bar.update(self._task, description=step)

    def advance(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=min(done, total), total=total)


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
