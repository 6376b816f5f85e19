"""An agent with a sidecar: experts answer it directly, others through the gateway, and each answer is counted once."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from e2e.fixtures import new_space
from e2e.gateway import Gateway, Router, text_of
from e2e.objects import (
    BIG_COST,
    PROVIDER_KEYS,
    SMALL_COST,
    Manifest,
    a_policy,
    a_secret,
    an_expert,
    an_external_fallback,
)
from e2e.sidecars import AGENT, Sidecar, an_agent, container_of, has_sidecar, sidecar_of, start_agent, status_of
from e2e.steps import Space, provider_of
from flotilla_api import metrics
from flotilla_api.names import SIDECAR_CONTAINER
from stack import provider
from stack.certificates import make_serving_certificate
from stack.flotilla import Stack, quickstart_provider_key

POLICY = "assist"
FLEET = 5
EDITS = 8
"""More than half of them arrive everywhere in under a second: the machine may be busy with something else."""


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """A policy with an expert that is sure and one that never is, and an external fallback that nobody may pin."""
    with new_space(stack) as space:
        space.apply(
            an_expert("sure", cost=SMALL_COST),
            an_expert("unsure", env={"SIM_SKILL": "0"}, cost=SMALL_COST),
            an_external_fallback("big"),
            _policy("sure"),
        )
        space.wait_ready("Expert", "sure", "unsure")
        space.wait_ready("RoutingPolicy", POLICY)
        space.wait_condition("RoutingPolicy", POLICY, "ConfigPropagated", "True")
        yield space


def _policy(expert: str, name: str = POLICY, **spec: Any) -> Manifest:
    """Everything goes to `expert`, but for what a header calls hard."""
    rule = {"name": "hard", "when": {"headers": [{"name": "x-task", "in": ["hard"]}]}, "experts": [{"name": "unsure"}]}
    return a_policy(name, experts=[expert], fallbacks=["big"], rules=[rule], **spec)


@pytest.fixture(scope="module")
def sidecar(fleet: Space) -> Sidecar:
    """The sidecar of an agent."""
    return start_agent(fleet, "idle", POLICY)


@pytest.fixture
def gateway(fleet: Space) -> Gateway:
    """The gateway of the policy."""
    return fleet.gateway(POLICY)


def test_an_agent_asks_without_a_key_and_an_expert_answers(sidecar: Sidecar) -> None:
    """The headers are those of a gateway."""
    answer = sidecar.ask("who are you?")

    assert answer.status_code == 200
    assert text_of(answer).startswith("[simulated sure]")
    assert answer.headers["x-flotilla-policy"] == POLICY
    assert answer.headers["x-flotilla-model"] == "sure"
    assert answer.headers["x-flotilla-attempts"] == "1"


def test_local_answers_do_not_pass_the_gateway(sidecar: Sidecar, gateway: Gateway) -> None:
    """The sidecar calls the expert's pod itself."""
    answer = sidecar.ask("directly?")

    assert answer.headers["x-flotilla-model"] == "sure"
    assert gateway.metric(metrics.ROUTER_ATTEMPTS, target="sure") == 0


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_an_escalation_reaches_the_provider_with_the_gateways_key(
    stack: Stack, sidecar: Sidecar, *, stream: bool
) -> None:
    """The provider sees its own model name and key, and neither the pod's token nor the agent's key."""
    marker = f"question {uuid4().hex}"

    answer = sidecar.stream(marker, x_task="hard") if stream else sidecar.ask(marker, x_task="hard")

    assert answer.headers["x-flotilla-model"] == "big"
    assert answer.headers["x-flotilla-reason"] == "LowConfidence"
    assert answer.headers["x-flotilla-attempts"] == "2"
    (seen,) = provider_of(stack).requests(marker)
    assert seen["body"]["model"] == provider.MODEL
    assert seen["headers"]["authorization"] == f"Bearer {quickstart_provider_key()}"
    assert [name for name in seen["headers"] if name.startswith("x-flotilla")] == []


