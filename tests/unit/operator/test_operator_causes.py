"""A pod that does not answer is explained: each case is what a kubelet or a scheduler really says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from builders import (
    NOW,
    a_pod,
    a_policy,
    a_ready_pod,
    a_starting_pod,
    a_waiting_pod,
    a_warning,
    ago,
    an_end,
    an_expert,
    an_unscheduled_pod,
)
from flotilla_api.conditions import Reason
from flotilla_operator.reconcile.causes import (
    CREATION_LOOK_MAX_SECONDS,
    CREATION_LOOK_SECONDS,
    Cause,
    PodRules,
    next_look_seconds,
    start_deadline,
    worst_cause,
)
from flotilla_operator.reconcile.last_words import last_words
from flotilla_operator.reconcile.types import Manifest

EXPERT = an_expert()
RULES = PodRules(container="engine", resource="nvidia.com/gpu", startup_seconds=900, now=NOW)

VLLM_CRASH = """\
(APIServer pid=1) INFO 11-23 11:58:01 [api_server.py:1884] vLLM API server version 0.32.0
(EngineCore_DP0 pid=88) ERROR 11-23 11:58:40 [core.py:708] ValueError: head size 16 is not supported
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
VLLM_NO_MEMORY = """\
(EngineCore_DP0 pid=88) ERROR 11-23 11:58:40 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to \
allocate 3.06 GiB
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""
VLLM_NO_CACHE = (
    "(EngineCore_DP0 pid=9) ValueError: To serve at least one request with the models's max seq len (131072), "
    "(7.00 GiB KV cache is needed, which is larger than the available KV cache memory (2.31 GiB)."
)
NO_GPU = (
    "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 Insufficient nvidia.com/gpu. "
    "preemption: 0/3 nodes are available: 2 No preemption victims found for incoming pod."
)


def a_started_pod(*, ready_changed: str) -> Manifest:
    """Its container started at 11:50 and is not ready since `ready_changed`."""
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": ready_changed},
    ]
    state = {"running": {"startedAt": "2026-11-23T11:50:00Z"}}
    statuses = [{"name": "engine", "started": True, "state": state}]
    return a_pod(EXPERT, phase="Running", conditions=conditions, containerStatuses=statuses)


@pytest.mark.parametrize(
    ("pod", "reason", "telling"),
    [
        pytest.param(
            an_unscheduled_pod(EXPERT, NO_GPU),
            Reason.INSUFFICIENT_ACCELERATORS,
            "2 Insufficient nvidia.com/gpu",
            id="every GPU of the pool is taken",
        ),
        pytest.param(
            an_unscheduled_pod(EXPERT, "0/3 nodes are available: 3 Insufficient cpu."),
            Reason.UNSCHEDULABLE,
            "3 Insufficient cpu",
            id="no node has enough CPU",
        ),
        pytest.param(
            an_unscheduled_pod(EXPERT, 'persistentvolumeclaim "weights" not found'),
            Reason.CLAIM_NOT_FOUND,
            '"weights" not found',
            id="the claim with the weights does not exist",
        ),
        pytest.param(
            an_unscheduled_pod(EXPERT, "pod has unbound immediate PersistentVolumeClaims."),
            Reason.VOLUME_NOT_READY,
            "unbound",
            id="the claim is not bound",
        ),
        pytest.param(
            an_unscheduled_pod(EXPERT, ""), Reason.PODS_PENDING, "scheduler", id="the scheduler is not there yet"
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "ImagePullBackOff", "Back-off pulling image"),
            Reason.IMAGE_PULL_FAILED,
            "registry.example.com/image:1",
            id="the image cannot be pulled",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "ErrImagePull", container="fetch"),
            Reason.IMAGE_PULL_FAILED,
            "registry.example.com/image:1",
            id="the image cannot be pulled for the download either",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CreateContainerConfigError", 'secret "hf" not found', container="fetch"),
            Reason.SECRET_NOT_FOUND,
            '"hf"',
            id="the token's Secret does not exist",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CreateContainerConfigError", "couldn't find key token in Secret agents/hf"),
            Reason.SECRET_NOT_FOUND,
            "key token",
            id="the Secret has no such key",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CreateContainerConfigError", 'configmap "flags" not found'),
            Reason.CONFIG_MAP_NOT_FOUND,
            '"flags"',
            id="a ConfigMap does not exist",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "RunContainerError", "exec: vllm: not found"),
            Reason.CRASH_LOOP,
            "exec: vllm: not found",
            id="the image has no such program",
        ),
        pytest.param(
            a_waiting_pod(
                EXPERT,
                "CrashLoopBackOff",
                container="fetch",
                ended=an_end(1, "Fetching 3 files\nhuggingface_hub.errors.GatedRepoError: 401 Client Error."),
            ),
            Reason.DOWNLOAD_FAILED,
            "GatedRepoError: 401",
            id="the model is gated",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CrashLoopBackOff", container="fetch", ended=an_end(137, reason="OOMKilled")),
            Reason.OUT_OF_MEMORY,
            "download",
            id="the download is killed for its memory",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(137, reason="OOMKilled")),
            Reason.OUT_OF_MEMORY,
            "limit",
            id="the engine is killed for its memory",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, VLLM_NO_MEMORY)),
            Reason.OUT_OF_MEMORY,
            "CUDA out of memory. Tried to allocate 3.06 GiB",
            id="the GPU is too small for the weights",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, VLLM_NO_CACHE)),
            Reason.OUT_OF_MEMORY,
            "max seq len (131072)",
            id="the GPU is too small for the KV cache",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, VLLM_CRASH)),
            Reason.CRASH_LOOP,
            "exit code 1: ValueError: head size 16 is not supported",
            id="the engine says why it ends, above its last line",
        ),
        pytest.param(
            a_starting_pod(EXPERT, ended=an_end(2, "vllm: error: unrecognized arguments: --foo")),
            Reason.CRASH_LOOP,
            "unrecognized arguments: --foo",
            id="between two tries the last one still counts",
        ),
        pytest.param(
            a_starting_pod(EXPERT, since_seconds=901),
            Reason.ENGINE_START_TIMEOUT,
            "900 s",
            id="the engine gives no answer within startupTimeout",
        ),
        pytest.param(
            a_starting_pod(EXPERT, ended=an_end(137, lived_seconds=930)),
            Reason.ENGINE_START_TIMEOUT,
            "engine.startupTimeout",
            id="the start-up probe ended it",
        ),
        pytest.param(
            a_starting_pod(EXPERT, ended=an_end(137, lived_seconds=86400)),
            Reason.CRASH_LOOP,
            "exit code 137",
            id="killed after a day of work is no late start",
        ),
        pytest.param(a_starting_pod(EXPERT), Reason.STARTING, "no answer yet", id="the engine loads"),
        pytest.param(
            a_pod(
                EXPERT,
                phase="Pending",
                initContainerStatuses=[{"name": "fetch", "state": {"running": {"startedAt": "2026-11-23T11:59:00Z"}}}],
            ),
            Reason.STARTING,
            "downloaded",
            id="the model is on its way",
        ),
        pytest.param(
            a_waiting_pod(EXPERT, "ContainerCreating"), Reason.STARTING, "created", id="containers are created"
        ),
        pytest.param(
            a_started_pod(ready_changed="2026-11-23T11:59:50Z"),
            Reason.NOT_READY,
            "was ready",
            id="it worked and fails its readiness probe now",
        ),
        pytest.param(
            a_started_pod(ready_changed="2026-11-23T11:49:00Z"),
            Reason.STARTING,
            "not passed its readiness probe yet",
            id="it started, and the first readiness probe is still to come",
        ),
    ],
)
def test_a_pods_cause_is_named(pod: Manifest, reason: Reason, telling: str) -> None:
    """The reason is one documented word, and the message holds what only the pod knew."""
    cause = worst_cause([pod], [], RULES)

    assert cause is not None
    assert cause.reason is reason
    assert telling in cause.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(
            'MountVolume.SetUp failed for volume "tls" : secret "router-tls" not found',
            Reason.SECRET_NOT_FOUND,
            id="a Secret",
        ),
        pytest.param(
            'MountVolume.SetUp failed for volume "tls" : references non-existent secret key: tls.crt',
            Reason.SECRET_NOT_FOUND,
            id="a key of a Secret",
        ),
        pytest.param(
            'MountVolume.SetUp failed for volume "x" : configmap "x" not found',
            Reason.CONFIG_MAP_NOT_FOUND,
            id="a ConfigMap",
        ),
        pytest.param(
            'AttachVolume.Attach failed for volume "pvc-1": rpc error: deadline exceeded',
            Reason.VOLUME_NOT_READY,
            id="a disk",
        ),
    ],
)
def test_a_volume_that_cannot_be_mounted_is_named(message: str, reason: Reason) -> None:
    """Only events say it, and only those about this pod count."""
    pod, other = a_waiting_pod(EXPERT, "ContainerCreating"), a_pod(EXPERT, "other")

    about_it = worst_cause([pod], [a_warning(pod, "FailedMount", message)], RULES)
    about_another = worst_cause([pod], [a_warning(other, "FailedMount", message)], RULES)

    assert about_it == Cause(reason, f"a volume cannot be mounted: {message}")
    assert about_another is not None
    assert about_another.reason is Reason.STARTING


def test_a_pod_that_is_being_created_is_looked_at_again() -> None:
    """Nothing about the pod changes when a volume cannot be mounted; once a container ran, its status tells."""
    downloading = a_pod(
        EXPERT, initContainerStatuses=[{"name": "fetch", "state": {"running": {"startedAt": "2026-11-23T11:59:00Z"}}}]
    )

    assert next_look_seconds([a_pod(EXPERT)], RULES) == CREATION_LOOK_SECONDS
    assert next_look_seconds([a_waiting_pod(EXPERT, "ContainerCreating")], RULES) == CREATION_LOOK_SECONDS
    assert next_look_seconds([downloading], RULES) is None
    assert next_look_seconds([a_waiting_pod(EXPERT, "ImagePullBackOff")], RULES) is None
    assert next_look_seconds([an_unscheduled_pod(EXPERT, NO_GPU)], RULES) is None


@pytest.mark.parametrize(
    ("age_seconds", "look_seconds"),
    [
        pytest.param(2, CREATION_LOOK_SECONDS, id="at first soon"),
        pytest.param(100, 25.0, id="then later and later"),
        pytest.param(3600, CREATION_LOOK_MAX_SECONDS, id="at least once a minute"),
    ],
)
def test_a_pod_that_is_created_for_long_is_looked_at_less_often(age_seconds: float, look_seconds: float) -> None:
    """A fleet that pulls its image for ten minutes does not list events every few seconds for each pod."""
    pod = a_waiting_pod(EXPERT, "ContainerCreating")
    pod["metadata"]["creationTimestamp"] = ago(age_seconds)

    assert next_look_seconds([pod], RULES) == look_seconds


def test_the_kubelets_word_on_a_start_up_probe_is_enough() -> None:
    """A start that hung much longer than allowed is still a late start when the kubelet's event says so."""
    pod = a_starting_pod(EXPERT, ended=an_end(143, lived_seconds=9000))
    warning = a_warning(pod, "Unhealthy", "Startup probe failed: connection refused")

    cause = worst_cause([pod], [warning], RULES)

    assert cause is not None
    assert cause.reason is Reason.ENGINE_START_TIMEOUT


