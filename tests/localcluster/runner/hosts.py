"""The /etc/hosts of a pod, which is the cluster's DNS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from localcluster.runner.model import NamespacedName, Pod, Service

DOMAIN = "cluster.local"


def make_hosts(
    pod: Pod, pod_ip: str, services: Iterable[Service], headless: Mapping[NamespacedName, Sequence[str]]
) -> str:
    """The file's text: the pod's own name, every Service under its four names, then the pod's host aliases.

    `localhost` is the pod's own address, see `environment.map_loopback`. `headless` holds the ready pods' addresses of
    each Service that has no address of its own. The short name of a Service means the one in the pod's own namespace.
    """
    lines = [f"{pod_ip}\tlocalhost", "::1\tip6-localhost ip6-loopback", f"{pod_ip}\t{_own_names(pod)}"]
    for service in sorted(services, key=lambda service: service.key):
        names = " ".join(service_names(service.key, seen_from=pod.metadata.namespace))
        addresses = headless.get(service.key, ()) if service.spec.cluster_ip == "None" else [service.spec.cluster_ip]
        lines += [f"{address}\t{names}" for address in addresses if address]
    lines += [f"{alias.ip}\t{' '.join(alias.hostnames)}" for alias in pod.spec.host_aliases]
    return "\n".join(lines) + "\n"


def service_names(key: NamespacedName, *, seen_from: str) -> list[str]:
    """The names under which a Service is known in a namespace, the fullest first."""
    qualified = f"{key.name}.{key.namespace}"
    names = [f"{qualified}.svc.{DOMAIN}", f"{qualified}.svc", qualified]
    return [*names, key.name] if key.namespace == seen_from else names


def _own_names(pod: Pod) -> str:
    if not pod.spec.subdomain:
        return pod.hostname
    return f"{pod.hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{DOMAIN} {pod.hostname}"
