"""Whether the container has the memory that opening an artifact takes: one that is too large must not end it."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
TIMES_ITS_SIZE = 6
"""Peak of memory while an artifact is opened, to its files. Measured: 4.6 at 60 MiB and 5.7 at 12, of 16-bit floats."""
SPARE_BYTES = 32 * 1024**2
"""Left for the requests that come meanwhile."""
_MIB = 1024**2


def lacking_room(size: int, cgroup: Path = CGROUP) -> str | None:
    """What is missing for opening an artifact of `size` bytes, in a sentence; None: nothing, or no limit is known."""
    free = free_bytes(cgroup)
    needed = size * TIMES_ITS_SIZE + SPARE_BYTES
    if free is None or needed <= free:
        return None
    return (
        f"Opening the artifact of {size / _MIB:.0f} MiB takes {needed / _MIB:.0f} MiB of memory, and the container has "
        f"{free / _MIB:.0f} MiB left: raise its memory limit, or pack a smaller artifact."
    )


def free_bytes(cgroup: Path = CGROUP) -> int | None:
    """Bytes up to the container's memory limit, file cache that can be dropped not counted; None: no limit is known.

    Source: the kernel's documentation of cgroup v2; what is counted is what the kubelet calls the working set.
    """
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(int(limit) - max(used - int(stat["inactive_file"]), 0), 0)
    except (OSError, ValueError, KeyError):
        return None
