"""Directories that are replaced as a whole, as the kubelet does for ConfigMaps, Secrets and tokens.

Source: pkg/volume/util/atomic_writer.go. Each path is a symbolic link into `..data`, which is a symbolic link to a
directory that never changes; an update makes a new directory and renames a new `..data` over the old one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from localcluster.runner.volumes import File

DATA = "..data"


def write_files(directory: Path, files: Mapping[str, File]) -> None:
    """`directory` holds exactly these files; a reader sees either all of the old ones or all of the new ones."""
    directory.mkdir(parents=True, exist_ok=True)
    old = (directory / DATA).readlink() if (directory / DATA).is_symlink() else None
    version = directory / f"..{time.time_ns()}"
    version.mkdir()
    for path, file in files.items():
        target = version / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.data)
        target.chmod(file.mode)
    link = directory / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(version.name)
    link.replace(directory / DATA)
    _publish(directory, {path.split("/", 1)[0] for path in files})
    if old is not None:
        shutil.rmtree(directory / old)


def _publish(directory: Path, names: set[str]) -> None:
    """The top-level names lead into the current data, and no others are left."""
    present = {entry.name for entry in directory.iterdir() if not entry.name.startswith("..")}
    for name in names - present:
        (directory / name).symlink_to(f"{DATA}/{name}")
    for name in present - names:
        (directory / name).unlink()
