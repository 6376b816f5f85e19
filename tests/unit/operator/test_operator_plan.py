"""From a difference to writes with reasons; and the laws that keep an operator quiet at rest."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    SETTINGS,
    a_fallback,
    a_policy,
    a_profile,
    a_served_fallback,
    an_expert,
    as_stored,
    carried_out,
    deployment_of,
    ending,
    observe,
    of_kind,
    with_status,
)
from flotilla_api.conditions import Reason
from flotilla_api.names import DESIRED_HASH_ANNOTATION
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.plan import conflicts, plan
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed, Plan


def planned(observed: Observed) -> Plan:
    return plan(dispatch.desired(observed), observed)


def in_words(observed: Observed) -> list[str]:
    return [f"{step.verb} {step.manifest['kind']}: {step.reason}" for step in planned(observed).steps]


def edited(observed: Observed, kind: str, change: dict[str, Any]) -> Observed:
    """The cluster after somebody patched a child: `{"spec.replicas": 5}`."""

    def edit(child: Manifest) -> Manifest:
        child = copy.deepcopy(child)
        for path, value in change.items():
            *parents, last = path.split(".")
            node: Any = child
            for parent in parents:
                node = node[int(parent)] if parent.isdecimal() else node[parent]
            if isinstance(node, list):
                cast("list[Any]", node).insert(int(last), value)
            else:
                node[last] = value
        return child

    return replace(observed, children=tuple(edit(c) if c["kind"] == kind else c for c in observed.children))


CONTAINER = "spec.template.spec.containers.0"


def test_everything_is_created_in_the_order_in_which_it_is_needed() -> None:
    """A pod's account exists before its Deployment, and the stored template before the first pod runs it."""
    assert in_words(observe(an_expert(), a_profile())) == [
        "create ServiceAccount: new",
        "create ControllerRevision: new",
        "create Service: new",
        "create Deployment: new",
        "create PodDisruptionBudget: new",
    ]


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        pytest.param(
            "Deployment",
            {"spec.replicas": 5},
            ["apply Deployment: edited by hand: spec.replicas: 5 -> 1"],
            id="kubectl scale on the Deployment is taken back",
        ),
        pytest.param(
            "Deployment",
            {f"{CONTAINER}.image": "evil:1"},
            [
                "apply Deployment: edited by hand: "
                "spec.template.spec.containers.engine.image: evil:1 -> vllm/vllm-openai:v0.32.0"
            ],
            id="another image is taken back",
        ),
        pytest.param(
            "Deployment",
            {f"{CONTAINER}.args": ["/models/x"]},
            [
                "apply Deployment: edited by hand: spec.template.spec.containers.engine.args: "
                "['/models/x'] -> ['/models/Qwen/Qwen2.5-1.5B-Instruct', '--served-model-na..."
            ],
            id="other arguments are taken back",
        ),
        pytest.param(
            "ServiceAccount",
            {"automountServiceAccountToken": None},
            ["apply ServiceAccount: edited by hand: automountServiceAccountToken: nothing -> False"],
            id="a removed false is not the same as false",
        ),
        pytest.param(
            "Service",
            {"metadata.labels": {}},
            [
                "apply Service: edited by hand: metadata.labels.app.kubernetes.io/managed-by: nothing -> flotilla; "
                "metadata.labels.app.kubernetes.io/name: nothing -> flotilla; "
                "metadata.labels.app.kubernetes.io/instance: nothing -> invoice; 3 more"
            ],
            id="lost labels come back, and a long list is cut",
        ),
        pytest.param(
            "Service",
            {"spec.selector.app": "mine"},
            ["apply Service: edited by hand: spec.selector.app: mine -> nothing"],
            id="a key added to a selector would leave the Service without pods",
        ),
        pytest.param(
            "PodDisruptionBudget",
            {"metadata.annotations": {}},
            ["apply PodDisruptionBudget: applied by nobody yet"],
            id="without the annotation nobody knows what was applied",
        ),
        pytest.param(
            "Deployment",
            {
                "spec.template.metadata.annotations.restartedAt": "now",
                f"{CONTAINER}.terminationMessagePath": "/dev/other",
                "metadata.labels.argocd": "x",
                "spec.paused": False,
            },
            [],
            id="fields that are not ours are left alone",
        ),
        pytest.param(
            "Deployment",
            {f"{CONTAINER}.volumeMounts.3.name": "tmp"},
            [
                "apply Deployment: edited by hand: "
                "spec.template.spec.containers.engine.volumeMounts./dev/shm.name: tmp -> shm"
            ],
            id="mounts are compared by their path",
        ),
    ],
)
def test_a_child_edited_by_hand_is_repaired(kind: str, change: dict[str, Any], expected: list[str]) -> None:
    """What we set is set again; what others add is theirs."""
    observed = carried_out(observe(an_expert(), a_profile()))

    assert in_words(edited(observed, kind, change)) == expected


