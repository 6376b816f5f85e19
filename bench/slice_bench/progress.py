"""How far a long measurement has come, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

Progress = Callable[[int], None]
"""Told how much is done."""
Stage = Callable[[str, int], Progress]
"""Begins a part of the measurement, given its name and how much there is to do."""


@contextmanager
def shown_progress() -> Generator[Stage]:
    """A bar for each part that is begun in the block."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    bars = Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())

    def begin(name: str, total: int) -> Progress:
        task: TaskID = bars.add_task(name, total=total)
        return lambda done: bars.update(task, completed=done)

    with bars:
        yield begin
