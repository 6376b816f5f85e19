"""References may come in any order; a missing one is a condition with its reason."""

from __future__ import annotations

import json
from uuid import uuid4

from e2e.objects import (
    PROVIDER_KEYS,
    a_policy,
    a_profile,
    a_secret,
    an_expert,
    an_external_fallback,
)
from e2e.steps import Space
from flotilla_api.names import snapshot_name
from stack.flotilla import quickstart_provider_key


def test_an_expert_waits_for_its_profile(space: Space) -> None:
    """Without the profile the Expert says so and runs nothing; with it, it starts by itself."""
    profile = f"late-{uuid4().hex[:8]}"
    space.apply(an_expert("early", accelerator={"profile": profile}))
    missing = space.wait_condition("Expert", "early", "ReferencesResolved", "False", "ProfileNotFound")
    space.wait_condition("Expert", "early", "Ready", "False", "ProfileNotFound")
    assert profile in missing["message"]
    assert space.owned("Deployment", "Expert", "early") == []

    space.apply(a_profile(profile))

    try:
        space.wait_ready("Expert", "early")
        space.wait_condition("Expert", "early", "ReferencesResolved", "True")
    finally:
        space.delete("AcceleratorProfile", profile)


def test_a_running_expert_survives_the_end_of_its_profile(space: Space) -> None:
    """A profile that is deleted is a condition; the engine runs on."""
    profile = f"gone-{uuid4().hex[:8]}"
    space.apply(a_profile(profile), an_expert("lasting", accelerator={"profile": profile}))
    space.wait_ready("Expert", "lasting")
    engine = space.engine("lasting")

    space.delete("AcceleratorProfile", profile)

    space.wait_condition("Expert", "lasting", "ReferencesResolved", "False", "ProfileNotFound")
    assert space.engine("lasting").pod["metadata"]["uid"] == engine.pod["metadata"]["uid"]


def test_a_policy_waits_for_what_it_names(space: Space) -> None:
    """A missing Expert and a missing Fallback are named one after the other, and their arrival is noticed."""
    space.apply(a_policy("assist", experts=["small"], fallbacks=["big"]))
    missing = space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "False", "ExpertNotFound")
    assert "Expert small" in missing["message"]
    assert "Fallback big" in missing["message"]

    space.apply(an_expert("small"))
    missing = space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "False", "FallbackNotFound")
    assert "Fallback big" in missing["message"]

    space.apply(an_external_fallback("big"))
    space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "True", "Resolved")
    space.wait_ready("RoutingPolicy", "assist")


def test_a_policy_none_of_whose_models_can_answer_is_not_ready(space: Space) -> None:
    """A gateway without a model says NoReadyModel, and its clients are told the same as a 503."""
    space.apply(an_expert("idle", replicas=0), a_policy("assist", experts=["idle"]))

    space.wait_condition("RoutingPolicy", "assist", "Ready", "False", "NoReadyModel")
    answer = space.gateway("assist").ask("anybody there?")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_ready_replica"
    assert "Expert idle has no ready replica" in answer.json()["error"]["message"]


def test_an_expert_that_is_deleted_leaves_the_routes(space: Space) -> None:
    """The policy says that it is missing, the snapshot has it no more, and its requests go to the fallback."""
    space.apply(
        an_expert("small", replicas=1),
        an_external_fallback("big"),
        a_policy("assist", experts=["small"], fallbacks=["big"]),
    )
    space.wait_ready("Expert", "small")
    space.wait_ready("RoutingPolicy", "assist")
    gateway = space.gateway("assist")
    assert gateway.ask("before").headers["x-flotilla-model"] == "small"

    space.delete("Expert", "small")

    space.wait_condition("RoutingPolicy", "assist", "ReferencesResolved", "False", "ExpertNotFound")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    snapshot = json.loads(space.get("ConfigMap", snapshot_name("assist"))["data"]["snapshot.json"])
    assert [target["name"] for target in snapshot["targets"]] == ["big"]
    assert gateway.ask("after").headers["x-flotilla-model"] == "big"


def test_a_missing_token_is_named_by_the_expert(space: Space) -> None:
    """A Secret that does not exist keeps the download from starting; once it is there, the pod starts by itself."""
    model = {"uri": "hf://acme/gated-1b", "tokenSecretRef": {"name": "hub", "key": "token"}}
    space.apply(an_expert("gated", model=model))
    missing = space.wait_condition("Expert", "gated", "Ready", "False", "SecretNotFound")
    assert "hub" in missing["message"]

    space.apply(a_secret("hub", token="hf_not_a_real_one"))

    space.wait_ready("Expert", "gated")


def test_only_the_download_sees_the_token(space: Space) -> None:
    """The engine's container has no way to the hub's token."""
    model = {"uri": "hf://acme/gated-1b", "tokenSecretRef": {"name": "hub", "key": "token"}}
    space.apply(a_secret("hub", token="hf_not_a_real_one"), an_expert("gated", model=model))
    space.wait_ready("Expert", "gated")

    (pod,) = space.ready_pods("Expert", "gated")
    by_container = {each["name"]: str(each) for each in pod["spec"]["initContainers"] + pod["spec"]["containers"]}
    assert "HF_TOKEN" in by_container["fetch"]
    assert "hub" not in by_container["engine"]


def test_missing_credentials_of_a_fallback_are_named_by_the_policy(space: Space) -> None:
    """A gateway without the provider's key says so; the key is picked up when it comes, without a restart."""
    space.delete("Secret", PROVIDER_KEYS)
    space.apply(an_external_fallback("big"), a_policy("assist", fallbacks=["big"]))
    missing = space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "False", "CredentialsMissing")
    assert "Fallback big" in missing["message"]
    gateway = space.gateway("assist")
    pods = gateway.pods()

    space.apply(a_secret(PROVIDER_KEYS, apiKey=quickstart_provider_key()))

    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
    assert gateway.ask("now?").headers["x-flotilla-model"] == "big"
    assert gateway.pods() == pods
