"""Which pod templates get a sidecar, from what, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from flotilla_api.names import KIND_LABEL, POLICY_LABEL, SIDECAR_CONTAINER
from flotilla_cli.chart import make_settings
from flotilla_cli.documents import is_list, is_mapping, parse, split
from flotilla_cli.injection import Outcome, Source, Wishes, inject

SETTINGS = make_settings({})
AGENT = f"""\
kind: Pod
apiVersion: v1
metadata:
  name: agent
  namespace: agents
  labels: {{{POLICY_LABEL}: billing}}
spec:
  containers:
    - name: agent
"""
POLICY = """\
kind: RoutingPolicy
apiVersion: flotilla.dev/v1alpha1
metadata: {name: billing, namespace: agents}
spec:
  experts: [{name: invoice}]
  auth: {anonymous: true}
"""
UNKNOWN = (
    "f: RoutingPolicy agents/billing is not among the files, so what it says of sidecars is not known; "
    "give its file with -f as well"
)


def run(*texts: str, namespace: str = "default", policy: str | None = None) -> Outcome:
    sources = [Source("f", text) for text in texts]
    return inject(sources, Wishes(SETTINGS, namespace, policy))


def sidecars(value: Any) -> list[dict[str, Any]]:
    """Every injected container, at any depth."""
    if is_mapping(value) and value.get("name") == SIDECAR_CONTAINER:
        return [value]
    children = list(value.values()) if is_mapping(value) else value if is_list(value) else []
    return [found for child in children for found in sidecars(child)]


def injected(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.errors == ()
    return [found for text in outcome.texts for document in split(text) for found in sidecars(parse(document))]


def variables(sidecar: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value") for each in sidecar["env"]}


@pytest.mark.parametrize("order", [(AGENT, POLICY), (POLICY, AGENT)])
def test_the_policy_may_stand_in_any_file(order: tuple[str, str]) -> None:
    """Before or after the workload, and then nothing is left to say."""
    policy = "  placement: {sidecar: {image: 'router:9'}}\n"

    outcome = run(*(text + policy if text is POLICY else text for text in order))

    assert [each["image"] for each in injected(outcome)] == ["router:9"]
    assert outcome.warnings == ()
    assert outcome.texts[order.index(POLICY)] == POLICY + policy


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(None, id="none at all"),
        pytest.param(POLICY.replace("namespace: agents", "namespace: others"), id="one of another namespace"),
        pytest.param(POLICY.replace("flotilla.dev/v1alpha1", "example.com/v1"), id="one of somebody else's"),
    ],
)
def test_a_policy_that_is_not_given_is_taken_with_its_defaults(policy: str | None) -> None:
    """And that is said once, however many workloads name it."""
    outcome = run(AGENT, AGENT, *([policy] if policy else []))

    assert [each["image"] for each in injected(outcome)] == [SETTINGS.router_image] * 2
    assert outcome.warnings == (UNKNOWN,)


def test_objects_without_a_namespace_are_of_the_one_that_is_said() -> None:
    """Workloads and policies alike, those of a List too."""
    agent, policy = (text.replace("namespace: agents", "generation: 1") for text in (AGENT, POLICY))
    items = "".join("  " + line + "\n" for line in agent.splitlines())
    listed = "kind: PodList\napiVersion: v1\nitems:\n-" + items[1:]

    outcome = run(listed, policy, namespace="lab")

    assert [variables(each)["FLOTILLA_NAMESPACE"] for each in injected(outcome)] == ["lab"]
    assert outcome.warnings == ()


def test_a_policy_that_forbids_sidecars_leaves_workloads_as_they_are() -> None:
    """With a warning: the label is there for nothing."""
    policy = POLICY + "  placement: {sidecar: {enabled: false}}\n"

    outcome = run(AGENT, policy)

    assert outcome.texts == (AGENT, policy)
    assert outcome.warnings == (
        "f: Pod agents/agent: policy billing has placement.sidecar.enabled: false, so no sidecar",
    )


def test_a_policy_for_all_labels_those_without() -> None:
    """Workloads of whatever kind, but not the operator's own children."""
    bare = AGENT.replace(f"  labels: {{{POLICY_LABEL}: billing}}\n", "")
    child = AGENT.replace(f"{POLICY_LABEL}: billing", f"{KIND_LABEL}: Expert")

    outcome = run(bare, child, AGENT, policy="billing")

    assert len(injected(outcome)) == 2
    assert parse(split(outcome.texts[0])[0])["metadata"]["labels"] == {POLICY_LABEL: "billing"}
    assert outcome.texts[1] == child
    assert run(*outcome.texts, policy="billing").texts == outcome.texts