PODS = "spec.template.spec"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"spec.paused": True}, "spec.paused: True -> nothing", id="kubectl rollout pause"),
        pytest.param(
            {f"{CONTAINER}.ports.1": {"name": "debug", "containerPort": 5678, "protocol": "TCP"}},
            f"{PODS}.containers.engine.ports.5678/TCP: added -> nothing",
            id="another port",
        ),
        pytest.param(
            {f"{PODS}.containers.1": {"name": "spy", "image": "spy:1"}},
            f"{PODS}.containers.spy: added -> nothing",
            id="another container",
        ),
        pytest.param(
            {f"{PODS}.volumes.4": {"name": "host", "hostPath": {"path": "/"}}},
            f"{PODS}.volumes.host: added -> nothing",
            id="another volume",
        ),
        pytest.param(
            {f"{CONTAINER}.envFrom": [{"secretRef": {"name": "s"}}]},
            f"{PODS}.containers.engine.envFrom: [{{'secretRef': {{'name': 's'}}}}] -> nothing",
            id="a list that we do not set",
        ),
        pytest.param(
            {f"{CONTAINER}.resources.limits.memory": "1Gi"},
            f"{PODS}.containers.engine.resources.limits.memory: 1Gi -> nothing",
            id="a limit",
        ),
        pytest.param(
            {f"{CONTAINER}.resources.requests": {"cpu": "64"}},
            f"{PODS}.containers.engine.resources.requests: {{'cpu': '64'}} -> nothing",
            id="requests",
        ),
        pytest.param(
            {f"{PODS}.affinity": {"nodeAffinity": {"x": "y"}}},
            f"{PODS}.affinity: {{'nodeAffinity': {{'x': 'y'}}}} -> nothing",
            id="an affinity",
        ),
        pytest.param({f"{PODS}.hostNetwork": True}, f"{PODS}.hostNetwork: True -> nothing", id="the node's network"),
        pytest.param(
            {f"{CONTAINER}.securityContext.privileged": True},
            f"{PODS}.containers.engine.securityContext.privileged: True -> nothing",
            id="privileges",
        ),
        pytest.param(
            {f"{PODS}.imagePullSecrets": [{"name": "s"}]},
            f"{PODS}.imagePullSecrets: [{{'name': 's'}}] -> nothing",
            id="a list of the pod that we do not set",
        ),
    ],
)
def test_what_somebody_added_to_a_pod_template_is_removed(change: dict[str, Any], expected: str) -> None:
    """An apply would leave it there, so a patch removes it; the next look finds nothing to do."""
    observed = carried_out(observe(an_expert(), a_profile()))
    touched = edited(observed, "Deployment", change)

    assert in_words(touched) == [f"prune Deployment: edited by hand: {expected}"]
    assert planned(carried_out(touched)) == Plan()
    assert deployment_of(carried_out(touched).children) == deployment_of(observed.children)


def test_a_node_selector_of_somebody_is_removed() -> None:
    """Where the profile has none, an apply would leave it."""
    anywhere = a_profile(nodeSelector={})
    observed = carried_out(observe(an_expert(), anywhere))
    touched = edited(observed, "Deployment", {f"{PODS}.nodeSelector": {"disk": "ssd"}})

    assert in_words(touched) == [f"prune Deployment: edited by hand: {PODS}.nodeSelector: {{'disk': 'ssd'}} -> nothing"]
    assert planned(carried_out(touched)) == Plan()


def test_an_affinity_of_somebody_goes_and_ours_stays() -> None:
    """Also where they share a map."""
    ours = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}
    observed = carried_out(observe(an_expert(podOverrides={"affinity": ours}), a_profile()))
    touched = edited(observed, "Deployment", {f"{PODS}.affinity.podAntiAffinity": {"x": [1]}})

    assert in_words(touched) == [
        f"prune Deployment: edited by hand: {PODS}.affinity.podAntiAffinity: {{'x': [1]}} -> nothing"
    ]
    assert deployment_of(carried_out(touched).children) == deployment_of(observed.children)


