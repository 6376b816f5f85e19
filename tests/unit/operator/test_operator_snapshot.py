"""The snapshot: what exists and answers, with every default resolved, the same whatever order things come in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    NAMESPACE,
    a_fallback,
    a_pod,
    a_policy,
    a_profile,
    a_ready_pod,
    a_served_fallback,
    a_starting_pod,
    a_waiting_pod,
    ago,
    an_expert,
    carried_out,
    ending,
    observe,
)
from flotilla_api.names import ASLEEP_ANNOTATION
from flotilla_api.snapshot import (
    ArtifactSource,
    ColdStartConfig,
    Endpoint,
    RequestLogConfig,
    RoutingSnapshot,
    StrategyConfig,
    Target,
    TimePrice,
    TokenPrice,
    TrialConfig,
)
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.gateway import snapshot_of
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed, PublishedSnapshot

INVOICE = ObjectRef("Expert", NAMESPACE, "invoice")
DIGEST = "sha256:" + 64 * "a"
FROM_MAP = {"configMapRef": {"name": "router"}, "digest": DIGEST}
PAIR = {"small": "invoice", "strong": "big"}
WIN_RATE = {"type": "WinRate", "artifact": FROM_MAP, "models": PAIR, "threshold": "0.42"}


def snapshot(observed: Observed) -> RoutingSnapshot:
    published = snapshot_of(dispatch.desired(observed))
    assert published is not None
    return RoutingSnapshot.model_validate_json(published.data)


def target(observed: Observed, name: str) -> Target:
    return next(each for each in snapshot(observed).targets if each.name == name)


def a_sleeping_pod() -> Manifest:
    pod = a_ready_pod(an_expert(), "b")
    pod["metadata"]["annotations"][ASLEEP_ANNOTATION] = "true"
    return pod


def a_stopped_pod() -> Manifest:
    """One that answered once, and does not now."""
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": ago(60)}]
    return a_pod(an_expert(), phase="Running", podIP="10.0.0.9", startTime=ago(600), conditions=conditions)


def test_a_router_can_read_what_the_operator_writes() -> None:
    """The ConfigMap holds the canonical bytes; other kinds have no snapshot."""
    observed = observe(a_policy(), a_profile(), an_expert(), a_fallback())
    published = snapshot_of(dispatch.desired(observed))

    assert published == PublishedSnapshot(snapshot(observed).to_json(), "2026-11-23T12:00:00.000000Z")
    assert snapshot_of(dispatch.desired(observe(an_expert(), a_profile()))) is None


def test_only_replicas_that_answer_are_endpoints() -> None:
    """A pod that starts or ends gets no requests; addresses are sorted and IPv6 is in brackets."""
    expert = an_expert()
    pods = (
        a_ready_pod(expert, "b", ip="fd00::1"),
        a_ready_pod(expert, "a", ip="10.0.0.1"),
        a_starting_pod(expert, "c"),
        ending(a_ready_pod(expert, "d", ip="10.0.0.4")),
    )
    observed = observe(a_policy(), expert, a_profile(), reference_pods={INVOICE: pods})

    assert target(observed, "invoice").endpoints == (
        Endpoint(address="10.0.0.1:8000", pod="invoice-a"),
        Endpoint(address="[fd00::1]:8000", pod="invoice-b"),
    )
    assert target(observed, "invoice").service == "invoice-expert.agents.svc:8000"


@pytest.mark.parametrize(
    ("spec", "wakes"),
    [
        pytest.param({}, False, id="without a scaler"),
        pytest.param({"replicas": 0}, False, id="stopped by a person"),
        pytest.param({"scaling": {"min": 0, "max": 4}}, True, id="the scaler may stop it"),
        pytest.param({"scaling": {"min": 0, "max": 4, "mode": "Apply"}}, True, id="and does what it says"),
        pytest.param({"scaling": {"min": 0, "max": 4, "mode": "Recommend"}}, False, id="the scaler only recommends"),
        pytest.param({"scaling": {"min": 0, "max": 4, "mode": "Off"}}, False, id="the scaler is off"),
        pytest.param({"scaling": {"max": 4}}, False, id="one always runs"),
        pytest.param({"scaling": {"min": 1, "max": 4}}, False, id="one always runs, as is said"),
        pytest.param(
            {
                "scaling": {
                    "min": 0,
                    "max": 4,
                    "schedules": [{"cron": "0 7 * * 1-5", "duration": "12h", "min": 1}],
                }
            },
            True,
            id="one runs in office hours",
        ),
    ],
)
def test_a_request_wakes_only_what_the_scaler_may_stop(spec: dict[str, Any], wakes: bool) -> None:
    """Whoever else stops an expert would not be asked to start it."""
    observed = observe(a_policy(), an_expert(**spec), a_profile())

    assert target(observed, "invoice").wakes is wakes


@pytest.mark.parametrize(
    ("pods", "wakes"),
    [
        pytest.param((), True, id="at zero"),
        pytest.param((a_starting_pod(an_expert()),), True, id="on its way"),
        pytest.param((a_waiting_pod(an_expert(), "ContainerCreating"),), True, id="before it starts"),
        pytest.param((a_sleeping_pod(),), True, id="asleep"),
        pytest.param((a_ready_pod(an_expert()),), True, id="it answers"),
        pytest.param((a_starting_pod(an_expert(), ended={"exitCode": 1}),), False, id="its engine crashed"),
        pytest.param(
            (a_waiting_pod(an_expert(), "CrashLoopBackOff", container="fetch", ended={"exitCode": 1}),),
            False,
            id="its download failed",
        ),
        pytest.param((a_stopped_pod(),), False, id="it does not answer any more"),
        pytest.param((ending(a_stopped_pod()),), True, id="that one is deleted"),
        pytest.param((a_sleeping_pod(), a_stopped_pod()), True, id="one failed and another sleeps"),
    ],
)
def test_an_expert_whose_replicas_fail_is_not_at_zero(pods: tuple[Manifest, ...], wakes: bool) -> None:
    """Then there is a fault to tell of, and nobody to wake."""
    expert = an_expert(scaling={"min": 0, "max": 4})
    observed = observe(a_policy(), expert, a_profile(), reference_pods={INVOICE: pods})

    assert target(observed, "invoice").wakes is wakes


def test_what_becomes_of_a_cold_start_has_its_documented_defaults() -> None:
    """A fallback bridges; who has to wait does so for five seconds."""
    observed = observe(a_policy(), an_expert(), a_profile())
    rejecting = observe(a_policy(coldStart={"mode": "Reject"}), an_expert(), a_profile())

    assert snapshot(observed).coldStart == ColdStartConfig(mode="Bridge", maxHoldSeconds=5)
    assert snapshot(rejecting).coldStart == ColdStartConfig(mode="Reject", maxHoldSeconds=5)


def routing(**spec: Any) -> RoutingSnapshot:
    """The snapshot of a policy with `spec`."""
    return snapshot(observe(a_policy(**spec), a_profile(), an_expert(), a_fallback()))


@pytest.mark.parametrize("spec", [{}, {"strategy": {"type": "Static"}}], ids=["none", "Static"])
def test_a_draw_by_weight_is_no_strategy_of_a_snapshot(spec: dict[str, Any]) -> None:
    """A router that learned nothing new reads nothing new."""
    found = routing(**spec)

    assert (found.strategy, found.shadow, found.canary, found.requestLog) == (None, None, None, None)
    assert b"strategy" not in found.to_json()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        pytest.param(
            WIN_RATE,
            StrategyConfig(type="WinRate", artifact=ArtifactSource(digest=DIGEST), models=PAIR, threshold=0.42),
            id="a ConfigMap, which the control API hands out",
        ),
        pytest.param(
            {
                "type": "QualityGap",
                "artifact": {"file": "/models/router.tar", "digest": DIGEST},
                "models": PAIR,
                "targetStrongRatio": "0.30",
                "header": {"min": "0.2", "max": "0.80"},
                "explore": {"ratio": "0.02"},
            },
            StrategyConfig(
                type="QualityGap",
                artifact=ArtifactSource(digest=DIGEST, file="/models/router.tar"),
                models=PAIR,
                targetStrongRatio=0.3,
                header=(0.2, 0.8),
                exploreRatio=0.02,
            ),
            id="a file",
        ),
        pytest.param(
            {
                "type": "Cluster",
                "artifact": {"oci": f"registry.example.com/r@{DIGEST}", "digest": DIGEST},
                "models": {"b": "big", "a": "gone"},
                "alpha": "0",
            },
            StrategyConfig(
                type="Cluster",
                artifact=ArtifactSource(digest=DIGEST, oci=f"registry.example.com/r@{DIGEST}"),
                models={"a": "gone", "b": "big"},
                alpha=0,
            ),
            id="an OCI artifact, and a model that does not exist yet",
        ),
    ],
)
def test_a_learned_strategy_comes_with_numbers(strategy: dict[str, Any], expected: StrategyConfig) -> None:
    """Routers interpret no decimal, no default, and no name of a ConfigMap."""
    assert routing(strategy=strategy).strategy == expected


def test_trials_take_the_strategys_models_unless_they_name_others() -> None:
    """An artifact of the same models needs only its own place."""
    by_url = {"url": "https://models.example.com/router.tar", "digest": DIGEST}
    models = {"weak": "invoice", "strong": "big"}
    headers = ["X-Session-Id", "x-session-id", "X-User"]
    found = routing(
        strategy=WIN_RATE,
        shadow={"artifact": FROM_MAP, "percent": 5},
        canary={"artifact": by_url, "models": models, "percent": 10, "sessionHeaders": headers},
    )

    assert found.shadow == TrialConfig(artifact=ArtifactSource(digest=DIGEST), models=PAIR, percent=5)
    assert found.canary == TrialConfig(
        artifact=ArtifactSource(**by_url),
        models=models,
        percent=10,
        sessionHeaders=("x-session-id", "x-user"),
    )


def test_a_shadow_needs_no_learned_strategy() -> None:
    """It is how an artifact is tried before it routes anything; a canary would have nothing to stand in for."""
    trial = {"artifact": FROM_MAP, "models": PAIR, "percent": 5}
    found = routing(shadow=trial, canary=trial)

    assert found.shadow == TrialConfig(artifact=ArtifactSource(digest=DIGEST), models=PAIR, percent=5)
    assert found.canary is None


def test_a_request_log_has_its_documented_defaults() -> None:
    """No text is kept, 64 MiB at most, and nobody may read it."""
    keys = {"auth": {"apiKeysSecretRef": {"name": "keys"}}}
    full = {"prompts": "Redacted", "maxBytes": "1Mi", "readers": ["ops", "ml"]}

    assert routing(requestLog={}).requestLog == RequestLogConfig(prompts="Features", maxBytes=64 * 1024**2)
    assert routing(**keys, requestLog=full).requestLog == RequestLogConfig(
        prompts="Redacted", maxBytes=1024**2, readers=("ml", "ops")
    )


def test_what_does_not_exist_is_in_no_route() -> None:
    """A router meets only names that it has a target for; the status tells of the gap."""
    policy = a_policy(
        experts=[{"name": "gone"}, {"name": "invoice", "weight": 0}],
        fallbacks=[{"name": "big"}, {"name": "gone"}],
        pinnable=["gone", "big"],
        rules=[{"name": "r", "when": {"tools": {"min": 1}}, "experts": [{"name": "gone"}]}],
    )
    found = snapshot(observe(policy, a_profile(), an_expert(), a_fallback()))

    assert [(each.name, each.weight) for each in found.route.experts] == [("invoice", 0)]
    assert found.route.fallbacks == ("big",)
    assert found.pinnable == ("big",)
    assert found.rules[0].route.experts == ()
    assert [each.name for each in found.targets] == ["invoice", "big"]


def test_what_does_not_parse_is_left_out() -> None:
    """One object of another schema does not take the whole policy down."""
    observed = observe(a_policy(), a_profile(), an_expert(replicas="many"), a_fallback())

    assert [each.name for each in snapshot(observed).targets] == ["big"]


@pytest.mark.parametrize(
    ("expert", "profile", "price"),
    [
        pytest.param(
            an_expert(cost={"inputPerMillionUSD": "0.02", "outputPerMillionUSD": "0.08"}),
            a_profile(),
            TokenPrice(inputPerMillionUSD=0.02, outputPerMillionUSD=0.08),
            id="token prices win",
        ),
        pytest.param(
            an_expert(accelerator={"profile": "l4", "count": 2}, engine={"maxNumSeqs": 8}),
            a_profile(hourlyUSD="1.80"),
            TimePrice(perSecondUSD=1.80 * 2 / 3600 / 8),
            id="else a slot's share of the GPUs",
        ),
        pytest.param(an_expert(), a_profile(hourlyUSD=None), None, id="a profile without a price"),
        pytest.param(an_expert(), a_profile("other"), None, id="no profile"),
    ],
)
def test_a_served_model_is_priced_by_token_or_by_time(expert: Manifest, profile: Manifest, price: Any) -> None:
    """An unknown price is nothing, never zero."""
    found = target(observe(a_policy(), expert, profile), "invoice").price

    assert found == (pytest.approx(price) if price is None else price)


def test_a_profile_of_a_referenced_model_is_a_reference_too() -> None:
    """Otherwise a new GPU price would reach no router."""
    refs = observe(a_policy(), a_profile(), an_expert(), a_served_fallback("big")).references

    assert set(refs) == {
        INVOICE,
        ObjectRef("Fallback", NAMESPACE, "big"),
        ObjectRef("AcceleratorProfile", "", "l4"),
    }


def test_capabilities_have_their_documented_defaults() -> None:
    """Tools only when said; JSON schemas unless denied; context as the engine has it unless said."""
    plain = target(observe(a_policy(), an_expert()), "invoice")
    engine = target(observe(a_policy(), an_expert(engine={"maxModelLen": 4096})), "invoice")
    said = {"apis": ["completions", "chat"], "tools": True, "jsonSchema": False, "maxContextTokens": 100}
    stated = target(observe(a_policy(), an_expert(engine={"maxModelLen": 4096}, capabilities=said)), "invoice")

    assert (plain.apis, plain.tools, plain.jsonSchema, plain.maxContextTokens) == (
        ("chat", "completions"),
        False,
        True,
        None,
    )
    assert engine.maxContextTokens == 4096
    assert (stated.apis, stated.tools, stated.jsonSchema, stated.maxContextTokens) == (
        ("chat", "completions"),
        True,
        False,
        100,
    )


def test_an_external_fallback_says_how_it_is_reached_and_holds_no_secret() -> None:
    """Only whether there are credentials; they are mounted."""
    fallback = a_fallback(
        url="https://api.example.com/v1/",
        credentialsSecretRef={"name": "big", "key": "apiKey"},
        apis=["chat"],
        request={"drop": ["b", "a"], "rename": {"x": "y"}, "set": {"k": {"deep": [1]}}},
    )
    found = target(observe(a_policy(), an_expert(), fallback), "big")

    assert found.external is not None
    assert found.external.url == "https://api.example.com/v1"
    assert (found.external.hasCredentials, found.external.hasCa) == (True, False)
    assert found.external.edits.drop == ("b", "a")
    assert found.external.edits.set == {"k": {"deep": [1]}}
    assert (found.location, found.model, found.apis, found.logprobs) == ("External", "big-1", ("chat",), False)
    assert target(observe(a_policy(), a_fallback(boundary="Local")), "big").location == "Local"


KEY, CA = {"name": "big", "key": "apiKey"}, {"name": "big-ca", "key": "ca.crt"}


def credentials_of(fallback: Manifest) -> tuple[str, list[str]]:
    """Folder by the snapshot, and folders that the gateway's pods have."""
    observed = observe(a_policy(), fallback)
    external = target(observed, "big").external
    assert external is not None
    deployment = next(each for each in dispatch.desired(observed) if each["kind"] == "Deployment")
    mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    prefix = "/etc/flotilla/credentials/"
    return external.credentials, [m["mountPath"][len(prefix) :] for m in mounts if m["mountPath"].startswith(prefix)]


