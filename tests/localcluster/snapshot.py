"""What a person needs to understand a failed test after its cluster is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from localcluster.tools import CommandError, Kubectl

SECRET_KINDS = {"secrets"}


def dump_cluster(kubectl: Kubectl, logs: Path, to: Path) -> Path:
    """Write all objects but Secrets, events, descriptions of pods, and all logs under `to`; `to`."""
    to.mkdir(parents=True, exist_ok=True)
    shutil.copytree(logs, to / "programs", dirs_exist_ok=True)
    kinds = sorted(set(kubectl("api-resources", "--verbs=list", "--output=name").split()) - SECRET_KINDS)
    (to / "objects.yaml").write_text(kubectl("get", ",".join(kinds), "--all-namespaces", "--output=yaml"))
    (to / "events.txt").write_text(
        kubectl("get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp")
    )
    (to / "pods.txt").write_text(kubectl("describe", "pods", "--all-namespaces"))
    pods: list[dict[str, Any]] = json.loads(kubectl("get", "pods", "--all-namespaces", "--output=json"))["items"]
    for pod in pods:
        _dump_logs(kubectl, pod, to / "pods")
    return to


def _dump_logs(kubectl: Kubectl, pod: dict[str, Any], to: Path) -> None:
    to.mkdir(exist_ok=True)
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        for suffix, options in (("", []), (".previous", ["--previous"])):
            try:
                text = kubectl("logs", "--namespace", namespace, name, "--container", container["name"], *options)
            except CommandError as error:
                text = f"no log: {error}\n"
            (to / f"{namespace}.{name}.{container['name']}{suffix}.log").write_text(text)
