"""Finds pods for a Prometheus that was built without Kubernetes' service discovery, as Debian's is.

`python -m stack.discovery FILE` keeps FILE, for `file_sd_configs`, as `kubernetes_sd_configs: [{role: pod}]` would have
it: one target for each port of each container, with the same labels. It runs in Prometheus' pod, with its rights.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_SECONDS = 0.5
_META = "__meta_kubernetes_"

Json = dict[str, Any]


def main() -> None:
    """Until it is ended."""
    path = Path(sys.argv[1])
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with httpx.Client(base_url=f"https://{host}:{port}", verify=context, trust_env=False) as client:
        while True:
            _refresh(client, path)
            time.sleep(EVERY_SECONDS)


def _refresh(client: httpx.Client, path: Path) -> None:
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    try:
        pods: list[Json] = client.get("/api/v1/pods", headers=headers).raise_for_status().json()["items"]
    except httpx.HTTPError as error:
        print(f"pods not listed: {error}", file=sys.stderr, flush=True)
        return
    text = json.dumps([group for pod in pods for group in target_groups(pod)])
    if not path.exists() or path.read_text() != text:
        scratch = path.with_suffix(".new")
        scratch.write_text(text)
        scratch.rename(path)


def target_groups(pod: Json) -> Iterator[Json]:
    """Every port of a pod that has an address."""
    address: str = pod.get("status", {}).get("podIP", "")
    if not address:
        return
    spec: Json = pod["spec"]
    both: list[tuple[bool, list[Json]]] = [(True, spec.get("initContainers") or []), (False, spec["containers"])]
    for init, containers in both:
        for container in containers:
            ports: list[Json] = container.get("ports") or []
            for port in ports:
                labels = {**_pod_labels(pod), **_port_labels(container, port, init=init)}
                yield {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}


def _pod_labels(pod: Json) -> dict[str, str]:
    metadata, status = pod["metadata"], pod["status"]
    found = {
        f"{_META}namespace": metadata["namespace"],
        f"{_META}pod_name": metadata["name"],
        f"{_META}pod_ip": status["podIP"],
        f"{_META}pod_phase": status["phase"],
    }
    labels: dict[str, str] = metadata.get("labels") or {}
    for name, value in labels.items():
        sanitized = re.sub(r"\W", "_", name)
        found[f"{_META}pod_label_{sanitized}"] = value
        found[f"{_META}pod_labelpresent_{sanitized}"] = "true"
    return found


def _port_labels(container: Json, port: Json, *, init: bool) -> dict[str, str]:
    return {
        f"{_META}pod_container_name": container["name"],
        f"{_META}pod_container_init": str(init).lower(),
        f"{_META}pod_container_port_name": port.get("name", ""),
        f"{_META}pod_container_port_number": str(port["containerPort"]),
    }


if __name__ == "__main__":
    main()
