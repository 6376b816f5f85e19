"""The chart, rendered offline: valid, hardened, in step with the operator, and with no more rights than it needs."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flotilla_api.crds import KINDS, make_crd
from flotilla_api.names import (
    CONTROL_PORT,
    KIND_LABEL,
    OPERATOR_ADMIN_PORT,
    POLICY_LABEL,
    SIDECAR_ADMIN_PORT,
    SIDECAR_PORT,
    WEBHOOK_PORT,
)
from flotilla_operator.adapters.authority import SECRET_NAME
from flotilla_operator.adapters.kinds import OWNER_KINDS
from flotilla_operator.adapters.webhook import ANSWER_SECONDS, INJECT_PATH
from flotilla_operator.reconcile.dispatch import CHILD_KINDS
from flotilla_operator.resources.sidecar import ADMIN_PORT_NAME
from flotilla_operator.settings import PREFIX, Settings, load_settings
from localcluster.tools import CommandError, helm_lint, helm_template

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "flotilla"
GOLDEN = ROOT / "tests" / "golden" / "chart"
FROZEN_VALUES = Path(__file__).parent / "frozen" / "values.yaml"
"""The default values of the release before: with `helm upgrade --reuse-values` they replace this release's."""
PROMETHEUS = "http://prometheus:9090"
DIGEST = "sha256:" + 64 * "0"
FULL: Manifest = {
    "images": {"operator": {"repository": "registry.example.com/operator", "tag": "1.0"}, "pullSecrets": ["registry"]},
    "watchNamespaces": ["agents", "lab"],
    "operator": {
        "replicas": 1,
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "podLabels": {"team": "platform"},
        "podAnnotations": {"example.com/owner": "platform"},
    },
    "router": {"pullSecrets": ["registry", "mirror"]},
    "sidecar": {
        "port": 4000,
        "adminPort": 4001,
        "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "1Gi"}},
    },
    "serviceAccount": {"annotations": {"example.com/role": "flotilla"}},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "interval": "10s"},
    },
    "crds": {"install": False},
    "prometheus": {
        "url": "https://prometheus.monitoring.svc:9090/prefix",
        "bearerTokenSecret": {"name": "prometheus-token"},
        "caSecret": {"name": "prometheus-ca", "key": "bundle.crt"},
        "labels": {"region": "eu", "cluster": "prod"},
        "scrapeInterval": "30s",
        "timeout": "5s",
    },
}


def render(values: Manifest | None = None, chart: Path = CHART) -> list[Manifest]:
    """The objects of a release `flotilla` in `flotilla-system`."""
    text = helm_template(chart, "flotilla", namespace="flotilla-system", values=values)
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(scope="module")
def rendered() -> list[Manifest]:
    """The objects that the default values give."""
    return render()


def _of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def _pod_template(manifests: list[Manifest]) -> Manifest:
    (deployment,) = _of_kind(manifests, "Deployment")
    return deployment["spec"]["template"]


def _environment(manifests: list[Manifest]) -> dict[str, str]:
    (container,) = _pod_template(manifests)["spec"]["containers"]
    return {entry["name"]: entry.get("value", "from the pod") for entry in container["env"]}


def _rules(manifests: list[Manifest], kind: str) -> Iterator[Manifest]:
    for role in _of_kind(manifests, kind):
        if "-operator" in role["metadata"]["name"]:
            yield from role["rules"]


def _grants(rules: Iterator[Manifest]) -> set[tuple[str, str, str]]:
    """Every (group, resource, verb)."""
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


def test_lint_has_nothing_to_say() -> None:
    """`helm lint --strict` finds no fault."""
    assert helm_lint(CHART) == []


@pytest.mark.parametrize(("name", "values"), [("default", {"crds": {"install": False}}), ("full", FULL)])
def test_rendered_chart_is_as_recorded(name: str, values: Manifest) -> None:
    """The objects are those in tests/golden/chart; UPDATE_GOLDEN=1 writes them anew."""
    path = GOLDEN / f"{name}.yaml"
    found = yaml.safe_dump_all(render(values), sort_keys=True)
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found)

    assert found == path.read_text()