def test_credentials_are_mounted_where_the_snapshot_says() -> None:
    """In one folder for the fallback; one without credentials and authorities has none mounted."""
    folder, mounted = credentials_of(a_fallback(credentialsSecretRef=KEY, tls={"caSecretRef": CA}))

    assert mounted == [folder]
    assert folder.startswith("big-")
    assert credentials_of(a_fallback())[1] == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"url": "https://other.example.com/v1"}, id="the url"),
        pytest.param({"credentialsSecretRef": {"name": "other", "key": "apiKey"}}, id="the Secret"),
        pytest.param({"credentialsSecretRef": {"name": "big", "key": "other"}}, id="the key in it"),
        pytest.param({"tls": {"caSecretRef": {"name": "other", "key": "ca.crt"}}}, id="the authorities' Secret"),
        pytest.param({"tls": {"caSecretRef": {"name": "big-ca", "key": "other"}}}, id="the key in that"),
        pytest.param({"tls": None}, id="no authorities"),
    ],
)
def test_credentials_are_bound_to_their_url_and_secrets(change: dict[str, Any]) -> None:
    """What is mounted for one provider is nowhere where a router would look for another's; the rest may change."""
    before: dict[str, Any] = {"credentialsSecretRef": KEY, "tls": {"caSecretRef": CA}}

    assert credentials_of(a_fallback(**before | change))[0] != credentials_of(a_fallback(**before))[0]
    assert credentials_of(a_fallback(**before, model="big-2")) == credentials_of(a_fallback(**before))


