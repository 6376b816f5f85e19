"""Learned routing on the cluster: artifacts in ConfigMaps, promoted and rolled back by an edit of the policy."""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping

import numpy as np
import pytest

from artifacts import an_artifact, an_embedder, digest, hard_words
from e2e.fixtures import new_space
from e2e.gateway import Router
from e2e.objects import Manifest, a_policy, an_expert, an_external_fallback
from e2e.sidecars import start_agent
from e2e.steps import Space
from fakes.engine.embeddings import direction_of
from flotilla_api.artifact import EmbedderOptions
from flotilla_router.embedders import digest_of
from stack.flotilla import Stack

DIMENSIONS = 64
Files = Mapping[str, bytes]


def hard_about(*words: str) -> dict[str, bytes]:
    """An artifact for which prompts with these words are hard."""
    arrays = {"weights": hard_words(*words), "bias": np.zeros(1, np.float32)}
    return an_artifact(arrays=arrays)


MATHS, LAW = hard_about("prove", "theorem"), hard_about("contract", "liability")
ASK_MATHS, ASK_LAW = "prove theorem", "contract liability"


def hard_by_vector(word: str) -> dict[str, bytes]:
    """An artifact that scores the vectors of the Expert `minilm`, and finds no words hard without them."""
    weights = np.full(DIMENSIONS, -9.0, np.float32)
    weights[direction_of(word, DIMENSIONS)] = 9.0
    embedder = {
        "name": "Remote",
        "digest": digest_of("Remote", EmbedderOptions(model="minilm", dimensions=DIMENSIONS), {}),
        "options": {"model": "minilm", "dimensions": DIMENSIONS},
        "fallback": an_embedder().spec.model_dump(exclude_defaults=True),
    }
    bias = np.zeros(1, np.float32)
    arrays = {"weights": weights, "bias": bias, "fallback.weights": hard_words(), "fallback.bias": bias}
    return an_artifact(manifest={"embedder": embedder}, arrays=arrays)