@pytest.mark.parametrize("version", ["1.29", "1.36"])
@pytest.mark.parametrize("values", [{}, FULL], ids=["default", "full"])
def test_objects_fit_the_schemas_of_kubernetes(values: Manifest, version: str) -> None:
    """Strictly, in the oldest version that is supported and in the one that the tests run."""
    for manifest in render(values):
        if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_versions_are_those_of_the_distribution() -> None:
    """Images default to the chart's appVersion, so it has to be the release's."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert chart["appVersion"] == chart["version"] == project["version"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"replicas": 3}, "additional properties 'replicas' not allowed", id="unknown value"),
        pytest.param({"operator": {"replica": 3}}, "additional properties 'replica' not allowed", id="unknown below"),
        pytest.param({"operator": {"replicas": "3"}}, "got string, want integer", id="type"),
        pytest.param({"operator": {"logLevel": "verbose"}}, "value must be one of 'DEBUG'", id="enum"),
        pytest.param({"images": {"router": {"digest": "latest"}}}, "does not match pattern", id="digest"),
        pytest.param({"watchNamespaces": ["a", "a"]}, "items at 0 and 1 are equal", id="twice"),
        pytest.param(
            {"router": {"resources": {"limits": {"memory": "lots"}}}}, "does not match pattern", id="quantity"
        ),
        pytest.param(
            {"sidecar": {"resources": {"requests": {"memory": "1Gi"}}}}, "must not be more than", id="above its limit"
        ),
        pytest.param({"prometheus": {"url": "prometheus:9090"}}, "does not match pattern", id="address"),
        pytest.param({"prometheus": {"url": "http://u:p@host"}}, "does not match pattern", id="secret in an address"),
        pytest.param({"prometheus": {"scrapeInterval": "2m"}}, "does not match pattern", id="interval"),
        pytest.param({"prometheus": {"timeout": "15s"}}, "does not match pattern", id="longer than a tick"),
        pytest.param({"prometheus": {"labels": {"a-b": "c"}}}, "does not match pattern", id="no label"),
        pytest.param({"prometheus": {"insecureSkipVerify": True}}, "not allowed", id="trust in anybody"),
        pytest.param(
            {"prometheus": {"bearerTokenSecret": {"name": "a"}, "basicAuthSecret": {"name": "b"}}},
            "exclude each other",
            id="two kinds of credentials",
        ),
        pytest.param(
            {
                "prometheus": {"url": PROMETHEUS, "scrapeInterval": "15s"},
                "metrics": {"podMonitor": {"enabled": True, "interval": "30s"}},
            },
            "metrics.podMonitor.interval .30s. is longer than prometheus.scrapeInterval .15s.",
            id="samples too seldom for the rates",
        ),
        pytest.param(
            {
                "prometheus": {"url": PROMETHEUS},
                "metrics": {"podMonitor": {"enabled": True, "interval": "2m"}},
            },
            "metrics.podMonitor.interval .2m. is longer than 60s",
            id="samples too seldom for autoscaling",
        ),
        pytest.param({"sidecar": {"port": 80}}, "minimum: got 80, want 1,024", id="a port for root alone"),
        pytest.param({"sidecar": {"port": 4000, "adminPort": 4000}}, "must differ", id="one port for two listeners"),
    ],
)
def test_wrong_value_is_refused(values: Manifest, message: str) -> None:
    """A value that would be ignored or break the operator later is an error now."""
    with pytest.raises(CommandError, match=message):
        render(values)


def test_default_values_satisfy_the_schema_and_are_all_in_it() -> None:
    """values.yaml documents every value that the schema allows."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(schema["properties"]) - {"global"} == set(values)
    for name, part in schema["properties"].items():
        if "properties" in part:
            assert set(part["properties"]) == set(values[name])