CONNECTION_REFUSED = "Startup probe failed: <urlopen error [Errno 111] Connection refused>"
NO_CHAT_TEMPLATE = 'Startup probe failed: HTTP Error 400: Bad Request {"error": {"message": "no chat template"}}'


@pytest.mark.parametrize("since_seconds", [30, 901])
def test_a_probe_that_is_refused_is_not_told_of(since_seconds: float) -> None:
    """While an engine loads its port is closed: that says nothing to a person."""
    pod = a_starting_pod(EXPERT, since_seconds=since_seconds)

    cause = worst_cause([pod], [a_warning(pod, "Unhealthy", CONNECTION_REFUSED)], RULES)

    assert cause is not None
    assert "refused" not in cause.message


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(a_starting_pod(EXPERT, since_seconds=901), id="that it is late"),
        pytest.param(a_starting_pod(EXPERT, ended=an_end(137, lived_seconds=930)), id="that it was ended"),
    ],
)
def test_what_a_late_engine_answered_is_told(pod: Manifest) -> None:
    """An engine that runs and answers its probe with an error would never start, however long it is waited for."""
    refused, answered = (a_warning(pod, "Unhealthy", text) for text in (CONNECTION_REFUSED, NO_CHAT_TEMPLATE))

    cause = worst_cause([pod], [refused, answered], RULES)

    assert cause == Cause(
        Reason.ENGINE_START_TIMEOUT,
        "no answer within 900 s of the container's start to the start-up probe's request; "
        'the engine\'s answer was: HTTP Error 400: Bad Request {"error": {"message": "no chat template"}}',
    )