def test_a_variable_added_to_an_engine_goes_and_ours_stay() -> None:
    """Only what was added is removed, also a reference that somebody put beside our value."""
    observed = carried_out(observe(an_expert(engine={"env": [{"name": "MINE", "value": "1"}]}), a_profile()))
    env = deployment_of(observed.children)["spec"]["template"]["spec"]["containers"][0]["env"]
    reference = {"fieldRef": {"fieldPath": "status.podIP"}}
    mixed = [{**each, "valueFrom": reference} if each["name"] == "MINE" else each for each in env]
    touched = edited(observed, "Deployment", {f"{CONTAINER}.env": [*mixed, {"name": "DEBUG", "value": "1"}]})

    (step,) = planned(touched).steps

    assert step.reason.startswith(f"edited by hand: {PODS}.containers.engine.env.DEBUG: added -> nothing; ")
    assert deployment_of(carried_out(touched).children) == deployment_of(observed.children)


def test_a_service_port_that_was_moved_by_hand_comes_back() -> None:
    """An apply alone would add ours beside the other of the same name, which the API server refuses."""
    observed = carried_out(observe(an_expert(), a_profile()))
    touched = edited(observed, "Service", {"spec.ports.0.port": 81})

    assert in_words(touched)[0] == "prune Service: edited by hand: spec.ports.81/TCP: added -> nothing"
    assert planned(carried_out(touched)) == Plan()


def test_a_patch_that_removes_is_for_the_version_that_was_seen() -> None:
    """A list is replaced as a whole, so another writer's change in between must not be lost."""
    observed = carried_out(observe(an_expert(), a_profile()))

    (step,) = planned(edited(observed, "Deployment", {"spec.paused": True})).steps

    metadata = deployment_of(observed.children)["metadata"]
    assert step.manifest["spec"] == {"paused": None}
    assert step.manifest["metadata"] == {
        name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion")
    }


def test_a_child_deleted_by_hand_comes_back() -> None:
    """The reason tells a repair from a first creation."""
    expert = with_status(an_expert(), {"observedGeneration": 1})
    observed = carried_out(observe(expert, a_profile()))
    without = tuple(child for child in observed.children if child["kind"] != "Service")

    assert in_words(replace(observed, children=without)) == ["create Service: deleted by hand"]


def test_a_change_of_the_spec_says_what_changes() -> None:
    """The reason of an apply is what a person would ask for."""
    observed = carried_out(observe(an_expert(), a_profile()))
    more = observe(an_expert(generation=2, replicas=3), a_profile(), children=observed.children)

    assert in_words(more) == ["apply Deployment: spec.replicas: 1 -> 3"]


def test_a_field_that_is_not_wanted_any_more_is_removed() -> None:
    """Only the annotated hash shows that something we once set must go."""
    labelled = observe(an_expert(podOverrides={"labels": {"team": "x"}}), a_profile())
    observed = carried_out(labelled)
    deployment = deployment_of(dispatch.desired(labelled))
    del deployment["spec"]["template"]["metadata"]["labels"]["team"]

    (step,) = [each for each in plan([deployment], observed).steps if each.verb == "apply"]

    assert step.reason == "a field is no longer wanted"


def test_an_apply_names_the_object_that_was_seen() -> None:
    """The uid lets the API server refuse a write onto an object that took the name since."""
    observed = carried_out(observe(an_expert(), a_profile()))

    (step,) = planned(edited(observed, "Deployment", {"spec.replicas": 9})).steps

    assert step.uid == deployment_of(observed.children)["metadata"]["uid"]
    assert DESIRED_HASH_ANNOTATION in step.manifest["metadata"]["annotations"]


def test_what_is_not_wanted_any_more_is_deleted() -> None:
    """A Fallback that moves behind an API leaves no engine behind."""
    served = carried_out(observe(a_served_fallback("big"), a_profile()))
    external = observe(a_fallback("big", generation=2), children=served.children)

    assert {(step.verb, step.manifest["kind"]) for step in planned(external).steps} == {
        ("delete", kind.kind) for kind in dispatch.CHILD_KINDS["Fallback"]
    }


