"""A file that grows by rows of request logs, and the place in each log up to which it holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from flotilla_cli.errors import InputError
from flotilla_learning.files import replace_files


@dataclass(frozen=True, slots=True)
class _State:
    """What `FILE.cursor` says."""

    source: str
    bytes: int
    """Of the file: what comes after them is not of this export."""
    cursors: dict[str, str]
    """By pod."""


class Export:
    """An output file and `FILE.cursor` beside it: what is cut off by a crash is read again, and nothing comes twice."""

    def __init__(self, path: Path, source: str) -> None:
        """Go on where the file ends. source: whose log it is.

        Raises:
            InputError: the file is something else, or cannot be written.
        """
        self._path = path
        self._state_path = path.with_name(f"{path.name}.cursor")
        self._source = source
        state = self._resume()
        self._cursors = state.cursors
        try:
            self._file: IO[bytes] = path.open("ab")
            self._file.truncate(state.bytes)
            self._save()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error

    def cursor(self, pod: str) -> str | None:
        """Up to where a pod's log is in the file; None: nothing of it is."""
        return self._cursors.get(pod)

    def add(self, pod: str, rows: Sequence[dict[str, Any]], cursor: str) -> None:
        """Rows of a pod's log, up to `cursor`, are in the file for good.

        Raises:
            InputError: they cannot be written.
        """
        try:
            self._file.write(
                b"".join(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for row in rows)
            )
            self._file.flush()
            os.fsync(self._file.fileno())
            self._cursors[pod] = cursor
            self._save()
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """The file is closed."""
        self._file.close()

    def _save(self) -> None:
        state = _State(self._source, self._path.stat().st_size, self._cursors)
        replace_files({self._state_path: (json.dumps(asdict(state), indent=2) + "\n").encode()})

    def _resume(self) -> _State:
        """What is there already."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if not self._state_path.exists():
            if size:
                raise InputError(f"{self._path} is there already, and no export: name another file")
            return _State(self._source, 0, {})
        anew = f"remove it and {self._path} to begin anew"
        try:
            state = _parse_state(self._state_path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{self._state_path} cannot be read: {anew}") from error
        if state.source != self._source:
            raise InputError(f"{self._path} holds the log of {state.source}: name another file")
        if state.bytes > size:
            raise InputError(f"{self._path} has become shorter than {self._state_path} says: {anew}")
        return state


def _parse_state(data: bytes) -> _State:
    """Raises: ValueError."""
    fields = json.loads(data)
    match fields:
        case {"source": str(source), "bytes": int(size), "cursors": dict()}:
            cursors = cast("dict[object, object]", fields["cursors"])
            return _State(source, size, {str(pod): str(cursor) for pod, cursor in cursors.items()})
        case _:
            raise ValueError("no state of an export")
