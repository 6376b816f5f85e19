"""Names and addresses: /etc/hosts, Service endpoints, pod addresses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pod_builders import a_container, a_pod, a_service

from localcluster.runner.addresses import AddressPool
from localcluster.runner.hosts import make_hosts
from localcluster.runner.model import Pod
from localcluster.runner.routes import Endpoint, Frontend, plan_routes

READY = [{"type": "Ready", "status": "True"}]


def _serving(ip: str = "127.96.128.1", **changes: Any) -> Pod:
    """A ready pod that a Service with selector app=web selects."""
    pod = a_pod(a_container(ports=[{"name": "http", "containerPort": 8080}]), metadata={"labels": {"app": "web"}})
    status = {"podIP": ip, "phase": "Running", "conditions": READY, **changes.pop("status", {})}
    meta = msgspec.structs.replace(pod.metadata, **changes)
    return msgspec.structs.replace(pod, metadata=meta, status=status)


def test_every_service_has_its_four_names() -> None:
    """A pod finds Services under the names that cluster DNS would have; the short one only in its own namespace."""
    other = a_service("api")
    other = msgspec.structs.replace(other, metadata=msgspec.structs.replace(other.metadata, namespace="else"))
    pod = a_pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["old", "older"]}])

    lines = make_hosts(pod, "127.96.128.1", [other, a_service("web")], {}).splitlines()

    assert lines[2:] == [
        "127.96.128.1\tweb-0",
        "127.96.0.9\tapi.else.svc.cluster.local api.else.svc api.else",
        "127.96.0.9\tweb.shop.svc.cluster.local web.shop.svc web.shop web",
        "10.0.0.1\told older",
    ]


def test_localhost_is_the_pods_own_address() -> None:
    """Every pod shares this machine's 127.0.0.1 with all others, so it is nobody's localhost."""
    lines = make_hosts(a_pod(), "127.96.128.1", [], {}).splitlines()

    assert [line for line in lines if "localhost" in line.split()] == ["127.96.128.1\tlocalhost"]


def test_headless_service_names_its_ready_pods() -> None:
    """A Service without an address resolves to its pods; a pod with a subdomain has a full name of its own."""
    service = a_service("db", clusterIP="None")
    pod = a_pod(hostname="db-0", subdomain="db")

    lines = make_hosts(pod, "127.96.128.1", [service], {service.key: ["127.96.128.1", "127.96.128.2"]}).splitlines()

    assert lines[2:] == [
        "127.96.128.1\tdb-0.db.shop.svc.cluster.local db-0",
        "127.96.128.1\tdb.shop.svc.cluster.local db.shop.svc db.shop db",
        "127.96.128.2\tdb.shop.svc.cluster.local db.shop.svc db.shop db",
    ]


@pytest.mark.parametrize(
    ("changes", "serves"),
    [
        pytest.param({}, True, id="ready"),
        pytest.param({"status": {"conditions": []}}, False, id="unready"),
        pytest.param({"deletion_timestamp": "2026-01-01T00:00:00Z"}, False, id="terminating"),
        pytest.param({"status": {"phase": "Succeeded"}}, False, id="over"),
        pytest.param({"status": {"podIP": ""}}, False, id="without an address"),
        pytest.param({"labels": {"app": "other"}}, False, id="not selected"),
        pytest.param({"namespace": "else"}, False, id="in another namespace"),
    ],
)
def test_only_ready_pods_serve(changes: dict[str, Any], serves: bool) -> None:
    """A Service's connections go to ready pods that it selects, and to no others."""
    service = a_service(selector={"app": "web"}, ports=[{"port": 80, "targetPort": "http"}])

    routes = plan_routes(service, [_serving(**changes)])

    assert routes == {Frontend("127.96.0.9", 80): (Endpoint("127.96.128.1", 8080),) if serves else ()}


def test_unready_pods_serve_where_the_service_says_so() -> None:
    """`publishNotReadyAddresses` takes unready pods too."""
    ports = [{"port": 80, "targetPort": 9}]
    service = a_service(selector={"app": "web"}, ports=ports, publishNotReadyAddresses=True)

    routes = plan_routes(service, [_serving(status={"conditions": []})])

    assert routes == {Frontend("127.96.0.9", 80): (Endpoint("127.96.128.1", 9),)}


def test_order_of_pods_does_not_matter() -> None:
    """The same pods make the same routes."""
    service = a_service(selector={"app": "web"}, ports=[{"port": 80}])
    pods = [_serving("127.96.128.2"), _serving("127.96.128.1")]

    assert plan_routes(service, pods) == plan_routes(service, pods[::-1])


def test_service_without_selector_has_no_endpoints() -> None:
    """An empty selector selects nothing."""
    assert plan_routes(a_service(ports=[{"port": 80}]), [_serving()]) == {Frontend("127.96.0.9", 80): ()}


def test_address_is_not_reused_soon() -> None:
    """An address that was given back comes up again only after all others."""
    pool = AddressPool("127.96.128.0/29")
    first = pool.take()
    pool.give_back(first)

    assert [pool.take() for _ in range(6)] == [*(f"127.96.128.{n}" for n in range(2, 7)), first]
    with pytest.raises(RuntimeError, match="in use"):
        pool.take()
