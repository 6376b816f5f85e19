"""What a ServiceAccount token says of itself. Its signature is not checked here: only a refusal may rest on this."""

from __future__ import annotations

import base64

import msgspec

from flotilla_api import names

from .wire import DECODE_ERRORS

MAX_TOKEN_BYTES = 8192
"""Kubernetes' tokens have about one thousand."""


class PodClaims(msgspec.Struct, frozen=True):
    """Kubernetes' own claims, as far as they are read."""

    namespace: str = ""


class TokenClaims(msgspec.Struct, frozen=True):
    """A token's claims, as far as they are read. Source: RFC 7519, 4.1; KEP-1205."""

    exp: float
    """When it expires, in Unix seconds."""
    aud: list[str] | str = ""
    kubernetes: PodClaims = msgspec.field(name="kubernetes.io", default=PodClaims())


_decode = msgspec.json.Decoder(TokenClaims).decode


def claims_of(token: bytes) -> TokenClaims | None:
    """What a token says of itself; None: it is no ServiceAccount token."""
    parts = token.split(b".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_BYTES:
        return None
    try:
        return _decode(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (*DECODE_ERRORS, ValueError):
        return None


def fault_of(claims: TokenClaims | None, namespace: str, now: float) -> str | None:
    """Why a token cannot be that of a sidecar in `namespace`, by its own words; None: it may be. now: Unix seconds.

    | it says                                   | then                  |
    |-------------------------------------------|-----------------------|
    | nothing that can be read                  | it is none            |
    | that it has expired                       | it is refused         |
    | another audience than flotilla-gateway    | it is refused         |
    | another namespace than the policy's       | it is refused         |
    | what a sidecar's says                     | the operator is asked |
    """
    if claims is None:
        return "it is no ServiceAccount token"
    if claims.exp <= now:
        return "it has expired"
    if names.GATEWAY_AUDIENCE not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        return f"it is not for the audience {names.GATEWAY_AUDIENCE}"
    if claims.kubernetes.namespace != namespace:
        return "it is of another namespace than the policy"
    return None
