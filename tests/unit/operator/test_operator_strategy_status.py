"""What a RoutingPolicy's status says of its learned routing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    NAMESPACE,
    a_fallback,
    a_policy,
    a_profile,
    a_ready_pod,
    acknowledged,
    an_expert,
    judge,
    observe,
    rolled_out,
    with_status,
)
from flotilla_api.control import ARTIFACT_ROLES, STRATEGY_PROBLEMS, Problem, ProblemKind
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.gateway import snapshot_of
from flotilla_operator.reconcile.types import Acknowledgement, Manifest, ObjectRef, Observed
from flotilla_operator.resources.specs import parse_policy
from flotilla_operator.resources.strategies import named_artifacts

DIGEST = "sha256:" + 64 * "a"
ARTIFACT = {"configMapRef": {"name": "router"}, "digest": DIGEST}
STRATEGY = {
    "type": "WinRate",
    "artifact": ARTIFACT,
    "models": {"small": "invoice", "strong": "big"},
    "threshold": "0.42",
}
POLICY = a_policy(strategy=STRATEGY)
EXPERT = an_expert()
ROUTERS = (a_ready_pod(POLICY, "r1"), a_ready_pod(POLICY, "r2", ip="10.0.0.2"))
REFUSED = Problem(ProblemKind.ARTIFACT_REFUSED, "strategy", "weights.npz holds NaN")


def a_cluster(policy: Manifest = POLICY, problems: tuple[Problem, ...] = ()) -> Observed:
    """A policy whose routers run, serve the current snapshot and tell of `problems`."""
    engines = {ObjectRef("Expert", NAMESPACE, "invoice"): (a_ready_pod(EXPERT),)}
    observed = rolled_out(observe(policy, a_profile(), EXPERT, a_fallback(), reference_pods=engines, pods=ROUTERS))
    snapshot = snapshot_of(dispatch.desired(observed))
    assert snapshot is not None
    said = acknowledged(ROUTERS, RoutingSnapshot.digest_of(snapshot.data), problems=problems)
    return replace(observed, acknowledgements=said)


def with_sidecar(observed: Observed, *problems: Problem) -> Observed:
    """The same with an agent whose sidecar tells of `problems`."""
    digest = observed.acknowledgements[0].digest
    sidecar = Acknowledgement(pod="agent", pod_uid="uid-agent", digest=digest, problems=problems, sidecar=True)
    return replace(observed, acknowledgements=(*observed.acknowledgements, sidecar))


def conditions(observed: Observed) -> dict[str, tuple[str, str]]:
    """Status with reason, and message, by type."""
    found: list[dict[str, Any]] = judge(observed).status["conditions"]
    return {each["type"]: (f"{each['status']} {each['reason']}", each["message"]) for each in found}


def strategy_ready(observed: Observed) -> tuple[str, str]:
    return conditions(observed)["StrategyReady"]


@pytest.mark.parametrize("policy", [a_policy(), a_policy(strategy={"type": "Static"})], ids=["none", "Static"])
def test_policy_without_an_artifact_says_nothing_of_learned_routing(policy: Manifest) -> None:
    """A condition about what nobody asked for would be noise."""
    assert "StrategyReady" not in conditions(a_cluster(policy))


def test_routers_without_complaint_have_their_artifact() -> None:
    """They fetched it, checked it and use it."""
    assert strategy_ready(a_cluster())[0] == "True ArtifactLoaded"


@pytest.mark.parametrize("kind", sorted(STRATEGY_PROBLEMS - {ProblemKind.ARTIFACT_LOADING}))
@pytest.mark.parametrize("role", ARTIFACT_ROLES)
def test_a_routers_problem_is_the_reason(kind: ProblemKind, role: str) -> None:
    """The policy says which artifact is meant and why, and is ready all the same: requests are answered."""
    observed = a_cluster(problems=(Problem(kind, role, "this is why"),))

    assert strategy_ready(observed) == (f"False {kind.value}", f"{role}: this is why")
    assert conditions(observed)["Ready"][0] == "True Ready"
    assert conditions(observed)["ConfigPropagated"][0] == "True Acknowledged"


def test_an_artifact_on_its_way_is_neither_there_nor_a_fault() -> None:
    """`kubectl wait` waits until the last router has it, and nobody is warned."""
    observed = a_cluster(problems=(Problem(ProblemKind.ARTIFACT_LOADING, "canary", "it is being fetched"),))

    assert strategy_ready(observed) == ("Unknown ArtifactLoading", "canary: it is being fetched")
    assert [event for event in judge(observed).events if event.type == "Warning"] == []


def test_a_new_generation_is_not_ready_before_its_routers_serve_it() -> None:
    """At the same generation new endpoints, which change the snapshot too, change nothing that is known."""
    observed = a_cluster()
    lagging = replace(
        observed, acknowledgements=tuple(replace(each, digest="sha256:0") for each in observed.acknowledgements)
    )
    known = replace(lagging, owner=with_status(POLICY, judge(observed).status))

    assert strategy_ready(lagging)[0] == "Unknown WaitingForRouters"
    assert strategy_ready(known)[0] == "True ArtifactLoaded"


def test_what_keeps_an_artifact_from_being_used_comes_before_drift() -> None:
    """One reason is shown, the gravest."""
    drifted = Problem(ProblemKind.DRIFTED, "strategy", "scores moved")
    observed = a_cluster(problems=(drifted, REFUSED))

    assert strategy_ready(observed) == ("False ArtifactRefused", "strategy: weights.npz holds NaN")


def test_sidecars_problem_is_told_without_its_words() -> None:
    """Who wrote the texts of an agent's pod is anybody's guess."""
    observed = with_sidecar(a_cluster(), Problem(ProblemKind.ARTIFACT_REFUSED, "call me", "call me now"))

    status, message = strategy_ready(observed)

    assert status == "False ArtifactRefused"
    assert message.startswith("sidecars report it in agent: see the log")
    assert conditions(observed)["ConfigPropagated"][0] == "True Acknowledged"
    assert "call me" not in str(judge(observed))


def test_nothing_is_known_before_a_router_calls() -> None:
    """Afterwards what was last known stays, until routers call a new leader."""
    observed = a_cluster(problems=(REFUSED,))
    silent = replace(observed, acknowledgements=())
    before = replace(silent, owner=with_status(POLICY, judge(observed).status))

    assert strategy_ready(silent)[0] == "Unknown WaitingForRouters"
    assert strategy_ready(before)[0] == "False ArtifactRefused"


def test_a_config_map_that_was_put_right_is_no_longer_complained_of() -> None:
    """Also while no router is connected; until somebody looked at it the complaint stays."""
    missing = replace(a_cluster(), artifact_maps={"router": None})
    owner = with_status(POLICY, judge(missing).status)
    silent = replace(missing, owner=owner, acknowledgements=())

    assert strategy_ready(replace(silent, artifact_maps={}))[0] == "False ArtifactNotFound"
    assert strategy_ready(replace(silent, artifact_maps={"router": DIGEST}))[0] == "Unknown WaitingForRouters"


def test_a_shadow_beside_a_static_strategy_is_watched_too() -> None:
    """It is tried before anything is routed by it."""
    shadow = {"artifact": ARTIFACT, "models": STRATEGY["models"], "percent": 5}

    assert strategy_ready(a_cluster(a_policy(shadow=shadow)))[0] == "True ArtifactLoaded"


def test_a_canary_without_a_learned_strategy_is_left_out() -> None:
    """The API server refuses it; of a stored one nothing is used."""
    policy = a_policy(canary={"artifact": ARTIFACT, "percent": 5})

    assert named_artifacts(parse_policy(policy)) == {}


def test_every_role_is_a_field_that_names_an_artifact() -> None:
    """Routers name artifacts as the policy does."""
    policy = a_policy(
        strategy=STRATEGY, shadow={"artifact": ARTIFACT, "percent": 5}, canary={"artifact": ARTIFACT, "percent": 5}
    )

    assert tuple(named_artifacts(parse_policy(policy))) == ARTIFACT_ROLES


@pytest.mark.parametrize(
    ("maps", "expected", "message"),
    [
        pytest.param({}, "True ArtifactLoaded", "", id="not looked at yet: what routers say counts"),
        pytest.param({"router": DIGEST}, "True ArtifactLoaded", "", id="there"),
        pytest.param({"router": None}, "False ArtifactNotFound", "ConfigMap router does not exist", id="gone"),
        pytest.param(
            {"router": "sha256:" + 64 * "b"},
            "False ArtifactDigestMismatch",
            f"strategy: ConfigMap router holds the artifact sha256:{64 * 'b'}, the policy pins {DIGEST}",
            id="another",
        ),
        pytest.param(
            {"router": ""}, "False ArtifactDigestMismatch", "ConfigMap router has no manifest.json", id="no artifact"
        ),
    ],
)
def test_a_config_map_is_judged_before_a_router_needs_it(
    maps: dict[str, str | None], expected: str, message: str
) -> None:
    """Routers that have the artifact go on with it, so none of them complains; the next one that starts would."""
    observed = replace(a_cluster(), artifact_maps=maps)

    found, said = strategy_ready(observed)
    assert found == expected
    assert message in said
    assert conditions(observed)["Ready"][0] == "True Ready"


def test_an_artifact_elsewhere_is_not_sought_in_a_config_map() -> None:
    """Routers fetch it themselves and say what they found."""
    artifact = {"url": "https://models.example.com/router.tar", "digest": DIGEST}
    policy = a_policy(strategy={**STRATEGY, "artifact": artifact})

    assert strategy_ready(replace(a_cluster(policy), artifact_maps={"router": None}))[0] == "True ArtifactLoaded"
