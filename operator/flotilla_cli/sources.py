"""What `-f` names: files, folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from flotilla_operator.resources.settings import OperatorSettings

from .chart import make_settings
from .documents import Document, parse
from .errors import InputError
from .injection import Source

STANDARD_INPUT = "-"
_SUFFIXES = {".yaml", ".yml", ".json"}


def read_sources(filenames: Iterable[str]) -> list[Source]:
    """All that the names stand for, in their order; of a folder its YAML and JSON files, by name, not those below it.

    Raises:
        InputError: one cannot be read, or is not UTF-8; the message names it.
    """
    return [source for filename in filenames for source in _read(filename)]


def read_settings(values: Path | None, *, image: str | None, control_url: str) -> OperatorSettings:
    """What a file of the chart's values and the options say; without a file, the chart's own values hold.

    Raises:
        InputError: the file cannot be read or parsed, or holds a value that the chart does not take.
    """
    if values is None:
        return make_settings(None, image=image, control_url=control_url)
    text = _read_text(values)
    try:
        return make_settings(parse(Document(text, 1)), image=image, control_url=control_url)
    except InputError as error:
        raise InputError(f"{values}: {error}") from error


def _read(filename: str) -> Iterator[Source]:
    if filename == STANDARD_INPUT:
        yield Source("standard input", _decode("standard input", sys.stdin.buffer.read()))
        return
    path = Path(filename)
    if not path.is_dir():
        yield Source(filename, _read_text(path))
        return
    files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
    if not files:
        raise InputError(f"{filename}: the folder has no .yaml, .yml or .json file")
    for file in files:
        yield Source(str(file), _read_text(file))


def _read_text(path: Path) -> str:
    try:
        return _decode(str(path), path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