def test_every_template_of_an_object_is_found() -> None:
    """Workloads of other groups may have several, at any depth, and name no container where none asks."""
    template = f"""\
      metadata: {{labels: {{{POLICY_LABEL}: billing}}}}
      spec: {{containers: [{{name: agent}}]}}
"""
    text = f"""\
kind: RayCluster
apiVersion: ray.io/v1
metadata: {{name: ray, namespace: agents}}
spec:
  headGroupSpec:
    template:
{template}\
  workerGroupSpecs:
  - podTemplate:
{template}\
  - template:
      spec: {{containers: [{{image: unnamed}}]}}
"""
    outcome = run(text)

    assert len(injected(outcome)) == 2
    assert outcome.injected == ("f: RayCluster agents/ray would get the sidecar of policy billing",) * 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(
            AGENT + "  hostNetwork: true\n",
            "Pod agents/agent cannot have a sidecar: it uses the host's network",
            id="refused",
        ),
        pytest.param(
            AGENT + "  initContainers: [{name: flotilla-router}]\n",
            "Pod agents/agent cannot have a sidecar: it has a container called flotilla-router of its own: rename that",
            id="a container of its own under the sidecar's name",
        ),
        pytest.param(
            AGENT + "  volumes: [{name: flotilla-tokens, emptyDir: {}}]\n",
            "Pod agents/agent cannot have a sidecar: it has a volume called flotilla-tokens of its own: rename that",
            id="a volume of its own under a name of the sidecar's",
        ),
        pytest.param(
            AGENT.replace("- name: agent", "- image: agent"),
            "Pod agents/agent: spec.containers.0.name: Field required",
            id="a container without a name",
        ),
        pytest.param(
            AGENT.replace(": billing", ": 42"), "Pod agents/agent: metadata.labels", id="a label that is no text"
        ),
        pytest.param(AGENT + "  volumes: {}\n", "Pod agents/agent: spec.volumes", id="no list"),
        pytest.param(AGENT + " x\n", "line 10: ", id="no YAML"),
        pytest.param(
            AGENT.replace("- name: agent", "- &a {name: agent}\n    - *a"),
            "Pod agents/agent: spec.containers.1 is written elsewhere (an alias or a merge key); write it out",
            id="an alias",
        ),
        pytest.param(
            AGENT.replace("containers:", "x: &c\n    - name: b\n  containers: *c\n  y:"),
            "Pod agents/agent: spec.containers is written elsewhere",
            id="a list that is an alias",
        ),
        pytest.param(
            AGENT.replace("    - name: agent", "    - name: agent\n      env: &e [{name: A}]\n  x: *e"),
            "Pod agents/agent: the document cannot be added to in place; write out its aliases",
            id="an anchor that others use",
        ),
        pytest.param(
            AGENT.replace("containers:\n    ", "? containers\n  : "),
            "Pod agents/agent: the document cannot be added to in place",
            id="an explicit key",
        ),
        pytest.param(
            AGENT.replace("labels: {", "labels: {}\n  annotations: &x # c\n    {a: b}\n  labels: {"),
            "Pod agents/agent: a comment stands between an anchor or tag and what it belongs to; write it out",
            id="an anchor apart",
        ),
        pytest.param(
            AGENT.replace("spec:", "x: &x {containers: [{name: agent}]}\nspec: *x\ny:"),
            "Pod agents/agent: spec is written elsewhere",
            id="a spec that is an alias",
        ),
        pytest.param(
            AGENT + "      args:\n        - |\n          echo",
            "and end it with a line end",
            id="a text that ends where the file does",
        ),
        pytest.param(POLICY.replace("experts", "expert") + AGENT, "RoutingPolicy agents/billing: spec.", id="a policy"),
    ],
)
def test_what_cannot_be_done_names_the_object_and_leaves_its_text(text: str, error: str) -> None:
    """Nothing is half done."""
    text = text.replace("kind: Pod", "---\nkind: Pod") if "RoutingPolicy" in text else text

    outcome = run(text)

    assert outcome.texts == (text,)
    assert outcome.injected == ()
    (message,) = outcome.errors
    assert error in message
    assert message.startswith("f: ")