def test_a_child_that_is_ending_is_left_until_it_is_gone() -> None:
    """Writing to it would be lost, and deleting it again is noise."""
    observed = carried_out(observe(an_expert(), a_profile()))
    gone = replace(observed, children=tuple(ending(child) for child in observed.children))

    assert planned(gone) == Plan()
    assert plan([], gone) == Plan()


def test_a_stranger_is_never_touched_and_is_told_of() -> None:
    """An object of somebody else under a child's name is a conflict, not ours to take."""
    observed = observe(
        an_expert(), a_profile(), strangers=frozenset({ObjectRef("Service", "agents", "invoice-expert")})
    )

    (conflict,) = conflicts(dispatch.desired(observed), observed)

    assert conflict.reason is Reason.CONFLICT
    assert conflict.message == (
        "Service agents/invoice-expert exists and is not controlled by Expert agents/invoice: "
        "rename or delete one of them"
    )
    assert "Service" not in [step.manifest["kind"] for step in planned(observed).steps]
    assert conflicts(dispatch.desired(observed), replace(observed, strangers=frozenset())) == ()


def test_an_owner_that_does_not_parse_keeps_its_children() -> None:
    """A schema that moved on under a stored object stops nothing that runs."""
    running = carried_out(observe(an_expert(), a_profile()))
    broken = observe(an_expert(generation=2, replicas="many"), a_profile(), children=running.children)

    assert planned(broken) == Plan()


def test_without_its_profile_nothing_is_created_and_nothing_is_lost() -> None:
    """Order of arrival does not matter: the profile may come last, or vanish while engines run."""
    assert planned(observe(an_expert())) == Plan()

    running = carried_out(observe(an_expert(), a_profile()))

    assert planned(observe(an_expert(generation=2, replicas=4), children=running.children)) == Plan()


Specs = st.SearchStrategy[dict[str, Any]]
TEXTS = st.text(alphabet="abc-/=", max_size=6)
NAMES = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
LABELS = st.dictionaries(NAMES, TEXTS, max_size=2)
QUANTITIES = st.sampled_from(["1024Mi", "1Gi", "0.5", "500m", "1500m", "2", "1e3", "1048576Ki"])


