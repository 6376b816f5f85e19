"""Where tests get a Prometheus from, and how its pod finds others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.binaries import BuildError
from localcluster.prometheus import ensure_prometheus, prometheus_program
from stack.discovery import target_groups
from stack.prometheus import EXAMPLE, scrape_configs

Json = dict[str, Any]


def a_program(directory: Path, name: str, script: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Prometheus: its PATH is one folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def test_a_program_on_the_path_is_used(machine: Path) -> None:
    """Nothing is fetched where there is one."""
    a_program(machine / "bin", "prometheus")

    assert ensure_prometheus() == machine / "bin" / "prometheus"


def test_a_program_in_the_cache_is_used(machine: Path) -> None:
    """It is fetched once."""
    a_program(machine / "cache" / "flotilla" / "prometheus", "prometheus")

    assert ensure_prometheus() == prometheus_program()


def test_a_machine_without_packages_is_told_what_to_do() -> None:
    """There is no other source."""
    with pytest.raises(BuildError, match="put Prometheus"):
        ensure_prometheus()


def test_what_a_package_manager_says_is_passed_on(machine: Path) -> None:
    """And nothing is left in the cache that looks like a program."""
    a_program(machine / "bin", "apt-get", "echo no network >&2; exit 100")

    with pytest.raises(BuildError, match="no network"):
        ensure_prometheus()
    assert not prometheus_program().exists()


def a_pod(**status: str) -> Json:
    sidecar = {"name": "flotilla-router", "ports": [{"name": "flotilla-admin", "containerPort": 19090}]}
    spec = {
        "initContainers": [sidecar],
        "containers": [{"name": "agent", "ports": [{"containerPort": 80}]}, {"name": "x"}],
    }
    metadata = {"name": "agent", "namespace": "team", "labels": {"flotilla.dev/policy": "router"}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", **status}}


def test_every_port_of_a_pod_is_a_target() -> None:
    """With the labels that relabelling goes by; a pod without an address has none."""
    sidecar, agent = target_groups(a_pod(podIP="10.0.0.1"))

    assert [*target_groups(a_pod())] == []
    assert (sidecar["targets"], agent["targets"]) == (["10.0.0.1:19090"], ["10.0.0.1:80"])
    assert sidecar["labels"] == {
        "__meta_kubernetes_namespace": "team",
        "__meta_kubernetes_pod_name": "agent",
        "__meta_kubernetes_pod_ip": "10.0.0.1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_flotilla_dev_policy": "router",
        "__meta_kubernetes_pod_labelpresent_flotilla_dev_policy": "true",
        "__meta_kubernetes_pod_container_name": "flotilla-router",
        "__meta_kubernetes_pod_container_init": "true",
        "__meta_kubernetes_pod_container_port_name": "flotilla-admin",
        "__meta_kubernetes_pod_container_port_number": "19090",
    }


def test_the_example_is_tried_but_for_where_targets_come_from() -> None:
    """Its relabelling is what the pod on the local cluster runs with."""
    given: list[Json] = yaml.safe_load((EXAMPLE / "scrape-configs.yaml").read_text())["scrape_configs"]

    tried = scrape_configs(1)

    assert [each["relabel_configs"] for each in tried] == [each["relabel_configs"] for each in given]
    assert [each["job_name"] for each in tried] == [each["job_name"] for each in given]
    assert all(each["kubernetes_sd_configs"] == [{"role": "pod"}] for each in given)
