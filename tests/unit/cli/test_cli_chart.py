"""The chart's values mean to `flotilla inject` what they mean to the operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla_api.policy import RoutingPolicySpec
from flotilla_cli.chart import make_settings
from flotilla_cli.errors import InputError
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.settings import load_settings
from localcluster.tools import helm_template

CHART = Path(__file__).parents[3] / "charts" / "flotilla"
DIGEST = "sha256:" + 64 * "0"


def operators_settings(values: dict[str, Any]) -> OperatorSettings:
    """What a release `flotilla` in `flotilla-system` makes of `values`."""
    rendered = helm_template(CHART, "flotilla", namespace="flotilla-system", values=values)
    (deployment,) = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] == "Deployment"]
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    given = {each["name"]: each.get("value", "from the pod") for each in environment}
    return load_settings(given | {"FLOTILLA_NAMESPACE": "flotilla-system"}).for_children()


def an_agents_pod(settings: OperatorSettings) -> dict[str, Any]:
    """A small pod with a sidecar that is made from `settings`."""
    spec = RoutingPolicySpec.model_validate({"experts": [], "auth": {"anonymous": True}})
    pod = {"metadata": {}, "spec": {"containers": [{"name": "agent"}]}}
    return inject_sidecar(pod, SidecarInputs("agents", "billing", spec, settings)).pod


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="its defaults"),
        pytest.param(
            {
                "images": {"router": {"repository": "example.com/router", "tag": "1.2"}, "pullPolicy": "Always"},
                "router": {"pullSecrets": ["registry", "mirror"]},
                "sidecar": {
                    "port": 4000,
                    "adminPort": 4001,
                    "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}, "limits": {"memory": "2Mi"}},
                },
                "operator": {"replicas": 1},
            },
            id="every value that counts",
        ),
        pytest.param(
            {"images": {"router": {"digest": DIGEST}}, "sidecar": {"resources": {"limits": {"memory": "1Gi"}}}},
            id="a digest, and one amount of several",
        ),
    ],
)
def test_sidecars_are_as_the_operator_makes_them(values: dict[str, Any]) -> None:
    """Whether a pod gets its sidecar from the webhook or from a file makes no difference."""
    assert an_agents_pod(make_settings(values)) == an_agents_pod(operators_settings(values))


def test_the_charts_own_values_are_the_defaults() -> None:
    """A file without values, or an empty one, says the same."""
    assert (
        make_settings(yaml.safe_load((CHART / "values.yaml").read_text())) == make_settings({}) == make_settings(None)
    )


def test_options_win_over_values() -> None:
    """The image, and the control API's address, which values do not hold."""
    settings = make_settings({"images": {"router": {"tag": "1"}}}, image="router:2", control_url="https://control")

    assert (settings.router_image, settings.control_url) == ("router:2", "https://control")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"sidecar": {"port": 80}}, "sidecar.port: ", id="a port below 1024"),
        pytest.param({"images": {"pullPolicy": "Sometimes"}}, "images.pullPolicy: ", id="no such policy"),
        pytest.param({"router": {"pullSecrets": "registry"}}, "router.pullSecrets: ", id="no list"),
        pytest.param([1], "valid dictionary", id="no mapping"),
    ],
)
def test_a_wrong_value_is_named(values: Any, message: str) -> None:
    """By its path."""
    with pytest.raises(InputError, match=message):
        make_settings(values)
