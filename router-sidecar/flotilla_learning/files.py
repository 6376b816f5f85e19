"""Files that are replaced whole: a full disk or a cut-off run leaves what was there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def replace_files(files: Mapping[Path, bytes]) -> None:
    """Each file holds its bytes; none is touched before all are on the disk as NAME.new, and then in this order.

    Raises:
        OSError: they cannot be written.
    """
    fresh: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            real = path.resolve()
            new = real.with_name(f"{real.name}.new")
            fresh[new] = real
            new.write_bytes(data)
            if real.exists():
                shutil.copymode(real, new)
        for new, real in fresh.items():
            new.replace(real)
    finally:
        for new in filter(Path.is_file, fresh):  # what was not finished may become a key of a ConfigMap
            new.unlink()
