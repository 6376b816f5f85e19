"""An upgrade of the operator alone: it goes on where the old one stopped, and no engine is restarted."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from e2e.load import load_on
from e2e.objects import Manifest, a_policy, an_expert
from e2e.steps import Space, system_of
from stack.flotilla import CHART, SYSTEM_NAMESPACE, Stack, chart_values

UPGRADE_SECONDS = 120
NEW_TAG = "v99.0.0"


@pytest.fixture
def upgraded(stack: Stack) -> Generator[dict[str, Manifest]]:
    """Values of a release with another default engine and another environment of the operator; undone afterwards."""
    engine = {"repository": "vllm/vllm-openai", "tag": NEW_TAG}
    values = chart_values()
    yield {**values, "images": {**values["images"], "engine": engine}, "operator": {"workers": 4}}
    stack.cluster.helm.upgrade(
        "flotilla", CHART, namespace=SYSTEM_NAMESPACE, values=values, wait_seconds=UPGRADE_SECONDS
    )


def _runs(pods: list[Manifest]) -> dict[str, int]:
    """Restarts by pod."""
    return {
        pod["metadata"]["uid"]: sum(each["restartCount"] for each in pod["status"]["containerStatuses"]) for pod in pods
    }


def test_an_operator_upgrade_restarts_no_engine(stack: Stack, space: Space, upgraded: dict[str, Manifest]) -> None:
    """Engines and gateways run on through `helm upgrade`; only experts that come later get the new engine."""
    space.apply(an_expert("old", replicas=2), a_policy("assist", experts=["old"]))
    space.wait_for(lambda: len(space.engines("old")) == 2, "both engines")
    space.wait_ready("RoutingPolicy", "assist")
    engines, gateways = space.ready_pods("Expert", "old"), space.ready_pods("RoutingPolicy", "assist")
    operators = {pod["metadata"]["uid"] for pod in system_of(stack).list("Pod")}

    with load_on(space.gateway("assist")) as load:
        stack.cluster.helm.upgrade(
            "flotilla", CHART, namespace=SYSTEM_NAMESPACE, values=upgraded, wait_seconds=UPGRADE_SECONDS
        )
        space.apply(an_expert("new"), a_policy("assist", experts=["old", "new"]))
        space.wait_ready("Expert", "new")
        space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True", "Acknowledged")
        load.wait_for_more()

    assert load.failures == []
    assert not operators & {pod["metadata"]["uid"] for pod in space_ready(system_of(stack))}
    assert _runs(space.ready_pods("Expert", "old")) == _runs(engines)
    assert _runs(space.ready_pods("RoutingPolicy", "assist")) == _runs(gateways)
    assert _image(space, "new") == f"vllm/vllm-openai:{NEW_TAG}"
    assert _image(space, "old") != _image(space, "new")
    assert space.condition("Expert", "old", "Ready")["status"] == "True"


def space_ready(system: Space) -> list[Manifest]:
    """The operator's pods that are not ending."""
    return [pod for pod in system.list("Pod") if "deletionTimestamp" not in pod["metadata"]]


def _image(space: Space, expert: str) -> str:
    return space.ready_pods("Expert", expert)[0]["spec"]["containers"][0]["image"]


def test_an_expert_whose_spec_changes_gets_the_new_engine(
    stack: Stack, space: Space, upgraded: dict[str, Manifest]
) -> None:
    """After an upgrade the next change that needs a restart anyway takes the new defaults with it."""
    space.apply(an_expert("old"))
    space.wait_ready("Expert", "old")
    stack.cluster.helm.upgrade(
        "flotilla", CHART, namespace=SYSTEM_NAMESPACE, values=upgraded, wait_seconds=UPGRADE_SECONDS
    )

    space.apply(an_expert("old", env={"SIM_SEED": "3"}))

    space.wait_ready("Expert", "old")
    space.wait_for(lambda: [_image(space, "old")] == [f"vllm/vllm-openai:{NEW_TAG}"], "the new engine")