def test_crds_are_kept_and_as_generated(rendered: list[Manifest]) -> None:
    """They are upgraded with the release and survive it."""
    found = {crd["metadata"]["name"]: crd for crd in _of_kind(rendered, "CustomResourceDefinition")}

    for kind in KINDS:
        crd = found.pop(kind.crd_name)
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == make_crd(kind)
    assert found == {}


def test_crds_can_be_left_out() -> None:
    """For those who install them by other means."""
    assert _of_kind(render({"crds": {"install": False}}), "CustomResourceDefinition") == []


def test_operator_reads_every_variable_that_it_is_given(rendered: list[Manifest]) -> None:
    """No variable of the chart is ignored, and the operator accepts their values."""
    environment = _environment(rendered)

    settings = load_settings(environment)
    assert set(environment) <= {PREFIX + field.upper() for field in Settings.model_fields}
    assert settings.engine_image == "vllm/vllm-openai:v0.32.0"
    assert settings.watch_namespaces == ()


def test_chart_and_operator_have_the_same_defaults(rendered: list[Manifest]) -> None:
    """What values.yaml documents is what holds without a chart, too."""
    environment = _environment(rendered)
    required = {"FLOTILLA_ENGINE_IMAGE", "FLOTILLA_ROUTER_IMAGE", "FLOTILLA_NAMESPACE", "FLOTILLA_POD_NAME"}
    required |= {"FLOTILLA_WEBHOOK_CONFIGURATION"}  # without a chart there is none
    given = {name: value for name, value in environment.items() if value != "from the pod" or name in required}
    minimal = {name: value for name, value in given.items() if name in required}

    assert load_settings(given) == load_settings(minimal)


def test_values_reach_the_operator() -> None:
    """Lists are joined by commas."""
    settings = load_settings(_environment(render(FULL)))

    assert settings.watch_namespaces == ("agents", "lab")
    assert settings.router_image_pull_secrets == ("registry", "mirror")
    assert (settings.sidecar_port, settings.sidecar_admin_port) == (4000, 4001)
    assert (settings.sidecar_cpu_request, settings.sidecar_memory_limit) == ("10m", "1Gi")
    assert settings.sidecar_memory_request == "64Mi"
    assert settings.prometheus_url == "https://prometheus.monitoring.svc:9090/prefix"
    assert settings.prometheus_labels == (("cluster", "prod"), ("region", "eu"))
    assert (settings.scrape_interval_seconds, settings.prometheus_timeout_seconds) == (30.0, 5.0)


def test_credentials_for_prometheus_are_mounted_where_the_operator_reads_them() -> None:
    """Each file that a variable names is a key of a Secret that is named, and nothing else is mounted there."""
    basic = {"name": "login", "usernameKey": "user"}
    for values in (FULL, {"prometheus": {"url": "http://prometheus:9090", "basicAuthSecret": basic}}):
        manifests = render(values)
        spec = _pod_template(manifests)["spec"]
        (volume,) = (each for each in spec["volumes"] if each["name"] == "prometheus")
        (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "prometheus")
        paths = {item["path"] for each in volume["projected"]["sources"] for item in each["secret"]["items"]}
        files = {value for name, value in _environment(manifests).items() if name.endswith("_FILE")}

        assert files == {f"{mount['mountPath']}/{path}" for path in paths}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="an upgrade alone"),
        pytest.param({"prometheus": {"url": PROMETHEUS}}, id="an address"),
        pytest.param({"prometheus": {"url": PROMETHEUS, "bearerTokenSecret": {"name": "a"}}}, id="a token"),
        pytest.param({"prometheus": {"url": PROMETHEUS, "basicAuthSecret": {"name": "a"}}}, id="a password"),
        pytest.param({"prometheus": {"url": PROMETHEUS, "caSecret": {"name": "a"}}}, id="an authority"),
        pytest.param({"prometheus": {"url": PROMETHEUS}, "metrics": {"podMonitor": {"enabled": True}}}, id="monitors"),
    ],
)
def test_values_of_the_release_before_may_be_reused(values: Manifest, tmp_path: Path) -> None:
    """A value that they lack is what this release's values.yaml says."""
    reused = tmp_path / "flotilla"
    shutil.copytree(CHART, reused)
    shutil.copy(FROZEN_VALUES, reused / "values.yaml")

    before, now = render(values, reused), render(values)

    assert _metrics_settings(before) == _metrics_settings(now)
    assert _pod_template(before)["spec"]["volumes"] == _pod_template(now)["spec"]["volumes"]


