"""Where a decoded part lies in its body, and bodies with some spans replaced."""

from __future__ import annotations

import ctypes

import msgspec

Span = tuple[int, int]
"""Start and end of a value in a body."""
_SEARCHED_BYTES, _SOUGHT_BYTES = 65_536, 64
"""Up to here two searches are cheaper than a call through ctypes."""


class _Buffer(ctypes.Structure):
    """Py_buffer of the stable ABI."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )
    buf: int
    len: int


_address_of_bytes = ctypes.pythonapi.PyBytes_AsString
_address_of_bytes.argtypes = [ctypes.py_object]
_address_of_bytes.restype = ctypes.c_void_p
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_Buffer)]
_release_buffer.restype = None


def span_in(body: bytes, part: msgspec.Raw) -> Span:
    """Span of a part that was decoded from `body`: where its bytes are there once, there; else the addresses tell."""
    if len(body) <= _SEARCHED_BYTES and len(memoryview(part)) <= _SOUGHT_BYTES:
        text = bytes(part)
        start = body.find(text)
        if body.find(text, start + 1) < 0:
            return start, start + len(text)
    return _span_by_address(body, part)


def _span_by_address(body: bytes, part: msgspec.Raw) -> Span:
    """The same for any part: a Raw is a view of its body."""
    buffer = _Buffer()
    pointer = ctypes.byref(buffer)
    _get_buffer(part, pointer, 0)
    start = buffer.buf - _address_of_bytes(body)
    end = start + buffer.len
    _release_buffer(pointer)
    return start, end


def replace_spans(body: bytes, replacements: list[tuple[int, int, bytes]]) -> list[bytes]:
    """Parts that concatenate to `body` with each (start, end, text) replaced; spans must not overlap."""
    replacements.sort()
    parts: list[bytes] = []
    position = 0
    for start, end, text in replacements:
        parts += (body[position:start], text)
        position = end
    parts.append(body[position:])
    return parts