def test_a_draining_replica_explains_a_missing_gpu() -> None:
    """In a pool with no spare GPU a rolling update is no shortage."""
    rules = replace(RULES, draining=True)

    cause = worst_cause([an_unscheduled_pod(EXPERT, NO_GPU)], [], rules)

    assert cause == Cause(Reason.PODS_PENDING, "waits for the nvidia.com/gpu of a replica that is draining")


def test_a_router_has_no_start_up_deadline() -> None:
    """It has no start-up probe, so nothing is late."""
    rules = replace(RULES, container="router", resource="", startup_seconds=float("inf"))
    pod = a_starting_pod(a_policy(), since_seconds=1e6)

    cause = worst_cause([pod], [], rules)

    assert cause is not None
    assert cause.reason is Reason.STARTING
    assert start_deadline(pod, rules) is None


ROUTER_RULES = replace(RULES, container="router", resource="", startup_seconds=float("inf"))


def a_restarted_router(*, ready_changed: str) -> Manifest:
    """Its container started again at 11:59:30, after a crash; the kubelet calls it started at once."""
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "False", "lastTransitionTime": ready_changed},
    ]
    states = {
        "state": {"running": {"startedAt": "2026-11-23T11:59:30Z"}},
        "lastState": {"terminated": an_end(1, "SettingsError: no such file")},
    }
    statuses = [{"name": "router", "started": True, "restartCount": 4, **states}]
    return a_pod(a_policy(), phase="Running", conditions=conditions, containerStatuses=statuses)