def _metrics_settings(manifests: list[Manifest]) -> Manifest:
    settings = load_settings(_environment(manifests)).model_dump()
    return {name: value for name, value in settings.items() if name.startswith(("prometheus_", "scrape_"))}


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("500ms", 1.0), ("10s", 10.0), ("15s", 15.0), ("30s", 30.0), ("1m", 60.0)],
)
def test_the_operator_expects_samples_as_often_as_the_monitors_take_them(interval: str, seconds: float) -> None:
    """Rates over three scrapes of 15 s are unknown where pods are scraped each 30."""
    monitor = {"enabled": True, "interval": interval}

    found = _metrics_settings(render({"prometheus": {"url": PROMETHEUS}, "metrics": {"podMonitor": monitor}}))

    assert found["scrape_interval_seconds"] == seconds


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"prometheus": {"url": PROMETHEUS}}, id="no monitor is made"),
        pytest.param({"metrics": {"podMonitor": {"enabled": True, "interval": "5m"}}}, id="Prometheus is not asked"),
    ],
)
def test_other_intervals_say_nothing(values: Manifest) -> None:
    """The operator then expects its default."""
    assert _metrics_settings(render(values))["scrape_interval_seconds"] == 15.0


def test_nothing_is_mounted_for_a_prometheus_that_asks_for_nothing(rendered: list[Manifest]) -> None:
    """Nor for none."""
    assert [each["name"] for each in _pod_template(rendered)["spec"]["volumes"]] == ["tmp"]


def test_ports_are_those_of_the_contract(rendered: list[Manifest]) -> None:
    """Routers dial the control Service, and its name is in the operator's certificate."""
    (container,) = _pod_template(rendered)["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "control": CONTROL_PORT,
        "webhook": WEBHOOK_PORT,
        "admin": OPERATOR_ADMIN_PORT,
    }

    services = {
        service["metadata"]["name"]: {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
        for service in _of_kind(rendered, "Service")
    }
    assert services == {
        _environment(rendered)["FLOTILLA_CONTROL_SERVICE"]: {"control": CONTROL_PORT, "webhook": WEBHOOK_PORT},
        "flotilla-metrics": {"admin": OPERATOR_ADMIN_PORT},
    }
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (values["sidecar"]["port"], values["sidecar"]["adminPort"]) == (SIDECAR_PORT, SIDECAR_ADMIN_PORT)


def _webhook(manifests: list[Manifest]) -> Manifest:
    (configuration,) = _of_kind(manifests, "MutatingWebhookConfiguration")
    (webhook,) = configuration["webhooks"]
    return webhook


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """As the API server decides."""
    return all(
        _holds(each["operator"], labels.get(each["key"]), each.get("values", ()))
        for each in selector["matchExpressions"]
    )


def _holds(operator: str, value: str | None, values: Sequence[str]) -> bool:
    found = {
        "Exists": value is not None,
        "DoesNotExist": value is None,
        "In": value in values,
        "NotIn": value not in values,
    }
    return found[operator]


def test_the_webhook_reaches_the_operator_and_blocks_nobody(rendered: list[Manifest]) -> None:
    """The operator answers before the API server gives up, and a pod is created whatever happens."""
    webhook = _webhook(rendered)

    service = webhook["clientConfig"]["service"]
    assert (service["name"], service["namespace"]) == ("flotilla-control", "flotilla-system")
    assert (service["port"], service["path"]) == (WEBHOOK_PORT, INJECT_PATH)
    assert "caBundle" not in webhook["clientConfig"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["timeoutSeconds"] > ANSWER_SECONDS


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        pytest.param({POLICY_LABEL: "support"}, True, id="an agent"),
        pytest.param({"app": "agent"}, False, id="any pod"),
        pytest.param({POLICY_LABEL: "support", KIND_LABEL: "RoutingPolicy"}, False, id="our own child"),
    ],
)
def test_only_agents_pods_pass_the_webhook(rendered: list[Manifest], labels: dict[str, str], asked: bool) -> None:
    """Every other pod of the cluster is created without it."""
    assert _selects(_webhook(rendered)["objectSelector"], labels) is asked


