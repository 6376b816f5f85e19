"""Experts at zero: who answers meanwhile, and that gateways and sidecars may have them woken."""

from __future__ import annotations

from e2e.gateway import Router
from e2e.objects import a_policy, a_served_fallback, an_expert
from e2e.steps import Space

STOPS_SOON = {"min": 0, "max": 1, "idleAfter": "1s"}


def wakes(router: Router, result: str) -> float:
    """Calls that asked the operator for the expert `quiet`."""
    return router.metric("flotilla_router_wakes_total", expert="quiet", result=result)


def test_a_fallback_answers_while_its_request_wakes_the_expert(space: Space) -> None:
    """The gateway's own account may wake what its policy names; who asks for the expert by name waits, and gets it."""
    space.apply(
        an_expert("quiet", scaling=STOPS_SOON),
        a_served_fallback("large"),
        a_policy("assist", experts=["quiet"], fallbacks=["large"], coldStart={"maxHold": "30s"}),
    )
    space.wait_ready("Fallback", "large")
    space.wait_for(lambda: not space.owned("Pod", "Expert", "quiet"), "the expert to be at zero", 120)
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    gateway = space.gateway("assist")

    bridged = gateway.ask("anybody there?")
    held = gateway.ask("anybody there by now?", model="quiet")

    assert (bridged.status_code, bridged.headers["x-flotilla-model"]) == (200, "large")
    assert bridged.headers["x-flotilla-reason"] == "ColdStart"
    assert (held.status_code, held.headers["x-flotilla-model"]) == (200, "quiet")
    assert gateway.line_of(held.headers["x-flotilla-request-id"])["held_ms"] > 0
    assert gateway.metric("flotilla_router_demand_total", expert="quiet") == 2
    assert wakes(gateway, "ok") >= 1
    assert wakes(gateway, "failed") == 0