def test_a_gateway_with_a_certificate_is_called_by_tls(stack: Stack, fleet: Space) -> None:
    """The sidecar trusts the authority in the gateway's Secret, of which it sees nothing else."""
    certificate = make_serving_certificate(f"secure-gateway.{fleet.name}.svc")
    pair = {"tls_crt": certificate.certificate, "tls_key": certificate.key, "ca_crt": certificate.authority}
    fleet.apply(
        a_secret("secure-tls", type="kubernetes.io/tls", **pair),
        _policy("sure", "secure", tls={"secretRef": {"name": "secure-tls"}}),
    )
    fleet.wait_ready("RoutingPolicy", "secure")
    sidecar = start_agent(fleet, "secure", "secure")

    answer = sidecar.ask("over TLS, please", x_task="hard")

    assert answer.headers["x-flotilla-model"] == "big"
    files = _volume_files(stack, fleet.get("Pod", "secure"))
    assert certificate.authority in [path.read_text() for path in files]
    assert not [path for path in files if "PRIVATE KEY" in path.read_text()]


def test_the_agents_pod_holds_no_credential_of_a_provider(stack: Stack, fleet: Space, sidecar: Sidecar) -> None:
    """Not in its spec, not in a file of its volumes, and no Secret is mounted at all."""
    pod = fleet.get("Pod", sidecar.pod)
    files = _volume_files(stack, pod)

    assert [path.name for path in files].count("token") >= 2, "the sidecar's own tokens are seen: so would a key be"
    assert not [path for path in files if quickstart_provider_key() in path.read_text()]
    assert PROVIDER_KEYS not in json.dumps(pod["spec"])
    assert quickstart_provider_key() not in json.dumps(pod["spec"])
    assert '"secret' not in json.dumps(pod["spec"]).casefold()


def _volume_files(stack: Stack, pod: Manifest) -> list[Path]:
    """Every file that the containers of a pod may find in a volume."""
    metadata = pod["metadata"]
    folder = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    found = (stack.cluster.directory / "runner" / "pods" / folder / "volumes").rglob("*")
    return [path for path in found if path.is_file()]


def test_agent_and_sidecar_see_none_of_each_others_tokens(fleet: Space, sidecar: Sidecar) -> None:
    """The agent cannot pass for the sidecar, and the sidecar holds nothing that the Kubernetes API would accept."""
    pod = fleet.get("Pod", sidecar.pod)
    ours, agents = (
        {each["name"] for each in container_of(pod, name)["volumeMounts"]} for name in (SIDECAR_CONTAINER, AGENT)
    )

    assert ours == {"flotilla-tokens", "flotilla-snapshot"}
    assert agents
    assert not ours & agents


def test_what_the_agent_met_is_counted_by_its_sidecar(sidecar: Sidecar, gateway: Gateway) -> None:
    """The request, its escalation and both attempts; the gateway counts none of them."""
    before = [_experience(router) for router in (sidecar, gateway)]

    sidecar.ask("count me at the sidecar", x_task="hard")

    after = [_experience(router) for router in (sidecar, gateway)]
    grown = [{key: now - then[key] for key, now in each.items()} for then, each in zip(before, after, strict=True)]
    assert grown == [dict.fromkeys(before[0], 1.0), dict.fromkeys(before[0], 0.0)]


def _experience(router: Router) -> dict[str, float]:
    return {
        "requests": router.metric(metrics.ROUTER_REQUESTS, model="big", code="200"),
        "escalations": router.metric(metrics.ROUTER_ESCALATIONS, expert="unsure", cause="LowConfidence"),
        "tries": router.metric(metrics.ROUTER_ATTEMPTS, target="unsure"),
        "calls": router.metric(metrics.ROUTER_ATTEMPTS, target="big", result="ok"),
        "durations": router.metric(f"{metrics.ROUTER_REQUEST_SECONDS}_count", model="big"),
    }


