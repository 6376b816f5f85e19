"""What a RoutingPolicy's status says: routers, their snapshot, and whether any model can answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    NAMESPACE,
    a_fallback,
    a_policy,
    a_profile,
    a_ready_pod,
    a_waiting_pod,
    a_warning,
    a_wide_rule,
    acknowledged,
    an_end,
    an_expert,
    carried_out,
    judge,
    observe,
    rolled_out,
    with_status,
)
from flotilla_api.conditions import Reason
from flotilla_api.control import Problem, ProblemKind
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_api.status import RoutingPolicyStatus
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.gateway import snapshot_of, too_large
from flotilla_operator.reconcile.gateway_status import PROPAGATION_SECONDS, RETURN_SECONDS
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed, Step, StepFailure

POLICY = a_policy()
EXPERT = an_expert()
INVOICE = ObjectRef("Expert", NAMESPACE, "invoice")
NO_LOG = Problem(ProblemKind.REQUEST_LOG, "", "the request log cannot be opened: no such file")
NO_CREDENTIAL = Problem(ProblemKind.CREDENTIAL, "big", "Fallback big: its API key is not mounted")
NO_API_KEYS = Problem(ProblemKind.API_KEYS, "", "no API key is mounted")
ROUTERS = (a_ready_pod(POLICY, "r1"), a_ready_pod(POLICY, "r2", ip="10.0.0.2"))
EVERYTHING = (a_profile(), EXPERT, a_fallback())


def a_cluster(
    policy: Manifest = POLICY,
    *others: Manifest,
    engines: tuple[Manifest, ...] = (a_ready_pod(EXPERT),),
    routers: tuple[Manifest, ...] = ROUTERS,
    **acknowledgement: Any,
) -> Observed:
    """A policy whose routers run and serve the current snapshot; `acknowledgement` replaces fields of theirs."""
    observed = observe(policy, *(others or EVERYTHING), reference_pods={INVOICE: engines}, pods=routers)
    observed = rolled_out(observed)
    digest = acknowledgement.pop("digest", None) or digest_of(observed)
    return replace(observed, acknowledgements=acknowledged(routers, digest, **acknowledgement))


def digest_of(observed: Observed) -> str:
    snapshot = snapshot_of(dispatch.desired(observed))
    assert snapshot is not None
    return RoutingSnapshot.digest_of(snapshot.data)


def conditions(observed: Observed) -> dict[str, str]:
    found = judge(observed).status["conditions"]
    return {c["type"]: c["status"] if c["status"] == "True" else f"{c['status']} {c['reason']}" for c in found}


def message(observed: Observed, kind: str) -> str:
    found = judge(observed).status["conditions"]
    return next(each["message"] for each in found if each["type"] == kind)


def judged(observed: Observed) -> Observed:
    """The same cluster after its status was written."""
    return replace(observed, owner=with_status(observed.owner, judge(observed).status))


NO_EXTERNAL = a_policy(fallbacks=[])


def rolling_out(observed: Observed) -> Observed:
    """The same cluster before the Deployment controller saw the present template."""
    children = ({key: value for key, value in child.items() if key != "status"} for child in observed.children)
    return replace(observed, children=tuple(children))


def with_problems_of_one(observed: Observed, problem: Problem) -> Observed:
    """The same cluster, but the first router misses something."""
    first, *others = observed.acknowledgements
    return replace(observed, acknowledgements=(replace(first, problems=(problem,)), *others))


def later(observed: Observed, seconds: float) -> Observed:
    """The same cluster after its status was written and time has passed."""
    done = carried_out(judged(observed))
    return replace(done, now=done.now + timedelta(seconds=seconds))


def moved(observed: Observed) -> Observed:
    """The same cluster with a new endpoint that its routers have not heard of, and the ConfigMap that tells of it."""
    return carried_out(replace(observed, reference_pods={INVOICE: (a_ready_pod(EXPERT, ip="10.0.0.7"),)}))


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(
            a_cluster(),
            {
                "Accepted": "True",
                "ReferencesResolved": "True",
                "RouterReady": "True",
                "ConfigPropagated": "True",
                "Ready": "True",
            },
            id="everything works",
        ),
        pytest.param(
            observe(POLICY),
            {
                "ReferencesResolved": "False ExpertNotFound",
                "RouterReady": "False PodsPending",
                "ConfigPropagated": "Unknown WaitingForRouters",
                "Ready": "False PodsPending",
            },
            id="the policy came first",
        ),
        pytest.param(
            a_cluster(POLICY, a_profile(), EXPERT),
            {"ReferencesResolved": "False FallbackNotFound", "Ready": "True"},
            id="a missing fallback is told of, and the experts answer",
        ),
        pytest.param(
            a_cluster(POLICY, a_profile(), an_expert(replicas="many"), a_fallback()),
            {"ReferencesResolved": "False InvalidReference", "Ready": "True"},
            id="an expert of another schema is told of, and the fallback answers",
        ),
        pytest.param(
            a_cluster(engines=()),
            {"ReferencesResolved": "True", "Ready": "True"},
            id="no expert is ready, and the fallback answers",
        ),
        pytest.param(
            a_cluster(NO_EXTERNAL, a_profile(), EXPERT, engines=()),
            {"RouterReady": "True", "ConfigPropagated": "True", "Ready": "False NoReadyModel"},
            id="nobody can answer",
        ),
        pytest.param(
            a_cluster(NO_EXTERNAL, a_profile(), an_expert(scaling={"min": 0, "max": 1}), engines=()),
            {"RouterReady": "True", "ConfigPropagated": "True", "Ready": "True"},
            id="nobody answers now, and a request wakes the expert",
        ),
        pytest.param(
            a_cluster(routers=(a_waiting_pod(POLICY, "ImagePullBackOff"),)),
            {"RouterReady": "False ImagePullFailed", "Ready": "False ImagePullFailed"},
            id="the router's image cannot be pulled",
        ),
        pytest.param(
            a_cluster(routers=(a_waiting_pod(POLICY, "CrashLoopBackOff", ended=an_end(1, "SettingsError: no")),)),
            {"RouterReady": "False CrashLoop", "Ready": "False CrashLoop"},
            id="the router ends again and again",
        ),
        pytest.param(
            a_cluster(digest="sha256:old"),
            {"ConfigPropagated": "False WaitingForRouters", "Ready": "False WaitingForRouters"},
            id="no router serves this generation yet",
        ),
        pytest.param(
            replace(a_cluster(), acknowledgements=acknowledged(ROUTERS[:1], digest_of(a_cluster()))),
            {"ConfigPropagated": "False WaitingForRouters", "Ready": "True"},
            id="one of two routers serves it: it is ready, and not everywhere",
        ),
        pytest.param(
            replace(a_cluster(), acknowledgements=()),
            {"ConfigPropagated": "Unknown WaitingForRouters", "Ready": "False WaitingForRouters"},
            id="no router has called",
        ),
        pytest.param(
            a_cluster(digest="sha256:old", rejected="rules.0.name: too long"),
            {"ConfigPropagated": "False SnapshotRejected", "Ready": "False SnapshotRejected"},
            id="routers refuse the snapshot",
        ),
        pytest.param(
            a_cluster(problems=(NO_CREDENTIAL,)),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "True"},
            id="a Secret is missing, and the experts answer",
        ),
        pytest.param(
            a_cluster(problems=(NO_CREDENTIAL,), engines=()),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "False CredentialsMissing"},
            id="a Secret is missing, and nothing else could answer",
        ),
        pytest.param(
            rolling_out(a_cluster(problems=(NO_CREDENTIAL,), engines=())),
            {"ConfigPropagated": "False WaitingForRouters", "Ready": "False WaitingForRouters"},
            id="nothing else could answer, but routers that mount it are coming",
        ),
        pytest.param(
            with_problems_of_one(a_cluster(engines=()), NO_CREDENTIAL),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "True"},
            id="one router lacks a Secret, the other answers",
        ),
        pytest.param(
            a_cluster(problems=(NO_API_KEYS,)),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "False CredentialsMissing"},
            id="no client is let in",
        ),
        pytest.param(
            a_cluster(problems=(NO_LOG,)),
            {"ConfigPropagated": "False RequestLogFailed", "Ready": "True"},
            id="the request log cannot be written",
        ),
        pytest.param(
            a_cluster(problems=(NO_LOG, NO_CREDENTIAL)),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "True"},
            id="a Secret is missing, and the request log cannot be written",
        ),
        pytest.param(
            rolling_out(a_cluster(problems=(NO_LOG,))),
            {"ConfigPropagated": "False WaitingForRouters", "Ready": "True"},
            id="the request log cannot be written, but routers with its volume are coming",
        ),
        pytest.param(
            a_cluster(problems=(Problem(ProblemKind.OTHER, "", "a sentence"),), engines=()),
            {"ConfigPropagated": "False CredentialsMissing", "Ready": "True"},
            id="routers of another release miss something",
        ),
        pytest.param(
            rolling_out(a_cluster(problems=(NO_CREDENTIAL,))),
            {"ConfigPropagated": "False WaitingForRouters", "Ready": "True"},
            id="routers that lack a new fallback's Secret are being replaced",
        ),
        pytest.param(
            a_cluster(a_policy(rules="none"), digest="sha256:any"),
            {"Accepted": "False InvalidSpec", "Ready": "False InvalidSpec"},
            id="its stored spec is of another schema",
        ),
    ],
)
def test_conditions_tell_what_is_the_matter(observed: Observed, expected: dict[str, str]) -> None:
    """Each condition is True, or says with one documented word why not."""
    found = conditions(observed)

    assert {kind: found[kind] for kind in expected} == expected


def test_messages_name_what_is_missing() -> None:
    """All missing objects at once, so that one look is enough."""
    policy = a_policy(experts=[{"name": "sql"}, {"name": "invoice"}])

    text = message(observe(policy, EXPERT), "ReferencesResolved")
    one = message(observe(policy, EXPERT, an_expert("sql")), "ReferencesResolved")

    unreadable = message(observe(policy, EXPERT, an_expert("sql", model="x"), a_fallback()), "ReferencesResolved")

    assert unreadable == "Expert sql does not parse: apply it again"
    assert text == "Expert sql, Fallback big do not exist: create them or change the policy"
    assert one == "Fallback big does not exist: create it or change the policy"


def test_a_contested_child_keeps_no_policy_from_being_ready() -> None:
    """A webhook that adds a field to Deployments harms nobody; what the API server refuses does."""
    step = Step("prune", {"kind": "Deployment"}, "edited by hand")
    contested, refused = (StepFailure(step, each, "") for each in (Reason.CONTESTED, Reason.APPLY_REFUSED))

    def told(*failures: StepFailure) -> list[str]:
        found = {each["type"]: each["reason"] for each in judge(a_cluster(), *failures).status["conditions"]}
        return [found["Accepted"], found["Ready"]]

    assert told(contested) == ["Contested", "Ready"]
    assert told(contested, refused) == ["ApplyRefused", "ApplyRefused"]


def test_a_snapshot_that_no_config_map_holds_is_not_accepted() -> None:
    """The message says how large it is, what takes the most room, and what to do."""
    rules = [a_wide_rule(f"r{number:02}") for number in range(16)]
    observed = observe(a_policy(rules=rules), *EVERYTHING)
    failures = too_large(dispatch.desired(observed))

    found = {each["type"]: each for each in judge(observed, *failures).status["conditions"]}

    assert (found["Accepted"]["status"], found["Accepted"]["reason"]) == ("False", "SnapshotTooLarge")
    assert found["Ready"]["reason"] == "SnapshotTooLarge"
    assert found["Accepted"]["message"] == (
        "the snapshot has 1048 KiB and a ConfigMap holds 1024 KiB; routers keep the last one that fitted. Largest of "
        "2 models and 16 rules: rule r00 66 KiB, rule r01 66 KiB, rule r02 66 KiB. "
        "Name fewer experts, replicas and rules in one policy, or split it"
    )
    assert too_large(dispatch.desired(observe(a_policy(rules=rules[:15]), *EVERYTHING))) == ()


def test_a_missing_certificate_is_named() -> None:
    """Without it the gateway cannot start, and only an event says why."""
    policy = a_policy(tls={"secretRef": {"name": "router-tls"}})
    pod = a_waiting_pod(policy, "ContainerCreating")
    event = a_warning(pod, "FailedMount", 'MountVolume.SetUp failed for volume "tls" : secret "router-tls" not found')
    observed = replace(a_cluster(policy, routers=(pod,)), warnings=(event,))

    assert conditions(observed)["RouterReady"] == "False SecretNotFound"
    assert '"router-tls" not found' in message(observed, "RouterReady")


def test_status_shows_the_gateway_at_a_glance() -> None:
    """The figures of the printer columns, and where clients go."""
    policy = a_policy(experts=[{"name": "invoice"}, {"name": "sql"}], tls={"secretRef": {"name": "t"}})
    observed = a_cluster(policy, *EVERYTHING, routers=ROUTERS[:1])

    status = judge(observed).status
    status.pop("conditions")

    assert status == {
        "observedGeneration": 1,
        "experts": "1/2",
        "fallbacks": "1/1",
        "routers": "1/2",
        "endpoint": "https://billing-gateway.agents.svc/v1",
        "snapshotDigest": digest_of(observed),
    }
    RoutingPolicyStatus.model_validate(judge(observed).status)


def test_new_endpoints_do_not_flap_the_conditions() -> None:
    """Pods come and go; routers get a moment to follow before anything is said, however often one looks meanwhile."""
    before = moved(later(a_cluster(), 60))
    looks = [before, later(before, 0.5), later(later(before, 0.5), 1.0)]

    verdicts = [judge(look) for look in looks]

    assert [conditions(look)["ConfigPropagated"] for look in looks] == ["True"] * 3
    assert [conditions(look)["Ready"] for look in looks] == ["True"] * 3
    assert [verdict.events for verdict in verdicts] == [()] * 3
    assert [verdict.requeue_after_seconds for verdict in verdicts] == [PROPAGATION_SECONDS, 1.5, 0.5]


def test_routers_that_do_not_follow_are_told_of() -> None:
    """When that moment has passed the condition says it, while the policy goes on answering."""
    late = later(moved(later(a_cluster(), 60)), PROPAGATION_SECONDS)

    assert conditions(late)["ConfigPropagated"] == "False WaitingForRouters"
    assert conditions(late)["Ready"] == "True"
    assert judge(late).requeue_after_seconds is None


@pytest.mark.parametrize(
    ("acknowledgement", "expected"),
    [
        pytest.param({}, ("True", "True"), id="all was well"),
        pytest.param(
            {"problems": (NO_API_KEYS,)},
            ("False CredentialsMissing", "False CredentialsMissing"),
            id="keys were missing",
        ),
    ],
)
@pytest.mark.parametrize("back", [0, 1], ids=["no router is back", "one of two routers is back"])
def test_a_change_of_the_leader_changes_no_condition(
    acknowledgement: dict[str, Any], expected: tuple[str, str], back: int
) -> None:
    """Routers need a moment to find the new one; until then what its predecessor said stays."""
    before = later(a_cluster(**acknowledgement), 60)
    after = replace(before, acknowledgements=before.acknowledgements[:back], leading_seconds=1.0)
    found = conditions(after)

    assert (found["ConfigPropagated"], found["Ready"]) == expected
    assert judge(after).events == ()


def test_a_new_leader_does_not_wait_for_ever() -> None:
    """Routers that stay away longer than their tries are apart are told of."""
    before = later(a_cluster(), 60)
    alone = replace(before, acknowledgements=(), leading_seconds=RETURN_SECONDS)

    assert judge(replace(alone, leading_seconds=1.0)).requeue_after_seconds == RETURN_SECONDS - 1
    assert conditions(alone)["ConfigPropagated"] == "Unknown WaitingForRouters"


def test_a_new_generation_is_not_ready_before_a_router_serves_it() -> None:
    """An edit is never called propagated on the word of the generation before."""
    before = judged(a_cluster())
    edited = a_policy(generation=2, models=["other"]) | {"status": before.owner["status"]}
    moved = replace(before, owner=edited)

    assert conditions(moved)["ConfigPropagated"] == "False WaitingForRouters"
    assert conditions(moved)["Ready"] == "False WaitingForRouters"


def test_an_operator_that_restarted_calls_nothing_broken() -> None:
    """Acknowledgements are not stored; even when routers stay away a ready policy stays ready."""
    restarted = replace(later(a_cluster(), 60), acknowledgements=())

    assert conditions(restarted)["ConfigPropagated"] == "Unknown WaitingForRouters"
    assert conditions(restarted)["Ready"] == "True"
    assert judge(restarted).events == ()


def test_nothing_changes_in_the_status_when_nothing_changes() -> None:
    """The second look at the same facts writes nothing and tells nothing."""
    once = judged(a_cluster())

    again = judge(once)

    assert again.status == once.owner["status"]
    assert again.events == ()


def test_becoming_ready_is_one_event_each() -> None:
    """Readiness and propagation are told when they come, and once."""
    events = judge(a_cluster()).events

    assert [(event.type, event.reason) for event in events] == [("Normal", "Ready")]


def test_an_embedder_answers_no_request() -> None:
    """It is ready, and a policy that has nothing else is not."""
    expert = an_expert(capabilities={"apis": ["embeddings"]})
    policy = a_policy(fallbacks=[])

    assert conditions(a_cluster(policy, a_profile(), expert))["Ready"] == "False NoReadyModel"
