"""weights.npz: arrays in a zip file, read without numpy's loader, which trusts the sizes that it is told."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from flotilla_api.artifact import MAX_ARTIFACT_BYTES, WEIGHTS_FILE, ArtifactFault

from .errors import ArtifactError, quote

MAX_ARRAYS = 64
MAX_MAGNITUDE = 1e9
"""No product or square of what is smaller, and no sum of them, overflows."""
FloatArray = NDArray[np.float32]
_FLOATS = ("float32", "float16")
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others are unpacked whole, whatever size a member has by its own account."""


def read_arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Every array, by its name without `.npy`: finite floats of 16 or 32 bits, or integers.

    Raises:
        ArtifactError: it is no such file, it is too large, or an array is of another type or not finite.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS or sum(member.file_size for member in members) > MAX_ARTIFACT_BYTES:
                raise ArtifactError(ArtifactFault.TOO_LARGE, f"{WEIGHTS_FILE} has more than 64 arrays or 64 MiB.")
            if any(member.compress_type not in _PACKED for member in members):
                raise ArtifactError(ArtifactFault.UNREADABLE, f"{WEIGHTS_FILE} is packed by other means than deflate.")
            return {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"{WEIGHTS_FILE} cannot be read: {error}.") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    name = quote(member.filename)
    with archive.open(member) as packed:
        data = packed.read(MAX_ARTIFACT_BYTES + 1)
    if len(data) != member.file_size:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"{WEIGHTS_FILE}: {name} is not as long as it says.")
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = cast("tuple[tuple[int, ...], bool, np.dtype[np.generic]]", read_header(stream))
    except ValueError as error:
        raise ArtifactError(ArtifactFault.UNREADABLE, f"{WEIGHTS_FILE}: {name}: {quote(str(error))}.") from error
    return _checked(name, data[stream.tell() :], shape, fortran=fortran, dtype=dtype)


def _checked(
    name: str, data: bytes, shape: tuple[int, ...], *, fortran: bool, dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    if dtype.kind not in "iu" and dtype.name not in _FLOATS:
        raise invalid(f"{name} is of {quote(str(dtype))}, not of float32, float16 or integers")
    count = 1
    for length in shape:
        count *= length
    if any(length < 0 for length in shape) or count * dtype.itemsize != len(data):
        raise invalid(f"{name} has {len(data)} bytes, not those of its shape {quote(str(shape))}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def array_of(
    arrays: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int | None, ...], *, finite: bool = True
) -> FloatArray:
    """The array of that name in 32-bit floats; None in `shape` is any length above 0.

    Raises:
        ArtifactError: there is none, its shape is another, or it is not finite.
    """
    try:
        array = arrays[name]
    except KeyError:
        raise invalid(f"{name} is missing") from None
    fits = len(array.shape) == len(shape) and all(
        length == wanted or (wanted is None and length > 0) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if each is None else str(each) for each in shape)
        raise invalid(f"{name} has the shape {array.shape}, not ({wanted})")
    floats = array.astype(np.float32)
    known = np.isfinite(floats)
    if finite and not known.all():
        raise invalid(f"{name} holds what is not a finite number")
    if (np.abs(floats[known]) > MAX_MAGNITUDE).any():
        raise invalid(f"{name} holds a number beyond {MAX_MAGNITUDE:.0e}")
    return floats


def invalid(text: str) -> ArtifactError:
    """What refuses an array."""
    return ArtifactError(ArtifactFault.INVALID_WEIGHTS, f"{WEIGHTS_FILE}: {text}.")