def test_what_the_provider_charges_is_counted_by_the_gateway(sidecar: Sidecar, gateway: Gateway) -> None:
    """Tokens and dollars of the fallback there alone, those of the expert at the sidecar; the answer names the sum."""
    before = {router: _charges(router) for router in (sidecar, gateway)}

    answer = sidecar.ask("what do you cost?", x_task="hard")

    small, big = ({key: now - before[each][key] for key, now in _charges(each).items()} for each in (sidecar, gateway))
    usage = answer.json()["usage"]
    dollars = sum(
        usage[tokens] * float(BIG_COST[price]) / 1e6
        for tokens, price in (("prompt_tokens", "inputPerMillionUSD"), ("completion_tokens", "outputPerMillionUSD"))
    )
    assert (big["relayed"], big["tokens of big"], big["dollars of unsure"]) == (1, usage["completion_tokens"], 0)
    assert big["dollars of big"] == pytest.approx(dollars)
    assert (small["relayed"], small["tokens of big"], small["dollars of big"], small["unpriced"]) == (0, 0, 0, 0)
    assert small["dollars of unsure"] > 0
    total = big["dollars of big"] + small["dollars of unsure"]
    assert float(answer.headers["x-flotilla-cost-usd"]) == pytest.approx(total, abs=1e-8)
    line = sidecar.line_of(answer.headers["x-flotilla-request-id"])
    assert line["cost_usd"] == pytest.approx(total, abs=1e-8)


def _charges(router: Router) -> dict[str, float]:
    return {
        "relayed": router.metric(metrics.ROUTER_RELAYED, policy=POLICY, model="big", code="200"),
        "tokens of big": router.metric(metrics.ROUTER_TOKENS, target="big", type="output"),
        "dollars of big": router.metric(metrics.ROUTER_COST_USD, target="big"),
        "dollars of unsure": router.metric(metrics.ROUTER_COST_USD, target="unsure"),
        "unpriced": router.metric(metrics.ROUTER_UNPRICED),
    }


def test_the_policy_tells_that_every_agent_has_its_sidecar(fleet: Space, sidecar: Sidecar) -> None:
    """The condition is True, and the status counts pods."""
    fleet.wait_condition("RoutingPolicy", POLICY, "SidecarsInjected", "True", "Injected")

    injected, asking = fleet.get("RoutingPolicy", POLICY)["status"]["sidecars"].split("/")

    assert injected == asking != "0"