@pytest.mark.parametrize(
    ("policy", "rule", "expected"),
    [
        pytest.param("Any", None, "Any", id="nobody says more"),
        pytest.param("Any", "LocalOnly", "LocalOnly", id="a rule tightens"),
        pytest.param("LocalOnly", "Any", "LocalOnly", id="a rule never loosens"),
        pytest.param(None, None, "Any", id="the default"),
    ],
)
def test_the_stricter_boundary_wins(policy: str | None, rule: str | None, expected: str) -> None:
    """A rule may only tighten."""
    when = {"name": "r", "when": {"tools": {"min": 1}}} | ({"boundary": rule} if rule else {})
    spec: dict[str, Any] = {"rules": [when]} | ({"boundary": policy} if policy else {})

    found = snapshot(observe(a_policy(**spec), an_expert()))

    assert found.rules[0].route.boundary == expected
    assert found.route.boundary == (policy or "Any")


def test_a_rule_replaces_whole_fields() -> None:
    """An escalation in a rule does not inherit the policy's other settings; a field it leaves out is the policy's."""
    policy = a_policy(
        escalation={"deadline": "5s", "on": ["Timeout", "LowConfidence"]},
        rules=[
            {"name": "a", "when": {"tools": {"min": 1}}, "escalation": {"confidence": {"min": "0.9"}}},
            {"name": "b", "when": {"tools": {"max": 0}}, "fallbacks": []},
        ],
    )
    found = snapshot(observe(policy, an_expert(), a_fallback()))

    first, second = found.rules
    assert found.route.escalation.on == ("LowConfidence", "Timeout")
    assert (first.route.escalation.deadlineSeconds, first.route.escalation.minConfidence) == (20.0, 0.9)
    assert len(first.route.escalation.on) == 7
    assert first.route.fallbacks == ("big",)
    assert second.route.fallbacks == ()
    assert second.route.escalation == found.route.escalation


