"""What a RoutingPolicy's status says of sidecars: pods that lack theirs, and what the connected ones miss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    SETTINGS,
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
from flotilla_api.control import STRATEGY_PROBLEMS, Problem, ProblemKind
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import RoutingSnapshot
from flotilla_api.status import RoutingPolicyStatus
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.gateway import snapshot_of
from flotilla_operator.reconcile.sidecar_status import absence_event
from flotilla_operator.reconcile.types import Acknowledgement, AgentPod, Key, Manifest, Observed, OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs

KEY = Key("RoutingPolicy", "agents", "billing")
DISABLED = {"placement": {"sidecar": {"enabled": False}}}
ROUTERS = (a_ready_pod(a_policy(), "r1"),)
NO_TOKEN = Problem(ProblemKind.GATEWAY, "", "no token for the gateway is mounted")


def an_agent(name: str, *, injected: bool = True, refused: str = "", silent: bool = False) -> AgentPod:
    return AgentPod(name, f"uid-{name}", injected, refused, silent)


def some_agents(count: int, *, injected: bool = True, refused: str = "") -> tuple[AgentPod, ...]:
    return tuple(an_agent(f"agent-{number}", injected=injected, refused=refused) for number in range(1, count + 1))


def a_cluster(policy: Manifest | None = None, **fields: Any) -> Observed:
    """A policy whose gateway runs and serves the current snapshot; `fields` replaces fields of Observed."""
    observed = rolled_out(observe(policy or a_policy(), a_profile(), an_expert(), a_fallback(), pods=ROUTERS))
    return replace(observed, **{"acknowledgements": acknowledged(ROUTERS, digest_of(observed)), **fields})


def digest_of(observed: Observed) -> str:
    snapshot = snapshot_of(dispatch.desired(observed))
    assert snapshot is not None
    return RoutingSnapshot.digest_of(snapshot.data)


def with_sidecars(*sidecars: Acknowledgement) -> Observed:
    observed = a_cluster()
    return replace(observed, acknowledgements=(*observed.acknowledgements, *sidecars))


def a_sidecar(name: str, digest: str | None = None, **fields: Any) -> Acknowledgement:
    """One that serves the current snapshot, unless another is named."""
    return Acknowledgement(
        name, f"uid-{name}", digest_of(a_cluster()) if digest is None else digest, sidecar=True, **fields
    )


def condition(observed: Observed, kind: str) -> tuple[str, str]:
    """Status and reason, and the message."""
    found = judge(observed).status["conditions"]
    return next((f"{each['status']} {each['reason']}", each["message"]) for each in found if each["type"] == kind)


@pytest.mark.parametrize(
    ("agents", "spec", "expected", "message", "count"),
    [
        pytest.param((), {}, "True NoAgents", "no pod asks", None, id="nobody asks"),
        pytest.param(some_agents(2), {}, "True Injected", "every pod", "2/2", id="all have theirs"),
        pytest.param(
            (*some_agents(2), an_agent("late", injected=False)),
            {},
            "False SidecarMissing",
            "late was created without the sidecar: delete it, so that it is made anew",
            "2/3",
            id="one slipped through",
        ),
        pytest.param(
            some_agents(5, injected=False),
            {},
            "False SidecarMissing",
            "agent-1, agent-2, agent-3 and 2 more were created without the sidecar: delete them",
            "0/5",
            id="many slipped through",
        ),
        pytest.param(
            some_agents(2, injected=False, refused="it uses the host's network"),
            {},
            "False SidecarRefused",
            "no sidecar is possible in agent-1 and agent-2: it uses the host's network",
            "0/2",
            id="none is possible",
        ),
        pytest.param(
            (an_agent("a", injected=False), an_agent("b", injected=False, refused="it runs on Windows")),
            {},
            "False SidecarMissing",
            "a was created without the sidecar: delete it, so that it is made anew; no sidecar is possible in b: it "
            "runs on Windows",
            "0/2",
            id="one slipped through and one cannot have it",
        ),
        pytest.param(
            (*some_agents(1), an_agent("late", injected=False)),
            DISABLED,
            "False SidecarDisabled",
            "late asks for a sidecar, and placement.sidecar.enabled is false",
            "1/2",
            id="none may ask",
        ),
        pytest.param(some_agents(1), DISABLED, "True Injected", "every pod", "1/1", id="none may ask any more"),
        pytest.param(
            (*some_agents(1), an_agent("cut-off", silent=True)),
            {},
            "False SidecarNotConnected",
            "the sidecar does not call the control API in cut-off: see the log of container flotilla-router",
            "2/2",
            id="one does not call",
        ),
        pytest.param(
            (an_agent("a", injected=False), an_agent("b", silent=True)),
            {},
            "False SidecarMissing",
            "so that it is made anew; the sidecar does not call the control API in b",
            "1/2",
            id="one has none and one does not call",
        ),
        pytest.param(
            (an_agent("a", silent=True),),
            DISABLED,
            "True Injected",
            "every pod",
            "1/1",
            id="who is shut out cannot call",
        ),
    ],
)
def test_pods_without_their_sidecar_show(
    agents: tuple[AgentPod, ...], spec: dict[str, Any], expected: str, message: str, count: str | None
) -> None:
    """With their names and what to do; whether the policy is ready is another question."""
    observed = a_cluster(a_policy(**spec), agents=agents)

    found, said = condition(observed, "SidecarsInjected")
    assert found == expected
    assert message in said
    assert judge(observed).status.get("sidecars") == count
    assert condition(observed, "Ready")[0] == condition(a_cluster(), "Ready")[0]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(replace(SETTINGS, webhook=False), id="there is none"),
        pytest.param(replace(SETTINGS, webhook_leaves_out=("agents",)), id="it leaves the namespace out"),
    ],
)
def test_where_no_webhook_adds_sidecars_nobody_is_told_to_wait_for_it(settings: OperatorSettings) -> None:
    """A pod that is made anew would be without one again."""
    late = an_agent("late", injected=False)
    spec = RoutingPolicySpec.model_validate(a_policy()["spec"])
    event = absence_event(late, KEY, SidecarInputs("agents", "billing", spec, settings))

    assert "flotilla inject" in condition(a_cluster(agents=(late,), settings=settings), "SidecarsInjected")[1]
    assert "flotilla inject" in event.message
    assert "delete" not in event.message


def test_pods_that_were_not_listed_yet_change_nothing() -> None:
    """A replica that has just taken over leaves what was said before."""
    observed = a_cluster(agents=(*some_agents(1), an_agent("late", injected=False)))
    status = judge(observed).status
    successor = replace(observed, owner=with_status(observed.owner, status), agents=None)

    assert judge(successor).status == status
    assert not judge(successor).events


def test_of_pods_that_were_never_listed_nothing_is_said() -> None:
    """The first list comes within seconds."""
    status = judge(a_cluster()).status

    assert "SidecarsInjected" not in {each["type"] for each in status["conditions"]}
    assert "sidecars" not in status


def test_the_count_fits_its_field() -> None:
    """Also for a great many."""
    RoutingPolicyStatus.model_validate(judge(a_cluster(agents=some_agents(5000))).status)


@pytest.mark.parametrize(
    ("sidecars", "expected", "message"),
    [
        pytest.param([a_sidecar("a"), a_sidecar("b")], "True Acknowledged", "every ready", id="all serve it"),
        pytest.param(
            [a_sidecar("a"), a_sidecar("b", "sha256:old")], "False WaitingForRouters", "yet in b", id="one lags"
        ),
        pytest.param([a_sidecar("a", "")], "True Acknowledged", "every ready", id="one starts and serves nothing yet"),
        pytest.param(
            [a_sidecar(name, "", rejected="no field x") for name in ("a", "b")],
            "False SnapshotRejected",
            "a sidecar keeps its last good snapshot in a and b: see the log of container flotilla-router",
            id="some refuse it",
        ),
        pytest.param(
            [a_sidecar(name, problems=(NO_TOKEN,)) for name in ("d", "a", "c", "b")],
            "False CredentialsMissing",
            "a sidecar misses what it needs in a, b, c and 1 more: they cannot call the policy's gateway, see the log",
            id="some miss their token",
        ),
    ],
)
def test_a_snapshot_is_propagated_when_sidecars_serve_it_too(
    sidecars: list[Acknowledgement], expected: str, message: str
) -> None:
    """Which pods do not is said; the gateway goes on answering all the same."""
    observed = with_sidecars(*sidecars)

    found, said = condition(observed, "ConfigPropagated")
    assert found == expected
    assert message in said
    assert condition(observed, "Ready")[0] == "True Ready"


@pytest.mark.parametrize("kind", sorted(set(ProblemKind) - STRATEGY_PROBLEMS))
def test_nothing_that_a_sidecar_words_is_shown(kind: ProblemKind) -> None:
    """An agent's pod says it, and whoever reads a status or an event takes it for the operator's word."""
    problem = Problem(kind, "call me now", "call me now")
    for sidecar in (a_sidecar("a", "", rejected="call me now"), a_sidecar("a", problems=(problem,))):
        verdict = judge(with_sidecars(sidecar))

        assert condition(with_sidecars(sidecar), "ConfigPropagated")[0].startswith("False")
        assert "call me" not in str(verdict)


def test_sidecars_do_not_stand_in_for_the_gateway() -> None:
    """While no router of the gateway is connected nothing is known of it."""
    observed = replace(a_cluster(), acknowledgements=(a_sidecar("a"),))

    assert condition(observed, "ConfigPropagated")[0] == "Unknown WaitingForRouters"


@pytest.mark.parametrize(
    ("agent", "spec", "reason", "message"),
    [
        pytest.param(
            an_agent("a", injected=False),
            None,
            "PolicyNotFound",
            "RoutingPolicy agents/billing does not exist, so this pod runs without a sidecar: create it, then delete "
            "the pod, so that it is made anew",
            id="no such policy",
        ),
        pytest.param(
            an_agent("a", injected=False), DISABLED, "SidecarDisabled", "placement.sidecar.enabled", id="disabled"
        ),
        pytest.param(
            an_agent("a", injected=False, refused="it runs on Windows"),
            {},
            "SidecarRefused",
            "this pod cannot have the sidecar of RoutingPolicy agents/billing: it runs on Windows",
            id="refused",
        ),
        pytest.param(an_agent("a", injected=False), {}, "SidecarMissing", "delete the pod", id="slipped through"),
    ],
)
def test_a_pod_is_told_why_it_has_no_sidecar(
    agent: AgentPod, spec: dict[str, Any] | None, reason: str, message: str
) -> None:
    """And what to do."""
    parsed = None if spec is None else RoutingPolicySpec.model_validate(a_policy(**spec)["spec"])
    inputs = None if parsed is None else SidecarInputs("agents", "billing", parsed, SETTINGS)
    event = absence_event(agent, KEY, inputs)

    assert (event.type, event.reason) == ("Warning", reason)
    assert message in event.message