def test_the_sidecar_outlives_the_agent(fleet: Space) -> None:
    """What the agent asks in its last moment is answered; the pod is over once both have ended."""
    program = (
        "import signal, sys\n"
        "from openai import OpenAI\n"
        "def last(*_):\n"
        "    words = {'role': 'user', 'content': 'last words?'}\n"
        "    sys.exit(0 if OpenAI().chat.completions.create(model='auto', messages=[words]).choices else 1)\n"
        "signal.signal(signal.SIGTERM, last)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )

    fleet.apply(an_agent("leaving", POLICY, program, restartPolicy="Never"))

    fleet.wait_for(lambda: fleet.get("Pod", "leaving")["status"]["phase"] == "Succeeded", "the end of the pod")
    ends = [status_of(fleet.get("Pod", "leaving"), name)["state"]["terminated"] for name in (AGENT, SIDECAR_CONTAINER)]
    assert [end["exitCode"] for end in ends] == [0, 0]
    assert ends[0]["finishedAt"] <= ends[1]["finishedAt"]


def test_a_policy_edit_reaches_every_sidecar_in_under_a_second(fleet: Space) -> None:
    """From the API server's answer to the edit until the last sidecar uses it; and it holds for requests."""
    sidecars = [start_agent(fleet, f"agent-{number}", POLICY) for number in range(FLEET)]
    seconds: list[float] = []

    for number in range(EDITS):
        fleet.apply(_policy(("unsure", "sure")[number % 2]))
        answered = time.time()
        generation = fleet.get("RoutingPolicy", POLICY)["metadata"]["generation"]
        fleet.wait_for(lambda wanted=generation: all(_used_at(each, wanted) for each in sidecars), "the edit to arrive")
        seconds.append(max(_used_at(each, generation) for each in sidecars) - answered)
        fleet.wait_condition("RoutingPolicy", POLICY, "ConfigPropagated", "True", "Acknowledged")

    assert sum(each < 1 for each in seconds) > EDITS / 2, seconds
    assert {each.ask("who now?").headers["x-flotilla-model"] for each in sidecars} == {"sure"}


def _used_at(sidecar: Sidecar, generation: int) -> float:
    """When a sidecar first used a snapshot of this generation, in Unix seconds; 0: it does not yet."""
    used = [line for line in sidecar.log_lines() if line["event"] == "snapshot applied"]
    return min((line["time"] for line in used if line["generation"] >= generation), default=0.0)


def test_a_pod_that_names_no_policy_runs_without_a_sidecar_and_is_told(space: Space) -> None:
    """It starts, and an event says which policy is missing."""
    space.apply(an_agent("early", "nobody"))

    pod = space.get("Pod", "early")
    assert not has_sidecar(pod)
    space.wait_for(lambda: space.get("Pod", "early")["status"].get("phase") == "Running", "the pod to run")
    space.wait_for(lambda: _told(space, "PolicyNotFound"), "the event")
    (told,) = _told(space, "PolicyNotFound")
    assert "nobody" in told["note"]


def test_a_pod_that_cannot_have_a_sidecar_is_told_why(fleet: Space) -> None:
    """It starts without one; an event and the policy say what keeps it from having one."""
    fleet.apply(an_agent("on-the-host", POLICY, hostNetwork=True))

    try:
        assert not has_sidecar(fleet.get("Pod", "on-the-host"))
        fleet.wait_for(lambda: _told(fleet, "SidecarRefused"), "the event")
        refused = fleet.wait_condition("RoutingPolicy", POLICY, "SidecarsInjected", "False", "SidecarRefused")
    finally:
        fleet.delete("Pod", "on-the-host")
    assert "host's network" in refused["message"]


def _told(space: Space, reason: str) -> list[Manifest]:
    return [event for event in space.list("Event") if event["reason"] == reason and event["regarding"]["kind"] == "Pod"]


def test_a_value_of_the_agents_own_stays_with_a_warning(fleet: Space) -> None:
    """An agent that sets its base URL keeps it, and whoever creates the pod is told."""
    agent = an_agent("elsewhere", POLICY, env={"OPENAI_BASE_URL": "http://elsewhere.invalid/v1"})

    answer = fleet.stack.cluster.api.post(fleet.path("Pod"), json=agent, params={"dryRun": "All"})

    created = answer.raise_for_status().json()
    variables = {each["name"]: each.get("value") for each in container_of(created, AGENT)["env"]}
    assert variables["OPENAI_BASE_URL"] == "http://elsewhere.invalid/v1"
    assert "OPENAI_BASE_URL" in answer.headers["warning"]
    assert has_sidecar(created)


def test_an_injected_pod_passes_the_restricted_standard(fleet: Space, space: Space) -> None:
    """The sidecar asks for nothing that the strictest Pod Security Standard forbids."""
    space.apply(_policy("sure"))
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    space.merge("Namespace", space.name, label)
    hardened = an_agent("hardened", POLICY)
    hardened["spec"]["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1000}
    hardened["spec"]["securityContext"]["seccompProfile"] = {"type": "RuntimeDefault"}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    hardened["spec"]["containers"][0]["securityContext"] = security

    def created() -> Manifest:
        answer = space.stack.cluster.api.post(space.path("Pod"), json=hardened, params={"dryRun": "All"})
        return answer.raise_for_status().json()

    space.wait_for(lambda: has_sidecar(created()), "the policy to be known")


def test_what_the_sdk_of_an_agent_prints_comes_through_its_sidecar(fleet: Space) -> None:
    """An unmodified program needs nothing but its pod's label."""
    program = (
        "from openai import OpenAI\n"
        "answer = OpenAI().chat.completions.with_raw_response.create(\n"
        "    model='auto', messages=[{'role': 'user', 'content': 'hello'}])\n"
        "print(answer.headers['x-flotilla-model'], answer.parse().choices[0].message.content)\n"
    )
    fleet.apply(an_agent("asking", POLICY, program, restartPolicy="Never"))
    fleet.wait_for(lambda: fleet.get("Pod", "asking")["status"]["phase"] == "Succeeded", "the end of the pod")

    printed = fleet.stack.cluster.logs(fleet.name, "asking", AGENT)

    assert printed.startswith("sure [simulated sure]")
    assert sidecar_of(fleet, "asking").policy == POLICY