def test_another_policys_label_is_no_place_for_this_ones() -> None:
    """Whoever asks for both has to say which."""
    outcome = run(AGENT, policy="support")

    assert outcome.errors == (
        f"f: Pod agents/agent: the label {POLICY_LABEL} names 'billing'; remove it, or leave out --policy",
    )


def test_merge_keys_are_no_obstacle() -> None:
    """A key that is merged in is written out where it changes, and the rest stays merged."""
    text = f"""\
kind: Pod
apiVersion: v1
x: &base {{name: base, env: [{{name: A, value: b}}], image: i}}
metadata: {{name: agent, namespace: agents, labels: {{{POLICY_LABEL}: billing}}}}
spec:
  containers:
    - <<: *base
      name: agent
"""
    outcome = run(text)

    assert outcome.errors == ()
    (container,) = parse(split(outcome.texts[0])[0])["spec"]["containers"]
    assert [each["name"] for each in container["env"]] == ["OPENAI_BASE_URL", "OPENAI_API_KEY", "A"]
    assert "    - <<: *base\n      name: agent\n      env:\n" in outcome.texts[0]


def test_values_that_win_are_warned_of() -> None:
    """As the webhook does."""
    text = AGENT + "      env: [{name: OPENAI_BASE_URL, value: 'http://elsewhere'}]\n"

    outcome = run(text, POLICY)

    assert outcome.warnings == (
        "f: Pod agents/agent: container agent sets OPENAI_BASE_URL itself, which stays: "
        "calls that go there do not pass the sidecar",
    )


def test_a_label_on_the_workload_itself_is_warned_of() -> None:
    """It is the pods that are asked."""
    text = f"""\
kind: Deployment
metadata: {{name: agent, labels: {{{POLICY_LABEL}: billing}}}}
spec: {{template: {{spec: {{containers: [{{name: agent}}]}}}}}}
"""
    outcome = run(text)

    assert outcome.texts == (text,)
    assert outcome.warnings == (
        f"there is no pod template with the label {POLICY_LABEL}, so nothing gets a sidecar",
        f"f: Deployment default/agent: the label {POLICY_LABEL} is the object's own; its pod template needs it",
    )


def test_an_injected_workload_is_left_alone() -> None:
    """Also where the settings have changed since: its sidecar is there."""
    (text,) = run(AGENT).texts

    later = inject([Source("f", text)], Wishes(make_settings({"images": {"router": {"tag": "9"}}})))

    assert later.texts == (text,)
    assert later.injected == ()
    assert later.warnings == (UNKNOWN,)


def test_secrets_for_images_join_only_those_that_a_template_names() -> None:
    """Kubernetes gives a pod its ServiceAccount's only where it names none of its own."""
    wishes = Wishes(make_settings({"router": {"pullSecrets": ["ours"]}}), "agents")

    none = inject([Source("f", AGENT)], wishes)
    some = inject([Source("f", AGENT + "  imagePullSecrets: [{name: own}]\n")], wishes)

    assert "imagePullSecrets" not in none.texts[0]
    assert any("add them to the pod's ServiceAccount" in warning for warning in none.warnings)
    assert [each["name"] for each in yaml.safe_load(some.texts[0])["spec"]["imagePullSecrets"]] == ["ours", "own"]
    assert not any("ServiceAccount" in warning for warning in some.warnings)
