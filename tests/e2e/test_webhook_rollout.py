"""The webhook as the chart installs it, behind its Service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from e2e.objects import a_policy
from e2e.sidecars import an_agent, has_sidecar
from e2e.steps import Space, system_of
from stack.flotilla import SYSTEM_NAMESPACE, Stack

ROLLOUT_SECONDS = 120


def test_no_pod_slips_through_while_the_operator_is_rolled_out(stack: Stack, space: Space) -> None:
    """A replica that ends answers until nobody asks it any more, and one that begins answers before it is asked."""
    space.apply(a_policy("assist", experts=["small"]))
    space.wait_for(lambda: _is_injected(stack, space), "pods to be injected")
    before = {pod["metadata"]["uid"] for pod in system_of(stack).list("Pod")}

    with ThreadPoolExecutor(1) as executor:
        rolled_out = executor.submit(_roll_out, stack, before)
        injected = [_is_injected(stack, space)]
        while not rolled_out.done():
            injected.append(_is_injected(stack, space))
        rolled_out.result()

    assert injected.count(False) == 0, f"{injected.count(False)} of {len(injected)} pods"


def _roll_out(stack: Stack, before: set[str]) -> None:
    """Every replica of the operator is a new one, and the old ones have ended."""
    target = ("deployment/flotilla-operator", "-n", SYSTEM_NAMESPACE)
    stack.cluster.kubectl("rollout", "restart", *target)
    stack.cluster.kubectl(
        "rollout", "status", *target, f"--timeout={ROLLOUT_SECONDS}s", timeout_seconds=ROLLOUT_SECONDS + 10
    )
    system = system_of(stack)
    system.wait_for(
        lambda: not before & {pod["metadata"]["uid"] for pod in system.list("Pod")}, "the old replicas to end"
    )


def _is_injected(stack: Stack, space: Space) -> bool:
    """Whether the API server would create an agent's pod with the sidecar."""
    path, dry_run = f"/api/v1/namespaces/{space.name}/pods", {"dryRun": "All"}
    response = stack.cluster.api.post(path, json=an_agent("agent", "assist"), params=dry_run)
    return has_sidecar(response.raise_for_status().json())
