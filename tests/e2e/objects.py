"""Objects as a user writes them, small and quick to start; each builder's keywords become fields of the spec."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from flotilla_api.meta import API_VERSION
from stack import provider

Manifest = dict[str, Any]

PROFILE = "e2e-l4"
CLIENT_KEY = "sk-client-of-the-tests"
KEYS = "client-keys"
PROVIDER_KEYS = "provider-key"
PROVIDER_CA = "provider-ca"
SMALL_COST = {"inputPerMillionUSD": "10", "outputPerMillionUSD": "20"}
BIG_COST = {"inputPerMillionUSD": "2000", "outputPerMillionUSD": "8000"}


def a_profile(name: str) -> Manifest:
    """The GPU pool of the cluster; a request of one GPU and one slot costs about a hundredth of a cent a minute."""
    spec = {
        "resource": "nvidia.com/gpu",
        "memoryGiB": 22,
        "hourlyUSD": "0.80",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {"apiVersion": API_VERSION, "kind": "AcceleratorProfile", "metadata": {"name": name}, "spec": spec}


def an_expert(name: str, *, env: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    """An Expert with one replica; `env` is the simulated engine's."""
    return _owned("Expert", name, served(env=env, **spec))


def a_served_fallback(name: str, *, env: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    """A Fallback that is served in the cluster."""
    return _owned("Fallback", name, {"served": served(env=env, **spec), "cost": BIG_COST})


def served(*, env: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    """What Experts and served Fallbacks share. `engine` is merged, other fields replaced."""
    variables = [{"name": key, "value": value} for key, value in (env or {}).items()]
    engine = {"startupTimeout": "30s", "maxNumSeqs": 16, **({"env": variables} if variables else {})}
    return {
        "model": {"uri": "hf://acme/small-1b"},
        "accelerator": {"profile": PROFILE},
        "drain": {"timeout": "20s"},
        **spec,
        "engine": engine | spec.get("engine", {}),
    }


def an_external_fallback(name: str, **external: Any) -> Manifest:
    """A Fallback behind the simulated provider."""
    spec = {
        "url": provider.URL,
        "model": provider.MODEL,
        "credentialsSecretRef": {"name": PROVIDER_KEYS, "key": "apiKey"},
        "tls": {"caSecretRef": {"name": PROVIDER_CA, "key": "ca.crt"}},
        **external,
    }
    return _owned("Fallback", name, {"external": spec, "cost": BIG_COST})


def a_policy(
    name: str, *, experts: list[str] | None = None, fallbacks: list[str] | None = None, **spec: Any
) -> Manifest:
    """A RoutingPolicy with one gateway pod that the client of the tests may call."""
    fields: Manifest = {
        "experts": [{"name": each} for each in experts or []],
        "timeouts": {"total": "30s"},
        "auth": {"apiKeysSecretRef": {"name": KEYS}},
        "placement": {"gateway": {"replicas": 1}},
        **({"fallbacks": [{"name": each} for each in fallbacks]} if fallbacks else {}),
    }
    return _owned("RoutingPolicy", name, fields | spec)


def a_secret(name: str, *, type: str = "Opaque", **entries: str) -> Manifest:  # noqa: A002 - Kubernetes' name
    """A Secret; `ca_crt` stands for the key ca.crt, and so on."""
    data = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in entries.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": type, "data": data}


def client_keys() -> Manifest:
    """The API key of the one client that the builders' policies let in."""
    return a_secret(KEYS, tests=CLIENT_KEY)


def _owned(kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
