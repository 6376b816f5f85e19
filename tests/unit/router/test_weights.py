"""weights.npz is read within bounds, whatever it says of itself."""

from __future__ import annotations

import io
import zipfile

import pytest

from flotilla_api.artifact import ArtifactFault
from flotilla_router.errors import ArtifactError
from flotilla_router.weights import read_arrays


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_cannot_be_unpacked_within_bounds_is_refused(method: int) -> None:
    """A few bytes of bzip2 become as many as they like before anybody can count them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("weights.npy", bytes(100))

    with pytest.raises(ArtifactError, match="other means than deflate") as refused:
        read_arrays(packed.getvalue())

    assert refused.value.reason is ArtifactFault.UNREADABLE
