"""kind-config.yaml is what kind's own loader takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kindcli import ensure_kind

pytestmark = pytest.mark.timeout(600)  # the first run builds kind

CONFIG = Path(__file__).parents[2] / "kind-config.yaml"
NO_DOCKER = 'exec: "docker": executable file not found'
"""How kind fails once it has loaded the configuration, where no container engine is on its PATH."""


def create_cluster(config: Path, home: Path) -> str:
    """What `kind create cluster` says without any container engine: it loads the configuration, then gives up."""
    environment = {"PATH": str(home), "HOME": str(home)}
    command = [str(ensure_kind()), "create", "cluster", "--config", str(config)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode != 0
    return result.stderr


@pytest.fixture(scope="module")
def nodes() -> list[dict[str, Any]]:
    """The nodes of kind-config.yaml."""
    return yaml.safe_load(CONFIG.read_text())["nodes"]


def test_kind_loads_the_configuration(tmp_path: Path) -> None:
    """kind gets as far as looking for Docker."""
    assert NO_DOCKER in create_cluster(CONFIG, tmp_path)


def test_kind_would_refuse_a_misspelt_field(tmp_path: Path) -> None:
    """The loader is strict, so the test above can fail."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(CONFIG.read_text().replace("labels:", "lables:"))

    said = create_cluster(broken, tmp_path)

    assert "field lables not found" in said
    assert NO_DOCKER not in said


def test_gpu_nodes_match_the_profile_of_the_examples(nodes: list[dict[str, Any]]) -> None:
    """The L4 profile's pods can go to the nodes that look like an L4 pool, and nothing else does."""
    profile = yaml.safe_load((CONFIG.parent / "examples" / "accelerators" / "l4.yaml").read_text())["spec"]
    pool = [node for node in nodes if node.get("labels", {}).items() >= profile["nodeSelector"].items()]

    assert len(pool) == 2
    for node in pool:
        (patch,) = map(yaml.safe_load, node["kubeadmConfigPatches"])
        assert patch["kind"] == "JoinConfiguration"
        assert [taint["key"] for taint in patch["nodeRegistration"]["taints"]] == [profile["tolerations"][0]["key"]]


def test_make_kind_can_be_repeated_and_reaches_no_other_cluster(tmp_path: Path) -> None:
    """The cluster is made once; the chart is installed or upgraded in it, whatever kubectl's current context is."""
    made, calls = tmp_path / "made", tmp_path / "calls"
    remember = f'echo "$(basename "$0") $*" >>{calls}\n'
    programs = {
        "docker": remember,
        "helm": remember,
        "kind": f'{remember}case "$1" in get) cat {made} 2>/dev/null;; create) echo flotilla >{made};; esac\n',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    for _ in range(2):
        subprocess.run(
            ["make", "kind"], cwd=CONFIG.parent, env=environment, capture_output=True, check=True, timeout=60
        )

    said = calls.read_text().splitlines()
    helm = [call for call in said if call.startswith("helm ")]
    assert sum(call.startswith("kind create cluster") for call in said) == 1
    assert len(helm) == 2
    assert all(
        call.startswith("helm upgrade --install flotilla") and "--kube-context kind-flotilla" in call for call in helm
    )