def test_a_router_that_is_restarted_again_and_again_stays_in_its_crash_loop() -> None:
    """It runs for a moment between two crashes: that is no start that anybody should wait for."""
    between, crashed = a_restarted_router(ready_changed="2026-11-23T11:58:00Z"), "SettingsError: no such file"
    waiting = a_waiting_pod(a_policy(), "CrashLoopBackOff", ended=an_end(1, crashed))

    causes = {worst_cause([pod], [], ROUTER_RULES) for pod in (between, waiting)}

    assert causes == {Cause(Reason.CRASH_LOOP, f"ended with exit code 1: {crashed}")}


def test_a_router_that_was_ready_since_its_crash_has_left_it_behind() -> None:
    """What fails now is its readiness."""
    cause = worst_cause([a_restarted_router(ready_changed="2026-11-23T11:59:50Z")], [], ROUTER_RULES)

    assert cause is not None
    assert cause.reason is Reason.NOT_READY


def test_pods_that_answer_have_no_cause() -> None:
    """Also when there are none."""
    assert worst_cause([a_ready_pod(EXPERT)], [], RULES) is None
    assert worst_cause([], [], RULES) is None


def test_the_order_of_pods_never_changes_what_is_told() -> None:
    """Among different causes the one that a person must repair is told; among equals the same one each time."""
    pods = [
        a_starting_pod(EXPERT, "a"),
        an_unscheduled_pod(EXPERT, NO_GPU, "b"),
        a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, "ValueError: x")),
        a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, "ValueError: y")),
    ]

    causes = {worst_cause(order, [], RULES) for order in itertools.permutations(pods)}

    assert causes == {Cause(Reason.CRASH_LOOP, "ended with exit code 1: ValueError: x")}


HF_OFFLINE = (
    "\x1b[1m\x1b[31mError: Local entry not found. [Errno 111] Connection refused\x1b[0m\n"
    "\x1b[90mHint: set HF_DEBUG=1 as environment variable for full traceback.\x1b[0m\n"
)


def test_last_words_are_read_through_colours() -> None:
    """`hf` of huggingface_hub 2.4 writes them also where nobody looks; a hint of a debug flag is no cause."""
    assert last_words(HF_OFFLINE) == "Error: Local entry not found. [Errno 111] Connection refused"


def test_last_words_are_the_same_at_every_try() -> None:
    """Times and process ids change with each restart; a status that held them would change too."""
    first = last_words(VLLM_CRASH)
    second = last_words(VLLM_CRASH.replace("pid=88", "pid=91").replace("11:58:40", "12:03:11"))

    assert first == second == "ValueError: head size 16 is not supported"
    assert last_words("") == ""
    assert last_words("only this\n\n") == "only this"
    assert len(last_words("Error: " + "x" * 999)) == 300