@given(st.randoms())
def test_the_order_of_inputs_never_changes_the_bytes(random: Any) -> None:
    """Routers are not told of a change that is none."""
    experts = [an_expert(name) for name in ("a", "b", "c")]
    pods = {
        ObjectRef("Expert", NAMESPACE, each["metadata"]["name"]): tuple(
            a_ready_pod(each, str(index), ip=f"10.0.0.{index}") for index in range(3)
        )
        for each in experts
    }

    def shuffled(values: Any) -> list[Any]:
        found = list(values)
        random.shuffle(found)
        return found

    def build(names: list[str], mix: Any) -> PublishedSnapshot | None:
        policy = a_policy(experts=[{"name": name} for name in names])
        observed = observe(policy, *experts, a_fallback(), a_profile())
        observed = replace(
            observed,
            references=dict(mix(observed.references.items())),
            reference_pods={ref: tuple(mix(each)) for ref, each in mix(pods.items())},
        )
        return snapshot_of(dispatch.desired(observed))

    assert build(shuffled(["a", "b", "c"]), shuffled) == build(["a", "b", "c"], list)


@pytest.mark.parametrize(
    ("stored", "snapshot_differs", "expected"),
    [
        pytest.param("2026-11-23T11:00:00.000000Z", False, "2026-11-23T11:00:00.000000Z", id="it is what it was"),
        pytest.param("2026-11-23T11:00:00.000000Z", True, "2026-11-23T12:00:00.000000Z", id="it became another now"),
        pytest.param(
            "2026-11-23T12:00:07.000000Z", True, "2026-11-23T12:00:07.000001Z", id="the last leader's clock was ahead"
        ),
        pytest.param("", False, "2026-11-23T12:00:00.000000Z", id="of a release that did not say"),
        pytest.param("soon", False, "2026-11-23T12:00:00.000000Z", id="edited by hand"),
        pytest.param("2026-11-23", False, "2026-11-23T12:00:00.000000Z", id="edited by hand into no moment"),
    ],
)
def test_the_time_of_publication_orders_the_snapshots(stored: str, *, snapshot_differs: bool, expected: str) -> None:
    """It stays while the snapshot does, and grows with each new one, whoever leads."""
    before = carried_out(observe(a_policy(), a_profile(), an_expert(), a_fallback()))
    children = tuple(_with_published_at(child, stored) for child in before.children)
    pods = {INVOICE: (a_ready_pod(an_expert()),)} if snapshot_differs else {}

    published = snapshot_of(dispatch.desired(replace(before, children=children, reference_pods=pods)))

    assert published is not None
    assert published.published_at == expected


def _with_published_at(child: Manifest, text: str) -> Manifest:
    if child["kind"] != "ConfigMap":
        return child
    return child | {"data": child["data"] | {"published-at": text}}
