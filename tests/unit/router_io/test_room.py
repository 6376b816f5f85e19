"""The memory that is left for opening an artifact, as the container's cgroup tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from flotilla_router.room import SPARE_BYTES, TIMES_ITS_SIZE, free_bytes, lacking_room

MIB = 1024**2


def a_cgroup(folder: Path, limit: str = str(512 * MIB), used: int = 112 * MIB, cached: int = 12 * MIB) -> Path:
    """A container's, of which `cached` bytes of file cache can be dropped."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\nactive_file 2\n")
    return folder


def test_file_cache_that_can_be_dropped_is_free(tmp_path: Path) -> None:
    """The kernel takes it back before it ends a container."""
    assert free_bytes(a_cgroup(tmp_path)) == 412 * MIB


@pytest.mark.parametrize("limit", ["max", "some", ""], ids=["no limit", "words", "nothing"])
def test_without_a_limit_nothing_is_refused(tmp_path: Path, limit: str) -> None:
    """Nor where the kernel says something else than expected."""
    assert free_bytes(a_cgroup(tmp_path, limit=limit)) is None
    assert lacking_room(1 << 40, tmp_path) is None


def test_a_machine_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    """Such as a laptop."""
    assert free_bytes(tmp_path / "nowhere") is None


def test_an_artifact_is_refused_only_where_opening_it_would_end_the_container(tmp_path: Path) -> None:
    """Up to the byte; what is used already counts."""
    most = (412 * MIB - SPARE_BYTES) // TIMES_ITS_SIZE
    cgroup = a_cgroup(tmp_path)

    assert lacking_room(most, cgroup) is None
    assert lacking_room(most + 1, cgroup) is not None
    assert lacking_room(64 * MIB, cgroup) == (
        "Opening the artifact of 64 MiB takes 416 MiB of memory, and the container has 412 MiB left: raise its memory "
        "limit, or pack a smaller artifact."
    )


def test_a_container_over_its_limit_has_no_room(tmp_path: Path) -> None:
    """It may be for a moment."""
    assert free_bytes(a_cgroup(tmp_path, used=600 * MIB, cached=0)) == 0
