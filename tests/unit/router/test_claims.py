"""What a token says of itself, and when that is enough to refuse it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.claims import MAX_TOKEN_BYTES, claims_of, fault_of

GOOD: dict[str, Any] = {
    "aud": ["flotilla-gateway"],
    "exp": 1000,
    "iss": "https://kubernetes.default.svc",
    "kubernetes.io": {"namespace": "agents", "pod": {"name": "agent-1", "uid": "u"}},
    "sub": "system:serviceaccount:agents:default",
}


def a_token(claims: object) -> bytes:
    """A token without a signature that anybody would check here."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"RS256"}', payload, b"sig"))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


UNBOUND: dict[str, str] = {}
NONE = "no ServiceAccount token"


@pytest.mark.parametrize(
    ("token", "says"),
    [
        pytest.param(a_token(GOOD), None, id="a sidecar's token"),
        pytest.param(a_token(GOOD | {"aud": "flotilla-gateway"}), None, id="one audience, not in a list"),
        pytest.param(a_token(GOOD | {"aud": ["a", "flotilla-gateway"]}), None, id="one audience among others"),
        pytest.param(a_token(GOOD | {"exp": 900.5}), None, id="a part of a second is left"),
        pytest.param(a_token(GOOD | {"exp": 900}), "expired", id="it has expired"),
        pytest.param(a_token(GOOD | {"aud": ["flotilla-control"]}), "audience", id="another audience"),
        pytest.param(a_token(GOOD | {"aud": "flotilla-gateways"}), "audience", id="a longer audience"),
        pytest.param(a_token(without("aud")), "audience", id="no audience"),
        pytest.param(a_token(GOOD | {"kubernetes.io": {"namespace": "b"}}), "namespace", id="another namespace"),
        pytest.param(a_token(GOOD | {"kubernetes.io": UNBOUND}), "namespace", id="no namespace"),
        pytest.param(a_token(without("kubernetes.io")), "namespace", id="no claims of Kubernetes"),
        pytest.param(a_token(without("exp")), NONE, id="no end"),
        pytest.param(a_token(GOOD | {"exp": "soon"}), NONE, id="an end that is no number"),
        pytest.param(a_token(GOOD | {"aud": [1]}), NONE, id="an audience that is no text"),
        pytest.param(a_token(["exp"]), NONE, id="no claims"),
        pytest.param(a_token(b"\xff{"), NONE, id="no JSON"),
        pytest.param(a_token(b'{"x":' + b"[" * 4000), NONE, id="nested deeper than anybody reads"),
        pytest.param(a_token(GOOD | {"x": "y" * MAX_TOKEN_BYTES}), NONE, id="longer than any token"),
        pytest.param(b"", NONE, id="none"),
        pytest.param(b"sk-12345", NONE, id="an API key"),
        pytest.param(b"a.b", NONE, id="two parts"),
        pytest.param(b"a.%%%.c", NONE, id="no base64"),
        pytest.param("a.\u00e9.c".encode(), NONE, id="no ASCII"),
    ],
)
def test_what_cannot_be_a_sidecars_token_is_refused_by_its_own_words(token: bytes, says: str | None) -> None:
    """The table of `fault_of`, 900 seconds after the epoch, for a policy in the namespace agents."""
    fault = fault_of(claims_of(token), "agents", 900)

    assert fault is says is None or (says is not None and fault is not None and says in fault)


def test_a_token_says_when_it_expires() -> None:
    """In Unix seconds, as it says it."""
    claims = claims_of(a_token(GOOD))

    assert claims is not None
    assert claims.exp == 1000


@given(st.binary(max_size=200))
def test_whatever_is_shown_has_claims_or_none(payload: bytes) -> None:
    """Nothing that a stranger sends is an error of ours."""
    fault_of(claims_of(a_token(payload)), "agents", 0)
    fault_of(claims_of(payload), "agents", 0)