def some(**fields: st.SearchStrategy[Any]) -> Specs:
    """Objects with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def named(name: str) -> dict[str, str]:
    return {"name": name}


def a_variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


def a_toleration(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value}


def a_placement(replicas: int) -> dict[str, Any]:
    return {"gateway": {"replicas": replicas}}


def name_of(entry: dict[str, str]) -> str:
    return entry["name"]


OVERRIDES = some(
    labels=LABELS,
    annotations=LABELS,
    nodeSelector=LABELS,
    tolerations=st.lists(st.builds(a_toleration, NAMES, TEXTS), max_size=2),
    affinity=st.sampled_from([{}, {"nodeAffinity": {}}]),
    resources=some(requests=st.dictionaries(st.sampled_from(["cpu", "memory"]), QUANTITIES, max_size=2)),
)
SERVED = some(
    replicas=st.integers(0, 5),
    engine=some(
        args=st.lists(TEXTS, max_size=3),
        env=st.lists(st.builds(a_variable, NAMES, TEXTS), max_size=3, unique_by=name_of),
        maxModelLen=st.integers(1, 9999),
    ),
    rollout=st.sampled_from([{"maxSurge": 0}, {"maxSurge": 2, "maxUnavailable": 0}]),
    drain=st.sampled_from([{"timeout": "0s"}, {"timeout": "1500ms"}]),
    podOverrides=OVERRIDES,
)
POLICIES = some(
    experts=st.lists(st.builds(named, NAMES), max_size=4, unique_by=name_of),
    models=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    placement=st.builds(a_placement, st.integers(1, 4)),
    tls=st.just({"secretRef": {"name": "tls"}}),
    auth=st.just({"apiKeysSecretRef": {"name": "keys"}}),
)


def expert_of(spec: dict[str, Any]) -> Manifest:
    return an_expert(**spec)


def fallback_of(spec: dict[str, Any]) -> Manifest:
    return a_served_fallback(**spec)


def policy_of(spec: dict[str, Any]) -> Manifest:
    return a_policy(**spec)


OWNERS = st.one_of(st.builds(expert_of, SERVED), st.builds(fallback_of, SERVED), st.builds(policy_of, POLICIES))


@given(OWNERS)
def test_planning_over_its_own_result_is_empty(owner: Manifest) -> None:
    """Whatever the server makes of our manifests, the next look finds nothing to do: no write at rest."""
    observed = observe(owner, a_profile(), a_fallback(credentialsSecretRef={"name": "big", "key": "k"}))

    assert planned(carried_out(observed)) == Plan()


@given(OWNERS, OWNERS)
def test_any_change_is_carried_out_in_one_plan(before: Manifest, after: Manifest) -> None:
    """One reconciliation is enough, from any earlier spec of the same owner to any later one."""
    if before["kind"] == after["kind"]:
        running = carried_out(observe(before, a_profile()))
        moved = replace(observe(after, a_profile()), children=running.children)

        assert planned(carried_out(moved)) == Plan()


@given(OWNERS, st.randoms())
def test_the_order_of_children_does_not_matter(owner: Manifest, random: Any) -> None:
    """The store may list children in any order."""
    observed = carried_out(observe(owner, a_profile()))
    shuffled = list(observed.children)
    random.shuffle(shuffled)
    moved = replace(observed, settings=replace(SETTINGS, router_image="flotilla-router:2"))

    assert planned(replace(moved, children=tuple(shuffled))) == planned(moved)


def test_an_operator_upgrade_restarts_no_engine() -> None:
    """Other defaults and another rendering leave the stored template as it is, down to the last byte."""
    old = replace(SETTINGS, engine_image="vllm/vllm-openai:v0.30.0", image_pull_policy="Always")
    running = carried_out(observe(an_expert(), a_profile(), settings=old))
    rendered_otherwise = edited(running, "ControllerRevision", {"data.spec.terminationGracePeriodSeconds": 33})

    upgraded = replace(rendered_otherwise, settings=SETTINGS)

    template = deployment_of(dispatch.desired(upgraded))["spec"]["template"]
    assert template == of_kind("ControllerRevision", rendered_otherwise.children)["data"]
    assert template["spec"]["containers"][0]["image"] == "vllm/vllm-openai:v0.30.0"
    assert planned(replace(running, settings=SETTINGS)) == Plan()


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        pytest.param({"replicas": 4}, False, id="replicas"),
        pytest.param({"cost": {"inputPerMillionUSD": "1", "outputPerMillionUSD": "1"}}, False, id="prices"),
        pytest.param({"capabilities": {"tools": True}}, False, id="capabilities that only routers read"),
        pytest.param({"rollout": {"maxSurge": 1}}, False, id="the way of rolling out"),
        pytest.param({"capabilities": {"apis": ["completions"]}}, True, id="the API that the probe calls"),
        pytest.param({"engine": {"args": ["--x"]}}, True, id="engine arguments"),
        pytest.param({"model": {"uri": "hf://other/model"}}, True, id="the model"),
        pytest.param({"drain": {"timeout": "5s"}}, True, id="the drain timeout"),
        pytest.param({"podOverrides": {"labels": {"a": "b"}}}, True, id="pod labels"),
    ],
)
def test_only_what_a_running_pod_cannot_take_over_restarts_it(change: Manifest, *, restarts: bool) -> None:
    """A change of routing or of money never costs a model load."""
    running = carried_out(observe(an_expert(), a_profile()))
    changed = observe(an_expert(generation=2, **change), a_profile(), children=running.children)

    before, after = deployment_of(running.children), deployment_of(dispatch.desired(changed))

    assert (as_stored(after)["spec"]["template"] != before["spec"]["template"]) is restarts


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        pytest.param({"hourlyUSD": "9.99"}, False, id="its price"),
        pytest.param({"memoryGiB": 80}, False, id="its memory, which only the fit check reads"),
        pytest.param({"runtimeClassName": "nvidia"}, True, id="its runtime class"),
        pytest.param({"nodeSelector": {"pool": "b"}}, True, id="its nodes"),
    ],
)
def test_a_profile_restarts_engines_only_where_it_must(change: Manifest, *, restarts: bool) -> None:
    """A new price of a GPU is no reason to load a model again."""
    running = carried_out(observe(an_expert(), a_profile()))
    changed = observe(an_expert(), a_profile(**change), children=running.children)

    assert bool(planned(changed).steps) is restarts