def a_map(name: str, files: Files) -> Manifest:
    """What `kubectl create configmap --from-file` makes."""
    binary = {file: base64.b64encode(data).decode() for file, data in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": binary}


def pinned(name: str, files: Files) -> Manifest:
    """How a policy names it."""
    return {"configMapRef": {"name": name}, "digest": digest(files)}


def a_learned_policy(name: str, artifact: Manifest, **spec: object) -> Manifest:
    """One that sends easy prompts to the expert and hard ones to the provider."""
    models = {"weak": "small", "strong": "big"}
    strategy = {"type": "WinRate", "artifact": artifact, "models": models, "threshold": "0.5"}
    return a_policy(name, experts=["small"], fallbacks=["big"], strategy=strategy, **spec)


def promote(space: Space, policy: str, artifact: Manifest) -> None:
    """A person edits the policy."""
    space.merge("RoutingPolicy", policy, {"spec": {"strategy": {"artifact": artifact}}})


def answered_by(router: Router, text: str) -> tuple[str, str]:
    """Who answered a question, and why."""
    answer = router.ask(text)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-flotilla-model"], answer.headers["x-flotilla-reason"]


def until_hard(space: Space, router: Router, text: str) -> None:
    """The provider answers this because of the artifact."""
    space.wait_for(lambda: answered_by(router, text) == ("big", "WinRate"), f"{text!r} to be hard")


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """An expert, the provider, and two artifacts."""
    with new_space(stack) as space:
        space.apply(an_expert("small"), an_external_fallback("big"), a_map("maths", MATHS), a_map("law", LAW))
        space.wait_ready("Expert", "small")
        yield space


def test_prompts_go_where_the_artifact_says_and_an_edit_changes_it_without_a_rollout(fleet: Space) -> None:
    """Promotion and the way back: the same pods route by another artifact within seconds."""
    fleet.apply(a_learned_policy("learned", pinned("maths", MATHS)))
    fleet.wait_ready("RoutingPolicy", "learned")
    gateway = fleet.gateway("learned")
    until_hard(fleet, gateway, ASK_MATHS)
    pods = gateway.pods()
    assert answered_by(gateway, ASK_LAW) == ("small", "WinRate")
    fleet.wait_condition("RoutingPolicy", "learned", "StrategyReady", "True", "ArtifactLoaded")

    promote(fleet, "learned", pinned("law", LAW))
    until_hard(fleet, gateway, ASK_LAW)
    assert answered_by(gateway, ASK_MATHS) == ("small", "WinRate")

    promote(fleet, "learned", pinned("maths", MATHS))
    until_hard(fleet, gateway, ASK_MATHS)
    assert gateway.pods() == pods


def test_a_wrong_artifact_is_told_and_the_previous_one_routes_on(fleet: Space) -> None:
    """Another content than the digest's, a ConfigMap that does not exist, and a model that the artifact lacks."""
    fleet.apply(a_learned_policy("careful", pinned("maths", MATHS)))
    fleet.wait_ready("RoutingPolicy", "careful")
    gateway = fleet.gateway("careful")
    until_hard(fleet, gateway, ASK_MATHS)

    for artifact, reason in (
        (pinned("maths", LAW), "ArtifactDigestMismatch"),
        (pinned("nowhere", LAW), "ArtifactNotFound"),
    ):
        promote(fleet, "careful", artifact)
        fleet.wait_condition("RoutingPolicy", "careful", "StrategyReady", "False", reason)
        assert answered_by(gateway, ASK_MATHS) == ("big", "WinRate")

    promote(fleet, "careful", pinned("law", LAW))
    models = {"weak": None, "feeble": "small"}
    fleet.merge("RoutingPolicy", "careful", {"spec": {"strategy": {"models": models}}})
    told = fleet.wait_condition("RoutingPolicy", "careful", "StrategyReady", "False", "ArtifactRefused")
    assert "feeble" in told["message"]
    assert answered_by(gateway, ASK_MATHS)[0] == "big"
    fleet.wait_ready("RoutingPolicy", "careful")


def test_a_missing_artifact_leaves_a_draw_by_weight_until_it_comes(fleet: Space) -> None:
    """The order in which things are applied does not matter, and no request waits."""
    files = hard_about("late")
    fleet.apply(a_learned_policy("early", pinned("late", files)))
    fleet.wait_ready("RoutingPolicy", "early")
    gateway = fleet.gateway("early")
    fleet.wait_condition("RoutingPolicy", "early", "StrategyReady", "False", "ArtifactNotFound")
    assert answered_by(gateway, "late late") == ("small", "Static")

    fleet.apply(a_map("late", files))
    until_hard(fleet, gateway, "late late")
    fleet.wait_condition("RoutingPolicy", "early", "StrategyReady", "True", "ArtifactLoaded")


def test_a_sidecar_routes_by_the_same_artifact(fleet: Space) -> None:
    """It gets it from the control API by its pod's label."""
    fleet.apply(a_learned_policy("beside", pinned("maths", MATHS)))
    fleet.wait_ready("RoutingPolicy", "beside")
    sidecar = start_agent(fleet, "agent", "beside")

    until_hard(fleet, sidecar, ASK_MATHS)
    assert answered_by(sidecar, ASK_LAW) == ("small", "WinRate")


def test_a_canary_decides_for_the_same_sessions_every_time(fleet: Space) -> None:
    """Some sessions are the canary's and the others the strategy's, whatever else a request says."""
    canary = {"artifact": pinned("law", LAW), "percent": 50, "sessionHeaders": ["x-session-id"]}
    fleet.apply(a_learned_policy("canary", pinned("maths", MATHS), canary=canary))
    fleet.wait_ready("RoutingPolicy", "canary")
    gateway = fleet.gateway("canary")

    def sides() -> list[str]:
        answers = [gateway.ask(ASK_LAW, x_session_id=f"session-{number}") for number in range(12)]
        return [answer.headers["x-flotilla-model"] for answer in answers]

    fleet.wait_for(lambda: set(sides()) == {"small", "big"}, "both artifacts to decide")
    assert sides() == sides()


def test_an_embedding_expert_decides_and_nobody_waits_for_one_that_is_gone(fleet: Space) -> None:
    """It is an Expert like others, is sent no request, and without it words decide."""
    files = hard_by_vector("prove")
    embedder = an_expert(
        "minilm", env={"SIM_EMBEDDING_DIMENSIONS": str(DIMENSIONS)}, capabilities={"apis": ["embeddings"]}
    )
    policy = a_learned_policy("by-vectors", pinned("vectors", files))
    policy["spec"]["experts"].append({"name": "minilm", "weight": 0})
    fleet.apply(a_map("vectors", files), embedder, policy)
    fleet.wait_ready("Expert", "minilm")
    fleet.wait_ready("RoutingPolicy", "by-vectors")
    gateway = fleet.gateway("by-vectors")

    until_hard(fleet, gateway, "prove prove")
    assert answered_by(gateway, "hello hello") == ("small", "WinRate")
    assert gateway.metric("flotilla_router_embeddings_total", result="ok") >= 2

    fleet.delete("Expert", "minilm")
    fleet.wait_gone("Expert", "minilm")
    fleet.wait_for(lambda: answered_by(gateway, "prove prove") == ("small", "WinRate"), "words to decide")
