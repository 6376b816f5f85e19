"""The local cluster's pure parts: descriptions of nodes and images, versions, networks."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from pydantic import ValidationError

from localcluster.binaries import PROGRAMS, ensure_binaries, version_key
from localcluster.config import ImageSpec, NodeSpec, RunnerConfig, find_image, gpu_node
from localcluster.subnet import Subnet, SubnetLock

IMAGES = {name: ImageSpec([name]) for name in ("vllm/vllm-openai", "vllm", "router")}


def make_config(directory: Path) -> RunnerConfig:
    return RunnerConfig(
        cluster="one",
        kubeconfig=directory / "kubeconfig",
        state_dir=directory / "state",
        ca_path=directory / "ca.crt",
        apiserver_host="127.96.127.255",
        apiserver_port=6443,
        service_cidr="127.96.0.0/17",
        pod_cidr="127.96.128.0/17",
        node_address="127.96.127.255",
        kubelet_port=10250,
        kubelet_cert=directory / "kubelet.crt",
        kubelet_key=directory / "kubelet.key",
        nodes=[gpu_node("l4-0")],
        images={"router": ImageSpec(["router"], {"sh": ["/bin/sh"]}, {"A": "1"})},
    )


def test_runner_config_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    make_config(tmp_path).write(tmp_path / "runner.json")

    assert RunnerConfig.read(tmp_path / "runner.json") == make_config(tmp_path)


def test_runner_config_names_a_missing_field(tmp_path: Path) -> None:
    """A file that lacks a field is refused by that field's name."""
    (tmp_path / "runner.json").write_text('{"cluster": "one"}')

    with pytest.raises(ValidationError, match="pod_cidr"):
        RunnerConfig.read(tmp_path / "runner.json")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param("router", "router", id="exact"),
        pytest.param("router:v1", "router", id="tag"),
        pytest.param("router@sha256:00", "router", id="digest"),
        pytest.param("vllm/vllm-openai:v0.32.0", "vllm/vllm-openai", id="longest prefix wins"),
        pytest.param("vllm/other:v1", "vllm", id="path below a key"),
        pytest.param("router-sidecar:v1", None, id="a name that only begins alike"),
        pytest.param("registry/router", None, id="another repository"),
    ],
)
def test_image_is_found_by_longest_prefix(name: str, key: str | None) -> None:
    """A key matches its own tags, digests and paths, and the longest one wins."""
    assert find_image(name, IMAGES) == (IMAGES[key] if key else None)


def test_gpu_node_looks_like_a_real_pool() -> None:
    """A GPU node has the labels, quantities and taint that a GPU operator gives it."""
    node = gpu_node("h100-0", product="NVIDIA-H100-80GB-HBM3", gpus=8, memory_mib=81559, zone="eu-1-b")

    assert node == NodeSpec(
        name="h100-0",
        labels={
            "kubernetes.io/hostname": "h100-0",
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "eu-1",
            "topology.kubernetes.io/zone": "eu-1-b",
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
            "nvidia.com/gpu.count": "8",
            "nvidia.com/gpu.memory": "81559",
            "feature.node.kubernetes.io/pci-10de.present": "true",
        },
        allocatable={"cpu": "96", "memory": "384Gi", "pods": "110", "nvidia.com/gpu": "8"},
        taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
    )


def test_subnet_halves_are_disjoint_and_leave_the_host_out() -> None:
    """ClusterIPs and pod IPs never meet, and neither range assigns the control plane's address."""
    subnet = Subnet(100)
    services, pods = ipaddress.ip_network(subnet.service_cidr), ipaddress.ip_network(subnet.pod_cidr)
    host = ipaddress.ip_address(subnet.host)

    assert not services.overlaps(pods)
    assert services.supernet() == pods.supernet() == ipaddress.ip_network("127.100.0.0/16")
    assert host == services.broadcast_address
    assert host not in pods


def test_subnet_belongs_to_its_holder_only() -> None:
    """Two locks never share a subnet, and a released one is free again."""
    first, second = SubnetLock.acquire(), SubnetLock.acquire()
    taken = SubnetLock.is_free(first.subnet.number)

    first.release()
    second.release()

    assert first.subnet != second.subnet
    assert not taken


def test_version_key_names_what_go_mod_requires() -> None:
    """The cache's key holds both versions."""
    assert version_key().startswith("kubernetes-v1.36.3-etcd-v3.6.8-linux-")


def test_programs_given_by_the_environment_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete KUBEBUILDER_ASSETS wins."""
    for program in PROGRAMS:
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    assert ensure_binaries() == tmp_path


def test_incomplete_assets_are_passed_over_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assets without a scheduler (as envtest has them) are no control plane; the cache is."""
    cached = tmp_path / "cache" / "flotilla" / "localcluster" / version_key()
    cached.mkdir(parents=True)
    (tmp_path / "assets").mkdir()
    for program in PROGRAMS:
        (cached / program).touch(mode=0o755)
    (tmp_path / "assets" / "etcd").touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert ensure_binaries() == cached