@pytest.mark.parametrize(
    ("values", "namespace", "asked"),
    [
        pytest.param({}, "agents", True, id="any namespace"),
        pytest.param({}, "kube-system", False, id="of Kubernetes itself"),
        pytest.param({}, "flotilla-system", False, id="the operator's own"),
        pytest.param({"watchNamespaces": ["agents"]}, "agents", True, id="one that is watched"),
        pytest.param({"watchNamespaces": ["agents"]}, "other", False, id="one that is not watched"),
        pytest.param({"watchNamespaces": ["flotilla-system"]}, "flotilla-system", False, id="the own, even if watched"),
    ],
)
def test_only_pods_of_served_namespaces_pass_the_webhook(values: Manifest, namespace: str, asked: bool) -> None:
    """The operator's own pods never wait for the operator."""
    selector = _webhook(render(values))["namespaceSelector"]

    assert _selects(selector, {"kubernetes.io/metadata.name": namespace}) is asked


def test_the_operator_may_write_no_other_webhook(rendered: list[Manifest]) -> None:
    """One by name, and not create or delete it: whoever may write webhooks may read every Secret that is created."""
    rules = [r for r in _rules(rendered, "ClusterRole") if "admissionregistration.k8s.io" in r["apiGroups"]]
    (configuration,) = _of_kind(rendered, "MutatingWebhookConfiguration")

    assert [(rule["resourceNames"], rule["verbs"]) for rule in rules] == [
        ([configuration["metadata"]["name"]], ["get", "patch"])
    ]
    assert _environment(rendered)["FLOTILLA_WEBHOOK_CONFIGURATION"] == configuration["metadata"]["name"]


