"""Recommendations on a real API server: by a token that is bound to no pod, of an account that RBAC allows it."""

from __future__ import annotations

import asyncio
import ssl

import httpx
from operator_world import GROUP, Manifest, World

READER = "autoscaler"
RULE: Manifest = {
    "apiGroups": ["flotilla.dev"],
    "resources": ["experts/recommendation"],
    "resourceNames": ["sql"],
    "verbs": ["get"],
}


def add_expert(world: World, name: str) -> None:
    """One that is only recommended for."""
    spec = {
        "model": {"uri": "pvc://models/sql"},
        "accelerator": {"profile": f"{world.namespace}-l4"},
        "scaling": {"min": 1, "max": 3, "mode": "Recommend"},
    }
    expert = {"apiVersion": "flotilla.dev/v1alpha1", "kind": "Expert", "metadata": {"name": name}, "spec": spec}
    world.create(f"{GROUP}/namespaces/{world.namespace}/experts", expert)


def add_profile(world: World) -> None:
    """Accelerators that nobody has."""
    profile: Manifest = {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": f"{world.namespace}-l4"},
        "spec": {"resource": "nvidia.com/gpu", "memoryGiB": 24},
    }
    world.create(f"{GROUP}/acceleratorprofiles", profile)


def allow(world: World) -> None:
    """The account may read what is recommended for the Expert sql."""
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}"
    group = "rbac.authorization.k8s.io"
    world.create(f"{rbac}/roles", {"metadata": {"name": READER}, "rules": [RULE]})
    binding: Manifest = {
        "metadata": {"name": READER},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": READER},
        "subjects": [{"kind": "ServiceAccount", "name": READER, "namespace": world.namespace}],
    }
    world.create(f"{rbac}/rolebindings", binding)


async def test_an_account_reads_the_recommendation_that_rbac_allows_it(world: World) -> None:
    """Of one Expert and no other; without prices or objectives the number stays what it is."""
    accounts = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    add_profile(world)
    world.add_policy()
    for name in ("sql", "mail"):
        add_expert(world, name)
    world.create(accounts, {"metadata": {"name": READER}})
    made = world.create(f"{accounts}/{READER}/token", {"spec": {"audiences": ["flotilla-control"]}})
    replica = await asyncio.to_thread(world.start)
    await asyncio.to_thread(world.until, lambda: bool(world.child("deployments", "sql-expert")), "the Deployment")
    await asyncio.to_thread(world.until, lambda: bool(world.child("configmaps", "router-snapshot")), "the snapshot")
    maps = world.get(f"/api/v1/namespaces/{world.namespace}/configmaps")["items"]
    authority = next(each["data"]["control-ca.crt"] for each in maps if "control-ca.crt" in each.get("data", {}))
    headers = {"Authorization": f"Bearer {made['status']['token']}"}
    verified = ssl.create_default_context(cadata=authority)

    async with httpx.AsyncClient(verify=verified, headers=headers, timeout=60, trust_env=False) as http:

        async def ask(name: str) -> httpx.Response:
            return await http.get(f"{replica.control}/v1/recommendations/{world.namespace}/{name}")

        assert (await ask("sql")).status_code == 403
        allow(world)
        async with asyncio.timeout(60):
            while (found := await ask("sql")).status_code != 200:
                assert found.status_code in (403, 503), found.text
                await asyncio.sleep(0.2)
        other = await ask("mail")

    told = found.json()
    assert (told["replicas"], told["current"]) == (1, 1)
    assert other.status_code == 403
