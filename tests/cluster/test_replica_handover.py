"""Who says an Expert's number of replicas, on a real API server: handed over and back, it never dips."""

from __future__ import annotations

from operator_world import World, end
from scaled_expert import (
    DEPLOYMENT,
    LEFT_ALONE,
    ask,
    create,
    given_away,
    is_seen,
    live,
    managers,
    numbers,
    replicas,
    scale,
)

from flotilla_api.names import FIELD_MANAGER


def test_number_goes_to_the_scaler_and_back_without_a_dip(world: World) -> None:
    """Each number that the Deployment ever has is one that somebody asked for."""
    world.start()
    first = create(world, replicas=3)

    ask(world, **LEFT_ALONE)
    world.until(lambda: is_seen(world), "the operator to see that it is scaled")
    scale(world, 3)
    world.until(lambda: given_away(world), "the operator to leave the number")
    scale(world, 5)
    ask(world, replicas=5)
    world.until(lambda: FIELD_MANAGER in managers(world), "the operator to own the number again")
    ask(world, **LEFT_ALONE)
    world.until(lambda: given_away(world), "the operator to leave it to the scaler, which still shares it")
    ask(world, replicas=2)
    world.until(lambda: replicas(world) == 2, "the spec's number")
    ask(world, **LEFT_ALONE)
    world.until(lambda: is_seen(world), "the operator to see that it is scaled")
    scale(world, 0)
    world.until(lambda: given_away(world), "the operator to leave the number")

    assert numbers(world, first) == [3, 5, 2, 0]


def test_restart_in_the_middle_of_a_handover_changes_nothing(world: World) -> None:
    """What an operator that comes back has to know is in the Deployment itself."""
    replica = world.start()
    first = create(world, replicas=3)
    end(replica.process)

    ask(world, **LEFT_ALONE)
    replica = world.start()
    world.until(lambda: is_seen(world), "the operator to see that it is scaled")
    end(replica.process)
    scale(world, 3)
    scale(world, 4)
    replica = world.start()
    world.until(lambda: given_away(world), "the operator to leave the number")
    end(replica.process)
    scale(world, 6)
    ask(world, **LEFT_ALONE, engine={"maxNumSeqs": 8})
    world.start()
    world.until(lambda: "--max-num-seqs" in str(live(world)["spec"]["template"]), "the new template")

    assert numbers(world, first) == [3, 4, 6]


def test_number_of_another_autoscaler_is_left_alone(world: World) -> None:
    """Where an HPA, or a person, scaled the Deployment, the operator says no number, and does not fight."""
    world.start()
    first = create(world, **LEFT_ALONE)

    world.cluster.kubectl("scale", f"deployment/{DEPLOYMENT}", "--replicas=7", "-n", world.namespace)
    world.until(lambda: given_away(world), "the operator to leave the number")
    world.cluster.kubectl("delete", "service", DEPLOYMENT, "-n", world.namespace)
    world.until(lambda: bool(world.child("services", DEPLOYMENT)), "the operator to repair another child")

    assert numbers(world, first) == [1, 7]
    assert replicas(world) == 7
