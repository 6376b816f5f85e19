"""A pod's life: order of start, restarts, probes, images, and its end."""

from __future__ import annotations

from signal import SIGKILL, SIGTERM
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pod_builders import SETTINGS, Life, a_container, a_life, a_pod, events, of_kind, starts

from localcluster.runner.lifecycle import advance
from localcluster.runner.probing import ProbeKind
from localcluster.runner.state import (
    PostStartFailed,
    PrepareVolumes,
    PreStopEnded,
    Probed,
    RemovePod,
    RunPreStop,
    RunProbe,
    SendSignal,
    SourcesChanged,
    StartFailed,
    VolumesFailed,
    VolumesPrepared,
    Waiting,
)


def _sidecar(name: str, **fields: Any) -> dict[str, Any]:
    return a_container(name, restartPolicy="Always", **fields)


def test_containers_start_once_the_volumes_are_there() -> None:
    """Nothing starts before every volume was made; then all containers do at once."""
    life = Life(a_pod(a_container("a"), a_container("b")))

    assert of_kind(PrepareVolumes, life.actions)
    assert starts(life.actions) == []
    assert starts(life.happens(VolumesPrepared())) == ["a", "b"]


def test_missing_volume_source_is_an_event_and_tried_again() -> None:
    """A missing ConfigMap leaves the pod in ContainerCreating; when it comes, volumes are made at once."""
    life = Life(a_pod())

    complaint = life.happens(VolumesFailed('MountVolume.SetUp failed for volume "c" : configmap "c" not found'))
    retry = life.happens(SourcesChanged())

    assert events(complaint) == [
        ("FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "c" not found'),
    ]
    assert life.status()["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert of_kind(PrepareVolumes, retry)


def test_init_containers_run_in_order_and_sidecars_stay() -> None:
    """Each init container waits for the one before to end, or if that is a sidecar, to have started."""
    life = a_life(initContainers=[a_container("first"), _sidecar("proxy"), a_container("last")])

    assert starts(life.actions) == ["first"]
    life.runs("first")
    assert starts(life.exits("first")) == ["proxy"]
    life.runs("proxy")
    assert starts(life.actions)[-1] == "last"
    life.runs("last")
    assert starts(life.exits("last")) == ["main"]


def test_next_container_waits_for_a_sidecars_startup_probe() -> None:
    """A sidecar with a startup probe holds up what comes after it until the probe has passed."""
    sidecar = _sidecar("proxy", startupProbe={"tcpSocket": {"port": 1}})
    life = a_life(initContainers=[sidecar])
    life.runs("proxy")

    assert starts(life.actions) == ["proxy"]
    assert starts(life.happens(Probed("proxy", 0, ProbeKind.STARTUP, True))) == ["main"]


def test_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    """With restartPolicy Never, a failing init container fails the pod and nothing else starts."""
    life = a_life(initContainers=[a_container("init")], restartPolicy="Never")
    life.runs("init")
    life.exits("init", 1)

    assert life.status()["phase"] == "Failed"
    assert starts(life.actions) == ["init"]


def test_job_pod_ends_its_sidecars_and_succeeds() -> None:
    """When all containers have completed, sidecars get SIGTERM, and their end does not change the outcome."""
    life = a_life(initContainers=[_sidecar("proxy")], restartPolicy="Never")
    life.runs("proxy", "main")

    assert of_kind(SendSignal, life.exits("main")) == [SendSignal("proxy", SIGTERM)]
    life.exits("proxy", 143)
    assert life.status()["phase"] == "Succeeded"


def test_crashing_container_backs_off() -> None:
    """The first restart is immediate, then the delay doubles from 10 s up to 5 min."""
    life = a_life()
    delays: list[float] = []
    for _ in range(8):
        life.runs("main")
        crashed_at = life.now
        if not starts(life.exits("main", 1)):
            assert life.wake_at is not None
            delays.append(life.wake_at - crashed_at)
            life.passes(delays[-1])

    assert delays == [10, 20, 40, 80, 160, 300, 300]
    assert life.status()["containerStatuses"][0]["restartCount"] == 7


def test_crash_loop_is_told_as_the_kubelet_does() -> None:
    """While it waits, a crashing container says so in its state, keeps its last exit, and there is an event."""
    life = a_life()
    life.runs("main")
    life.exits("main", 3)
    life.runs("main")
    told = life.exits("main", 3)

    status = life.status()["containerStatuses"][0]
    assert status["state"]["waiting"] == {
        "reason": "CrashLoopBackOff",
        "message": "back-off 10s restarting failed container=main pod=web-0_shop(u1)",
    }
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert ("BackOff", "Back-off restarting failed container main in pod web-0_shop(u1)") in events(told)


@pytest.mark.parametrize(
    ("policy", "code", "restarted"),
    [
        pytest.param("Always", 0, True, id="Always restarts what completed"),
        pytest.param("OnFailure", 0, False, id="OnFailure leaves what completed"),
        pytest.param("OnFailure", 1, True, id="OnFailure restarts what failed"),
        pytest.param("Never", 1, False, id="Never restarts nothing"),
    ],
)
def test_restart_policy(policy: str, code: int, restarted: bool) -> None:
    """The restart policy decides over exit codes."""
    life = a_life(restartPolicy=policy)
    life.runs("main")

    assert starts(life.exits("main", code)) == (["main"] if restarted else [])


def test_unknown_image_is_pulled_again_and_again() -> None:
    """An image without a program shows ErrImagePull, then ImagePullBackOff, and is tried again after the delay."""
    life = a_life(a_container(image="nope:1"))

    first = life.status()["containerStatuses"][0]["state"]["waiting"]
    life.passes(5)
    second = life.status()["containerStatuses"][0]["state"]["waiting"]
    again = life.passes(5)

    assert first["reason"] == "ErrImagePull"
    assert 'failed to resolve reference "nope:1"' in first["message"]
    assert second["reason"] == "ImagePullBackOff"
    assert second["message"].startswith('Back-off pulling image "nope:1": ErrImagePull: ')
    assert ("Pulling", 'Pulling image "nope:1"') in events(again)


def test_missing_secret_is_a_config_error_until_it_comes() -> None:
    """A container whose environment cannot be made waits with the kubelet's reason, and starts when it can."""
    life = a_life()
    life.happens(StartFailed("main", "CreateContainerConfigError", 'secret "hf" not found'))

    assert life.status()["containerStatuses"][0]["state"]["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'secret "hf" not found',
    }
    assert starts(life.happens(SourcesChanged())) == ["main"]
    life.runs("main")
    assert life.status()["containerStatuses"][0]["restartCount"] == 0


def test_readiness_follows_its_thresholds() -> None:
    """A container becomes ready with the first success and unready with the third failure in a row."""
    life = a_life(a_container(readinessProbe={"tcpSocket": {"port": 1}, "periodSeconds": 5}))
    life.runs("main")
    assert of_kind(RunProbe, life.actions) == [RunProbe("main", 0, ProbeKind.READINESS)]

    readiness: list[bool] = []
    for success in (True, False, False, False, True):
        life.happens(Probed("main", 0, ProbeKind.READINESS, success, "refused"))
        readiness.append(life.status()["containerStatuses"][0]["ready"])
        life.passes(5)

    assert readiness == [True, True, True, False, True]


def test_failing_liveness_probe_restarts_the_container() -> None:
    """At the failure threshold the container is told to end, killed after its grace, and started again."""
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 3}
    life = a_life(a_container(livenessProbe=probe))
    life.runs("main")
    life.happens(Probed("main", 0, ProbeKind.LIVENESS, False, "refused"))
    life.passes(1)

    told = life.happens(Probed("main", 0, ProbeKind.LIVENESS, False, "refused"))

    assert of_kind(SendSignal, told) == [SendSignal("main", SIGTERM)]
    assert ("Unhealthy", "Liveness probe failed: refused") in events(told)
    assert ("Killing", "Container main failed liveness probe, will be restarted") in events(told)
    assert of_kind(SendSignal, life.passes(2.9)) == []
    assert of_kind(SendSignal, life.passes(0.2)) == [SendSignal("main", SIGKILL)]
    assert starts(life.exits("main", 137)) == ["main"]


def test_other_probes_wait_for_the_startup_probe() -> None:
    """Readiness is asked as soon as startup has passed, and never before."""
    container = a_container(
        startupProbe={"tcpSocket": {"port": 1}, "periodSeconds": 7},
        readinessProbe={"tcpSocket": {"port": 1}},
        livenessProbe={"tcpSocket": {"port": 1}, "initialDelaySeconds": 60},
    )
    life = a_life(container)
    life.runs("main")
    life.passes(20)
    before = {probe.kind for probe in of_kind(RunProbe, life.actions)}

    after = life.happens(Probed("main", 0, ProbeKind.STARTUP, True))

    assert before == {ProbeKind.STARTUP}
    assert [probe.kind for probe in of_kind(RunProbe, after)] == [ProbeKind.READINESS]
    assert life.status()["containerStatuses"][0]["started"] is True


def test_outcome_of_an_earlier_run_is_ignored() -> None:
    """A probe that was under way when its container died says nothing about the next run."""
    life = a_life(a_container(livenessProbe={"tcpSocket": {"port": 1}, "failureThreshold": 1}))
    life.runs("main")
    life.exits("main", 1)
    life.runs("main")

    assert of_kind(SendSignal, life.happens(Probed("main", 0, ProbeKind.LIVENESS, False))) == []


def test_deleted_pod_ends_in_order() -> None:
    """Containers first, then sidecars in reverse order of their start; then the pod goes."""
    life = a_life(initContainers=[_sidecar("outer"), _sidecar("inner")])
    life.runs("outer", "inner", "main")

    assert of_kind(SendSignal, life.is_deleted()) == [SendSignal("main", SIGTERM)]
    assert of_kind(SendSignal, life.exits("main", 143)) == [SendSignal("inner", SIGTERM)]
    assert of_kind(SendSignal, life.exits("inner", 143)) == [SendSignal("outer", SIGTERM)]
    assert of_kind(RemovePod, life.exits("outer", 143)) == [RemovePod()]
    assert life.status()["phase"] == "Failed"


def test_grace_is_shared_by_the_pods_containers() -> None:
    """A container that ignores SIGTERM is killed at the deadline; sidecars are then told to end too."""
    life = a_life(initContainers=[_sidecar("proxy")], terminationGracePeriodSeconds=5)
    life.runs("proxy", "main")
    life.is_deleted()

    assert of_kind(SendSignal, life.passes(4.9)) == []
    assert set(of_kind(SendSignal, life.passes(0.1))) == {SendSignal("main", SIGKILL), SendSignal("proxy", SIGTERM)}
    assert of_kind(SendSignal, life.passes(2)) == [SendSignal("proxy", SIGKILL)]


def test_pre_stop_hook_runs_before_the_signal() -> None:
    """SIGTERM follows the hook, and the hook's time is taken from the grace."""
    life = a_life(a_container(lifecycle={"preStop": {"exec": {"command": ["true"]}}}), terminationGracePeriodSeconds=10)
    life.runs("main")

    asked = life.is_deleted()
    life.passes(4)
    told = life.happens(PreStopEnded("main"))

    assert of_kind(RunPreStop, asked) == [RunPreStop("main", 10.0)]
    assert of_kind(SendSignal, asked) == []
    assert of_kind(SendSignal, told) == [SendSignal("main", SIGTERM)]
    assert of_kind(SendSignal, life.passes(6)) == [SendSignal("main", SIGKILL)]


def test_hook_that_uses_up_the_grace_leaves_two_seconds() -> None:
    """A hook that does not return is left behind at the deadline; SIGTERM then gets two seconds."""
    life = a_life(a_container(lifecycle={"preStop": {"exec": {"command": ["true"]}}}), terminationGracePeriodSeconds=3)
    life.runs("main")
    life.is_deleted()

    assert of_kind(SendSignal, life.passes(3)) == [SendSignal("main", SIGTERM)]
    assert of_kind(SendSignal, life.passes(1.9)) == []
    assert of_kind(SendSignal, life.passes(0.2)) == [SendSignal("main", SIGKILL)]


def test_second_deletion_shortens_the_grace() -> None:
    """`kubectl delete --grace-period=1` after a plain one counts."""
    life = a_life(terminationGracePeriodSeconds=30)
    life.runs("main")
    life.is_deleted()
    life.is_deleted(1)

    assert of_kind(SendSignal, life.passes(1)) == [SendSignal("main", SIGKILL)]


def test_pod_that_never_started_is_removed_at_once() -> None:
    """A deleted pod without processes does not wait for anything."""
    life = Life(a_pod())

    assert of_kind(RemovePod, life.is_deleted()) == [RemovePod()]
    assert life.status()["phase"] == "Failed"


def test_readiness_is_still_asked_while_a_pod_ends() -> None:
    """A terminating pod's readiness probe goes on, its liveness probe does not."""
    probe = {"tcpSocket": {"port": 1}, "periodSeconds": 1}
    life = a_life(a_container(readinessProbe=probe, livenessProbe=probe))
    life.runs("main")
    life.happens(Probed("main", 0, ProbeKind.READINESS, True), Probed("main", 0, ProbeKind.LIVENESS, True))
    life.is_deleted()

    assert of_kind(RunProbe, life.passes(1)) == [RunProbe("main", 0, ProbeKind.READINESS)]


def test_active_deadline_fails_the_pod() -> None:
    """A pod that outlives activeDeadlineSeconds is stopped and failed with the kubelet's reason."""
    life = a_life(activeDeadlineSeconds=60)
    life.runs("main")

    assert of_kind(SendSignal, life.passes(60)) == [SendSignal("main", SIGTERM)]
    life.exits("main", 143)
    assert (life.status()["phase"], life.status()["reason"]) == ("Failed", "DeadlineExceeded")


def test_failed_post_start_hook_kills_the_container() -> None:
    """A postStart hook that fails is an event, and the container is stopped and restarted."""
    life = a_life(a_container(lifecycle={"postStart": {"exec": {"command": ["false"]}}}))
    life.runs("main")

    told = life.happens(PostStartFailed("main", "PostStartHook failed: exit code 1"))

    assert ("FailedPostStartHook", "PostStartHook failed: exit code 1") in events(told)
    assert of_kind(SendSignal, told) == [SendSignal("main", SIGTERM)]
    assert starts(life.exits("main", 143)) == ["main"]


def test_restarted_sidecar_does_not_hold_up_running_containers() -> None:
    """After initialization, a sidecar that crashes is restarted on its own."""
    life = a_life(initContainers=[_sidecar("proxy")])
    life.runs("proxy", "main")

    assert starts(life.exits("proxy", 1)) == ["proxy"]
    assert life.status()["phase"] == "Running"


@given(st.lists(st.sampled_from(["run", "crash", "probe", "wait", "delete"]), max_size=30))
def test_deciding_twice_decides_nothing_new(steps: list[str]) -> None:
    """Whatever has happened, asking again at the same moment yields no action and no hurry, and a deleted pod ends."""
    life = a_life(a_container(livenessProbe={"tcpSocket": {"port": 1}, "failureThreshold": 2}))
    for step in steps:
        _take(life, step)
        again = advance(life.pod, life.state, SETTINGS, life.now)
        assert again.actions == ()
        assert again.state == life.state
        assert again.wake_at is None or again.wake_at > life.now
    life.is_deleted()
    if life.state.containers["main"].starting:
        life.runs("main")
    if life.state.containers["main"].running:
        life.exits("main", 137)
    assert life.state.finished


def _take(life: Life, step: str) -> None:
    main = life.state.containers["main"]
    if step == "run" and main.starting:
        life.runs("main")
    elif step == "crash" and main.running:
        life.exits("main", 1)
    elif step == "probe" and main.running:
        life.happens(Probed("main", main.restarts, ProbeKind.LIVENESS, False))
    elif step == "wait":
        life.passes(7)
    elif step == "delete":
        life.is_deleted()


def test_waiting_without_reason_is_the_usual_one() -> None:
    """A container that has not been looked at yet waits for its pod."""
    assert Life(a_pod()).state.containers["main"].status == Waiting()
