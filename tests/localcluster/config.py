"""What a local cluster is made of: nodes, images, and the file that tells the pod runner about both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

GPU_TAINT: Mapping[str, str] = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A fake node: the labels, allocatable quantities (as in a Node's status) and taints that it registers with."""

    name: str
    labels: dict[str, str] = field(default_factory=dict[str, str])
    allocatable: dict[str, str] = field(default_factory=dict[str, str])
    taints: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What stands in for a container image: argument vectors of local programs.

    `entrypoint` runs where a container gives no command. `programs` are the executables on the image's PATH:
    `command: [hf, download]` runs `programs["hf"] + ["download"]`, in exec probes and preStop hooks too.
    `env` is the image's own environment; a container's env wins over it.
    `folders` hold what else it needs: they stay in sight where a volume, such as one at /tmp, covers them.
    """

    entrypoint: list[str]
    programs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    env: dict[str, str] = field(default_factory=dict[str, str])
    folders: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """All that the pod runner needs to join a cluster; the JSON file of `python -m localcluster.runner --config FILE`.

    All addresses are on 127.0.0.0/8 and belong to this cluster alone. The runner serves the kubelet's API (logs) on
    `node_address:kubelet_port` with `kubelet_cert` and `kubelet_key`, to clients whose certificate `ca_path` signed.
    """

    cluster: str
    kubeconfig: Path  # the node agent's own credentials
    state_dir: Path  # volumes, container logs and whatever else the runner keeps; exists, empty at the first start
    ca_path: Path  # the cluster's CA: signs the API server, the kubelet endpoint and client certificates
    apiserver_host: str  # what KUBERNETES_SERVICE_HOST is in pods; in the API server's certificate
    apiserver_port: int
    service_cidr: str  # 127.N.0.0/17
    pod_cidr: str  # 127.N.128.0/17
    node_address: str  # every node's InternalIP; in the kubelet certificate
    kubelet_port: int  # every node's status.daemonEndpoints.kubeletEndpoint.Port
    kubelet_cert: Path
    kubelet_key: Path
    nodes: list[NodeSpec]
    images: dict[str, ImageSpec]  # keys are image names without a tag; see find_image
    backoff_base_seconds: float = (
        10.0  # first restart delay; it doubles up to 30 times this, as a kubelet's 10 s to 300 s
    )

    def write(self, path: Path) -> None:
        """Write this as JSON to `path`."""
        path.write_bytes(TypeAdapter(type(self)).dump_json(self, indent=2))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration that `write` left in `path`.

        Raises:
            OSError: there is no such file.
            pydantic.ValidationError: it is not JSON, or has other fields than these.
        """
        return TypeAdapter(cls).validate_json(path.read_bytes())


def find_image(name: str, images: Mapping[str, ImageSpec]) -> ImageSpec | None:
    """The image whose key is the longest prefix of `name` that ends before a path, tag or digest; None: unknown."""
    matches = [key for key in images if name == key or name.startswith((f"{key}:", f"{key}@", f"{key}/"))]
    return images[max(matches, key=len)] if matches else None


def cpu_node(name: str, *, cpu: str = "8", memory: str = "32Gi", pods: int = 110, zone: str = "zone-a") -> NodeSpec:
    """A node with no accelerator, where operators, gateways and agents run."""
    return NodeSpec(name, _node_labels(name, zone), {"cpu": cpu, "memory": memory, "pods": str(pods)})


def gpu_node(
    name: str,
    *,
    product: str = "NVIDIA-L4",
    gpus: int = 4,
    memory_mib: int = 23034,
    zone: str = "zone-a",
) -> NodeSpec:
    """A node of a GPU pool as NVIDIA's GPU operator labels it, tainted so that only pods that tolerate it come.

    `memory_mib` is one GPU's memory in MiB (an L4's by default).
    """
    labels = _node_labels(name, zone) | {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.memory": str(memory_mib),
        "feature.node.kubernetes.io/pci-10de.present": "true",
    }
    allocatable = {"cpu": str(12 * gpus), "memory": f"{48 * gpus}Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return NodeSpec(name, labels, allocatable, [dict(GPU_TAINT)])


def _node_labels(name: str, zone: str) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": zone.rpartition("-")[0] or zone,
        "topology.kubernetes.io/zone": zone,
    }
