"""The quickstart's external provider: simulated answers behind real TLS and a real API key."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from localcluster.access import ClusterAccess
from stack.certificates import make_serving_certificate
from stack.images import PROVIDER_IMAGE

NAMESPACE = "providers"
NAME = "provider"
MODEL = "big-1"
PORT = 8443
_HOST = f"{NAME}.{NAMESPACE}.svc"
URL = f"https://{_HOST}.cluster.local/v1"
_LABELS = {"app": NAME}
_TLS_DIR = "/etc/tls"

Manifest = dict[str, Any]


def start_provider(cluster: ClusterAccess, api_key: str) -> str:
    """A provider will answer at `URL` to requests that show `api_key`; the PEM of the authority that signed it.

    One that is there already stays as it is.
    """
    if authority := _authority(cluster):
        return authority
    certificate = make_serving_certificate(f"{_HOST}.cluster.local", _HOST)
    secret = {
        "tls.crt": certificate.certificate,
        "tls.key": certificate.key,
        "ca.crt": certificate.authority,
        "api-key": api_key,
    }
    manifests = [_namespace(), _secret(secret), _deployment(), _service()]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))
    return certificate.authority


def _authority(cluster: ClusterAccess) -> str:
    """The authority of the provider that is there; '' if there is none."""
    found = cluster.kubectl(
        "get", "secret", NAME, "-n", NAMESPACE, "--ignore-not-found", "-o", "jsonpath={.data.ca\\.crt}"
    )
    return base64.b64decode(found).decode()


def _namespace() -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _secret(entries: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "stringData": entries,
    }


def _deployment() -> Manifest:
    template = {"metadata": {"labels": _LABELS}, "spec": _pod_spec()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"replicas": 1, "selector": {"matchLabels": _LABELS}, "template": template},
    }


def _pod_spec() -> Manifest:
    flags = ["--model", MODEL, "--host", "$(POD_IP)", "--port", str(PORT)]
    flags += ["--ssl-certfile", f"{_TLS_DIR}/tls.crt", "--ssl-keyfile", f"{_TLS_DIR}/tls.key"]
    container = {
        "name": NAME,
        "image": PROVIDER_IMAGE,
        "args": flags,
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": NAME, "key": "api-key"}}},
        ],
        "ports": [{"name": "https", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": "https"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tls", "mountPath": _TLS_DIR, "readOnly": True}],
    }
    return {"containers": [container], "volumes": [{"name": "tls", "secret": {"secretName": NAME}}]}


def _service() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"selector": _LABELS, "ports": [{"name": "https", "port": 443, "targetPort": "https"}]},
    }
