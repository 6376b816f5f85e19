"""Which requests take part in a trial: sessions by their hash for a canary, single requests by a draw for a shadow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

_SPACE = float(1 << 64)


def named_session(headers: Mapping[bytes, bytes], names: Sequence[bytes]) -> bytes | None:
    """What requests of one session have in common, by the first header of `names`, in lower case, that is there.

    None: no header names it.
    """
    for name in names:
        if value := headers.get(name):
            return b"%b:%b" % (name, value)
    return None


def session_of(client: str | None, opening: Sequence[str]) -> bytes:
    """The same for a conversation that no header names. client: the API key's name. opening: how it begins."""
    return "\n".join((client or "", *opening)).encode("utf-8", "surrogatepass")


def takes_part(artifact: str, session: bytes, percent: float) -> bool:
    """Whether a session is among the `percent` that try an artifact, by its digest.

    The same at every router and at all times; with a higher percent those that took part still do. For another artifact
    other sessions are the first.
    """
    digest = hashlib.blake2b(session, digest_size=8, key=artifact.encode()[-64:]).digest()
    return int.from_bytes(digest, "big") / _SPACE * 100.0 < percent
