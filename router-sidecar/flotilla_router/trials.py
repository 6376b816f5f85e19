"""Which requests take part in a trial: sessions by their hash for a canary, single requests by a draw for a shadow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

_OPENING_BYTES = 256
"""Of a prompt, where no header names the session: a conversation's later requests begin alike."""
_SPACE = float(1 << 64)


def session_of(headers: Mapping[bytes, bytes], names: Sequence[bytes], client: str | None, opening: bytes) -> bytes:
    """What requests of one session have in common. names: headers that name one, in lower case; the first one counts.

    client: the API key's name, or None. opening: how the conversation begins.
    """
    for name in names:
        if value := headers.get(name):
            return b"%b:%b" % (name, value)
    return b"%b\n%b" % ((client or "").encode(), opening[:_OPENING_BYTES])


def opening_of(body: bytes) -> bytes:
    """How the messages or the prompt of a request's body begin; the body's own beginning where it has neither."""
    start = max(body.find(b'"messages"'), 0) or max(body.find(b'"prompt"'), 0)
    return body[start : start + _OPENING_BYTES]


def takes_part(artifact: str, session: bytes, percent: float) -> bool:
    """Whether a session is among the `percent` that try an artifact, by its digest.

    The same at every router and at all times; with a higher percent those that took part still do. For another artifact
    other sessions are the first.
    """
    digest = hashlib.blake2b(session, digest_size=8, key=artifact.encode()[-64:]).digest()
    return int.from_bytes(digest, "big") / _SPACE * 100.0 < percent