def test_what_argo_cd_is_to_ignore_is_the_webhooks_bundle(rendered: list[Manifest]) -> None:
    """The README's snippet names the object that is installed."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    (ignored,) = yaml.safe_load(block)["spec"]["ignoreDifferences"]
    (configuration,) = _of_kind(rendered, "MutatingWebhookConfiguration")

    assert f"{ignored['group']}/v1" == configuration["apiVersion"]
    assert (ignored["kind"], ignored["name"]) == (configuration["kind"], configuration["metadata"]["name"])
    assert ignored["jqPathExpressions"] == [".webhooks[]?.clientConfig.caBundle"]


def test_without_the_webhook_nothing_of_it_is_left() -> None:
    """No listener, no port, no right: sidecars then come from `flotilla inject` alone."""
    manifests = render({"sidecar": {"enabled": False}})

    assert "webhook" not in yaml.safe_dump_all(
        [m for m in manifests if m["kind"] != "CustomResourceDefinition"]
    ).replace("flotilla.dev", "")
    assert load_settings(_environment(manifests)).webhook_configuration == ""


def test_prometheus_finds_the_sidecars() -> None:
    """By the label that asks for one, at the port that the sidecar names."""
    (monitor,) = [m for m in _of_kind(render(FULL), "PodMonitor") if m["metadata"]["name"] == "flotilla-sidecars"]

    assert _selects(monitor["spec"]["selector"], {POLICY_LABEL: "support"})
    assert not _selects(monitor["spec"]["selector"], {"app": "agent"})
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == [ADMIN_PORT_NAME]


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"repository": "a/b"}, "a/b:0.1.0"),
        ({"repository": "a/b", "tag": "2"}, "a/b:2"),
        ({"repository": "a/b", "tag": "2", "digest": DIGEST}, f"a/b@{DIGEST}"),
    ],
    ids=["release", "tag", "digest"],
)
def test_images_are_pinned_by_digest_tag_or_release(image: dict[str, str], reference: str) -> None:
    """The most exact of what is given wins."""
    manifests = render({"images": {"operator": image, "router": image}})

    (container,) = _pod_template(manifests)["spec"]["containers"]
    assert container["image"] == reference
    assert _environment(manifests)["FLOTILLA_ROUTER_IMAGE"] == reference


def test_disruption_budget_never_blocks_a_single_replica() -> None:
    """With one replica a budget of one would block every node drain."""
    assert len(_of_kind(render(), "PodDisruptionBudget")) == 1
    assert _of_kind(render({"operator": {"replicas": 1}}), "PodDisruptionBudget") == []


def test_roles_hold_no_wildcard_and_no_way_to_more_rights(rendered: list[Manifest]) -> None:
    """Every right is named, and none lets the operator give itself another."""
    for kind in ("ClusterRole", "Role"):
        for group, resource, verb in _grants(_rules(rendered, kind)):
            assert "*" not in (group, resource, verb)
            assert verb not in {"escalate", "bind", "impersonate", "deletecollection"}


def test_secrets_are_out_of_reach_but_for_its_own(rendered: list[Manifest]) -> None:
    """It may read one Secret by name, in its own namespace."""
    assert [grant for grant in _grants(_rules(rendered, "ClusterRole")) if grant[1].startswith("secrets")] == []

    rules = [rule for rule in _rules(rendered, "Role") if "secrets" in rule["resources"]]
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in rules] == [
        (None, ["create"]),
        ([SECRET_NAME], ["get", "update"]),
    ]


def test_lease_is_the_one_that_the_operator_uses(rendered: list[Manifest]) -> None:
    """Other Leases of the namespace are not its own."""
    (rule,) = [r for r in _rules(rendered, "Role") if "leases" in r["resources"] and "resourceNames" in r]

    assert rule["resourceNames"] == [Settings.model_fields["lease_name"].default]


def test_rights_over_workloads_are_what_the_operator_writes(rendered: list[Manifest]) -> None:
    """Writes go to exactly the kinds of children, a Deployment's number, and marks of pods that go first or sleep."""
    children = {
        (child.api_version.rpartition("/")[0], child.plural) for kinds in CHILD_KINDS.values() for child in kinds
    }
    workloads = (r for r in _rules(rendered, "ClusterRole") if "admissionregistration.k8s.io" not in r["apiGroups"])
    grants = _grants(workloads)

    assert {(group, resource) for group, resource, verb in grants if verb == "delete"} == children
    patched = {(group, resource) for group, resource, verb in grants if verb == "patch"}
    assert {each for each in patched if "/" not in each[1]} == children | {("", "pods")}
    assert {resource for _, resource in patched if "/" in resource} == {
        *(f"{kind.plural}/status" for kind in KINDS if kind.name in OWNER_KINDS),
        "deployments/scale",
    }


def test_watching_some_namespaces_binds_rights_there_only() -> None:
    """No right over workloads is cluster-wide then."""
    manifests = render(FULL)
    cluster_wide = [binding["roleRef"]["name"] for binding in _of_kind(manifests, "ClusterRoleBinding")]
    bound = {
        (binding["metadata"]["namespace"], binding["roleRef"]["name"]) for binding in _of_kind(manifests, "RoleBinding")
    }

    assert cluster_wide == ["flotilla-operator"]
    assert bound >= {("agents", "flotilla-operator-workloads"), ("lab", "flotilla-operator-workloads")}
