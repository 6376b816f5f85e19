"""How many replicas run: by the spec, by `kubectl scale`, none; and large models that are served in the cluster."""

from __future__ import annotations

from e2e.gateway import text_of
from e2e.objects import a_policy, a_served_fallback, an_expert
from e2e.steps import Space


def test_an_expert_with_no_replica_says_that_it_is_scaled_to_zero(space: Space) -> None:
    """replicas: 0 is a wanted state: not Ready, with its own reason, and no pod."""
    space.apply(an_expert("idle", replicas=0))

    space.wait_condition("Expert", "idle", "Ready", "False", "ScaledToZero")
    space.wait_condition("Expert", "idle", "Scheduled", "True", "ScaledToZero")
    assert space.owned("Pod", "Expert", "idle") == []
    assert "costPerHourUSD" not in space.get("Expert", "idle")["status"] or (
        float(space.get("Expert", "idle")["status"]["costPerHourUSD"]) == 0
    )


def test_kubectl_scale_starts_and_stops_replicas(space: Space) -> None:
    """`kubectl scale expert` goes through /scale to spec.replicas, and the status counts pods that answer."""
    space.apply(an_expert("elastic", replicas=0))
    space.wait_condition("Expert", "elastic", "Ready", "False", "ScaledToZero")
    kubectl = space.stack.cluster.kubectl

    kubectl("scale", "expert", "elastic", "--replicas=2", "-n", space.name)

    space.wait_ready("Expert", "elastic")
    space.wait_for(lambda: space.get("Expert", "elastic")["status"]["readyReplicas"] == 2, "both replicas")
    status = space.get("Expert", "elastic")["status"]
    assert status["replicas"] == 2
    assert float(status["costPerHourUSD"]) == 1.6
    assert len(space.list("Pod", **dict(pair.split("=") for pair in status["selector"].split(",")))) == 2

    kubectl("scale", "expert", "elastic", "--replicas=0", "-n", space.name)

    space.wait_condition("Expert", "elastic", "Ready", "False", "ScaledToZero")
    space.wait_for(lambda: not space.owned("Pod", "Expert", "elastic"), "the pods to have drained")


def test_a_model_served_in_the_cluster_answers_what_is_escalated(space: Space) -> None:
    """A served Fallback has its own engine; what leaves the expert is answered there, also for LocalOnly requests."""
    space.apply(
        an_expert("small"), a_served_fallback("large"), a_policy("assist", experts=["small"], fallbacks=["large"])
    )
    space.wait_ready("Expert", "small")
    space.wait_ready("Fallback", "large")
    space.wait_ready("RoutingPolicy", "assist")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    space.engine("small").inject("low_confidence")

    answer = space.gateway("assist").ask("hard and private", x_flotilla_boundary="LocalOnly")

    assert answer.headers["x-flotilla-model"] == "large"
    assert answer.headers["x-flotilla-reason"] == "LowConfidence"
    assert text_of(answer).startswith("[simulated large]")


def test_more_replicas_share_the_requests(space: Space) -> None:
    """The gateway sends requests to every ready replica of an expert."""
    space.apply(an_expert("pair", replicas=2), a_policy("assist", experts=["pair"]))
    space.wait_for(lambda: len(space.engines("pair")) == 2, "two engines")
    space.wait_for(lambda: space.get("Expert", "pair")["status"].get("readyReplicas") == 2, "both in the status")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    gateway = space.gateway("assist")

    def both_were_asked() -> bool:
        gateway.ask("share this")
        return all(engine.requests("share this") for engine in space.engines("pair"))

    space.wait_for(both_were_asked, "both replicas to have answered", 20)
