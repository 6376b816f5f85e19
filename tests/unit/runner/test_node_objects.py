"""What the runner writes about nodes and volumes, and which logs it serves."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from localcluster.config import gpu_node
from localcluster.runner.backoff import Backoff, format_duration
from localcluster.runner.control import container_log, container_pid
from localcluster.runner.kubelet_server import find_logs, pick_log
from localcluster.runner.nodes import make_conditions, make_lease, make_node
from localcluster.runner.provisioner import (
    PROVISIONER,
    Claim,
    PersistentVolume,
    is_released,
    make_volume,
    wants_volume,
)
from localcluster.runner.quantity import divide_up, parse_quantity

CLAIM = msgspec.convert(
    {
        "metadata": {"name": "cache", "namespace": "shop", "uid": "u9"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "20Gi"}},
            "storageClassName": "standard",
        },
        "status": {"phase": "Pending"},
    },
    Claim,
)


def test_node_registers_with_labels_and_taints() -> None:
    """A GPU node comes with what selectors and tolerations need."""
    node = make_node(gpu_node("l4-0"))

    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert node["spec"]["taints"][0]["key"] == "nvidia.com/gpu"


def test_heartbeat_leaves_the_transition_time() -> None:
    """A later heartbeat of a node that stayed ready does not look like a transition."""
    ready = make_conditions(since=0.0, now=600.0)[-1]

    assert (ready["type"], ready["status"]) == ("Ready", "True")
    assert (ready["lastTransitionTime"], ready["lastHeartbeatTime"]) == ("1970-01-01T00:00:00Z", "1970-01-01T00:10:00Z")


def test_lease_belongs_to_its_node() -> None:
    """The Lease goes with the Node, and its time has microseconds, as the API demands."""
    lease = make_lease("l4-0", "u1", 1.5)

    assert lease["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert lease["spec"]["renewTime"] == "1970-01-01T00:00:01.500000Z"


def test_volume_is_made_for_one_claim_only(tmp_path: Path) -> None:
    """The volume has what the claim asks for and names it, uid and all, so that no other is bound to it."""
    volume = make_volume(CLAIM, tmp_path)

    assert volume["spec"]["capacity"] == {"storage": "20Gi"}
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["spec"]["claimRef"]["uid"] == "u9"


@pytest.mark.parametrize(
    ("spec", "phase", "wanted"),
    [
        pytest.param({}, "Pending", True, id="pending, of our class"),
        pytest.param({}, "Bound", False, id="bound already"),
        pytest.param({"storage_class_name": "fast"}, "Pending", False, id="of another class"),
        pytest.param({"volume_name": "pv-1"}, "Pending", False, id="for a volume that it names"),
    ],
)
def test_claims_that_get_a_volume(spec: dict[str, str], phase: str, wanted: bool) -> None:
    """Only claims of the default class that wait for a volume get one."""
    status = msgspec.structs.replace(CLAIM.status, phase=phase)
    claim = msgspec.structs.replace(CLAIM, spec=msgspec.structs.replace(CLAIM.spec, **spec), status=status)

    assert wants_volume(claim) is wanted


@pytest.mark.parametrize(
    ("provisioner", "phase", "released"),
    [
        pytest.param(PROVISIONER, "Released", True, id="ours, without a claim"),
        pytest.param(PROVISIONER, "Bound", False, id="in use"),
        pytest.param("somebody/else", "Released", False, id="a stranger's"),
    ],
)
def test_volumes_that_are_removed(provisioner: str, phase: str, released: bool) -> None:
    """Only the provisioner's own volumes go with their claims."""
    annotations = {"pv.kubernetes.io/provisioned-by": provisioner}
    spec = {"hostPath": {"path": "/v"}, "persistentVolumeReclaimPolicy": "Delete"}
    made = {"metadata": {"name": "pv", "annotations": annotations}, "spec": spec, "status": {"phase": phase}}

    assert is_released(msgspec.convert(made, PersistentVolume)) is released


def test_logs_are_those_of_the_last_run(tmp_path: Path) -> None:
    """The current log is the one with the highest number, also beyond ten; the previous one comes before it."""
    directory = tmp_path / "pods" / "shop_web-0_u1" / "main"
    directory.mkdir(parents=True)
    for run in (0, 9, 10):
        (directory / f"{run}.log").write_text(f"run {run}")

    assert find_logs(tmp_path, "shop", "web-0", "main") == directory
    assert pick_log(directory, previous=False) == directory / "10.log"
    assert pick_log(directory, previous=True) == directory / "9.log"
    assert container_log(tmp_path, "shop", "web-0", "main", restart=9) == "run 9"


def test_only_running_containers_have_a_process(tmp_path: Path) -> None:
    """A container's process id is known while it runs."""
    directory = tmp_path / "pods" / "shop_web-0_u1" / "main"
    directory.mkdir(parents=True)
    (directory / "pid").write_text("4711")

    assert container_pid(tmp_path, "shop", "web-0", "main") == 4711
    with pytest.raises(LookupError, match="no container other of pod shop/web-0 runs"):
        container_pid(tmp_path, "shop", "web-0", "other")


@pytest.mark.parametrize(
    ("text", "number"), [("100m", 0.1), ("1Gi", 1 << 30), ("1.5k", 1500), ("2e3", 2000), (5, 5), ("1Ei", 1 << 60)]
)
def test_quantities(text: str | int, number: float) -> None:
    """Every form in which Kubernetes writes a quantity is understood."""
    assert float(parse_quantity(text)) == number


def test_quantity_that_is_none() -> None:
    """What is not a quantity is refused, and a divisor of 0 counts as 1."""
    with pytest.raises(ValueError, match="'x' is not a quantity"):
        parse_quantity("x")
    assert divide_up("3", "0") == 3


def test_backoff_starts_anew_after_a_quiet_time() -> None:
    """A container that ran long enough is restarted at once again."""
    tired = Backoff(300.0, changed_at=0.0)

    assert tired.wait_until(10.0, failed_at=500.0) == 800.0
    assert tired.wait_until(10.0, failed_at=601.0) == 601.0
    assert tired.after_failure(10.0, failed_at=601.0) == Backoff(10.0, 601.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500ms"), (10, "10s"), (160, "2m40s"), (300, "5m0s"), (1.5, "1.5s")]
)
def test_durations_read_like_gos(seconds: float, text: str) -> None:
    """Messages name delays as the kubelet does."""
    assert format_duration(seconds) == text
