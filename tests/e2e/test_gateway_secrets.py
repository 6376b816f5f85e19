"""A gateway's Secrets: clients' keys and the certificate, as they are now and not as they were at the start."""

from __future__ import annotations

import ssl
from collections.abc import Generator

import httpx
import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway, a_question
from e2e.objects import CLIENT_KEY, KEYS, a_policy, a_secret, an_external_fallback, client_keys
from e2e.steps import Space
from stack.certificates import ServingCertificate, make_serving_certificate
from stack.flotilla import Stack, quickstart_provider_key


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """A policy in front of the provider, by plain HTTP and with TLS."""
    with new_space(stack) as space:
        space.apply(an_external_fallback("big"))
        yield space


def _certificate(space: Space) -> ServingCertificate:
    return make_serving_certificate(f"secure-gateway.{space.name}.svc")


def _store(space: Space, certificate: ServingCertificate) -> None:
    entries = {"tls_crt": certificate.certificate, "tls_key": certificate.key}
    space.apply(a_secret("gateway-tls", type="kubernetes.io/tls", **entries))


def _ask_over_tls(gateway: Gateway, authority: str) -> int:
    """The status of an answer that came over a connection that `authority` vouches for."""
    context = ssl.create_default_context(cadata=authority)
    with gateway.client(verify=context, keep_alive=False) as client:
        host = {"sni_hostname": f"secure-gateway.{gateway.namespace}.svc"}
        return client.post("/chat/completions", json=a_question("privately"), extensions=host).status_code


def test_a_gateway_with_a_certificate_speaks_tls_and_takes_renewals(fleet: Space) -> None:
    """Clients verify the Secret's certificate; a renewed one is served without a restart."""
    first, second = _certificate(fleet), _certificate(fleet)
    _store(fleet, first)
    fleet.apply(a_policy("secure", fallbacks=["big"], tls={"secretRef": {"name": "gateway-tls"}}))
    fleet.wait_ready("RoutingPolicy", "secure")
    gateway = fleet.gateway("secure")
    pods = gateway.pods()
    assert gateway.url.startswith("https://")
    assert fleet.get("RoutingPolicy", "secure")["status"]["endpoint"].startswith("https://")
    assert _ask_over_tls(gateway, first.authority) == 200
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        _ask_over_tls(gateway, second.authority)

    _store(fleet, second)

    def is_renewed() -> bool:
        try:
            return _ask_over_tls(gateway, second.authority) == 200
        except httpx.ConnectError:
            return False

    fleet.wait_for(is_renewed, "the new certificate")
    assert gateway.pods() == pods


def test_a_missing_certificate_is_named(space: Space) -> None:
    """A gateway cannot start without its certificate, and the policy says which Secret is missing."""
    space.apply(
        an_external_fallback("big"), a_policy("secure", fallbacks=["big"], tls={"secretRef": {"name": "gateway-tls"}})
    )

    found = space.wait_condition("RoutingPolicy", "secure", "RouterReady", "False", "SecretNotFound")
    assert "gateway-tls" in found["message"]

    _store(space, _certificate(space))
    space.wait_ready("RoutingPolicy", "secure")


def test_api_keys_are_rotated_live(fleet: Space) -> None:
    """A key that is added to the Secret is accepted soon, one that is taken away is refused soon; nothing restarts."""
    auth = {"apiKeysSecretRef": {"name": "rotated"}}
    fleet.apply(a_secret("rotated", tests=CLIENT_KEY), a_policy("rotating", fallbacks=["big"], auth=auth))
    fleet.wait_ready("RoutingPolicy", "rotating")
    gateway = fleet.gateway("rotating")
    pods = gateway.pods()
    assert gateway.ask("old key").status_code == 200
    assert gateway.with_key("sk-second").ask("not yet").status_code == 401

    fleet.apply(a_secret("rotated", tests=CLIENT_KEY, second="sk-second"))
    fleet.wait_for(lambda: gateway.with_key("sk-second").ask("now?").status_code == 200, "the second key")
    assert gateway.ask("old key still").status_code == 200

    fleet.apply(a_secret("rotated", second="sk-second"))
    fleet.wait_for(lambda: gateway.ask("old key").status_code == 401, "the end of the first key")
    answer = gateway.with_key("sk-second").ask("who am I?")
    assert answer.status_code == 200
    assert gateway.line_of(answer.headers["x-flotilla-request-id"])["client"] == "second"
    assert gateway.pods() == pods


def test_without_its_keys_a_gateway_lets_nobody_in(space: Space) -> None:
    """A missing Secret is never taken for `anonymous`: everybody is refused until there are keys."""
    space.delete("Secret", KEYS)
    space.apply(an_external_fallback("big"), a_policy("assist", fallbacks=["big"]))
    space.wait_condition("RoutingPolicy", "assist", "RouterReady", "True")
    space.wait_condition("RoutingPolicy", "assist", "Ready", "False", "CredentialsMissing")
    gateway = space.gateway("assist")
    assert gateway.ask("with a key").status_code == 401
    assert gateway.with_key("").ask("without").status_code == 401

    space.apply(client_keys())

    space.wait_for(lambda: gateway.ask("and now?").status_code == 200, "the keys")
    space.wait_ready("RoutingPolicy", "assist")


def test_another_secret_of_a_provider_comes_with_new_pods(space: Space) -> None:
    """A key that is not mounted yet is missing, never the one before: pods that have it take over."""
    space.apply(an_external_fallback("big"), a_policy("assist", fallbacks=["big"]))
    space.wait_ready("RoutingPolicy", "assist")
    gateway = space.gateway("assist")
    before = set(gateway.pods())
    assert gateway.ask("with the first Secret").status_code == 200

    moved = {"name": "next-provider-key", "key": "apiKey"}
    space.apply(a_secret(moved["name"], apiKey="sk-of-nobody"), an_external_fallback("big", credentialsSecretRef=moved))
    space.wait_for(lambda: gateway.pods() and before.isdisjoint(gateway.pods()), "new pods")
    assert gateway.ask("with a key that the provider does not know").status_code == 502

    space.apply(a_secret(moved["name"], apiKey=quickstart_provider_key()))
    space.wait_for(lambda: gateway.ask("and now?").status_code == 200, "the key that was changed in place")


def test_an_anonymous_gateway_asks_for_no_key(space: Space) -> None:
    """`anonymous: true` lets anyone call, and says so in the log by naming no client."""
    space.apply(an_external_fallback("big"), a_policy("open", fallbacks=["big"], auth={"anonymous": True}))
    space.wait_ready("RoutingPolicy", "open")
    gateway = space.gateway("open", key="")

    answer = gateway.ask("hello")

    assert answer.status_code == 200
    assert gateway.line_of(answer.headers["x-flotilla-request-id"])["client"] is None


def test_no_secret_is_in_a_snapshot(fleet: Space) -> None:
    """The snapshot that anyone who reads ConfigMaps may see holds neither keys nor their Secrets' contents."""
    fleet.apply(a_policy("assist", fallbacks=["big"]))
    fleet.wait_condition("RoutingPolicy", "assist", "Accepted", "True")
    fleet.wait_for(lambda: fleet.find("ConfigMap", "assist-snapshot"), "the snapshot")

    text = str(fleet.get("ConfigMap", "assist-snapshot")["data"])

    assert CLIENT_KEY not in text
    assert "sk-provider" not in text
    assert "PRIVATE KEY" not in text
