"""What is compared, each on one processor in front of the same upstream: our router twice, Envoy, the bare splice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx

from flotilla_api.snapshot import RoutingSnapshot
from slice_bench.load import HEADERS, PATH, make_body
from slice_bench.policies import (
    API_KEYS,
    CREDENTIALS,
    GATEWAY_TOKEN,
    SNAPSHOT,
    pass_through_snapshot,
    quickstart_snapshot,
    write_files,
)
from slice_bench.processes import SERVER, free_port, module, running, wait_for_port

COMPILED = os.environ.get("FLOTILLA_ROUTER_BUILD", "")
"""The router with its hot path compiled, as its image holds it; empty: its sources are measured."""
QUICKSTART, PASS_THROUGH, ENVOY, SPLICE = "Flotilla, quickstart", "Flotilla, pass-through", "Envoy", "bare splice"
SIDECAR = "Flotilla, quickstart, as a sidecar"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    pid: int


def ours(upstream_port: int, scratch: Path) -> AbstractContextManager[Proxy]:
    """Flotilla's router with the policy of the quickstart."""
    return router(QUICKSTART, quickstart_snapshot(upstream_port), scratch / "quickstart", judges=True)


def ours_passing(upstream_port: int, scratch: Path) -> AbstractContextManager[Proxy]:
    """Flotilla's router with a policy that judges nothing and asks for no key."""
    return router(PASS_THROUGH, pass_through_snapshot(upstream_port), scratch / "pass-through", judges=False)


def ours_beside(upstream_port: int, scratch: Path) -> AbstractContextManager[Proxy]:
    """Flotilla's router as a sidecar, with the policy of the quickstart."""
    snapshot, folder = quickstart_snapshot(upstream_port), scratch / "sidecar"
    env = {"FLOTILLA_ROLE": "Sidecar", "FLOTILLA_GATEWAY_TOKEN_DIR": str(folder / GATEWAY_TOKEN)}
    return router(SIDECAR, snapshot, folder, judges=True, env=env)


@contextmanager
def router(
    name: str, snapshot: RoutingSnapshot, folder: Path, *, judges: bool, env: Mapping[str, str] | None = None
) -> Generator[Proxy]:
    """The router, as it runs in a gateway pod, unless `env` says that it runs elsewhere.

    Raises:
        RuntimeError: it does not answer, or not as its policy says: a router that misses something is quick.
    """
    write_files(folder, snapshot)
    port = free_port()
    settings = {
        "FLOTILLA_NAMESPACE": snapshot.namespace,
        "FLOTILLA_POLICY": snapshot.policy,
        "FLOTILLA_DATA_HOST": "127.0.0.1",
        "FLOTILLA_DATA_PORT": str(port),
        "FLOTILLA_ADMIN_HOST": "127.0.0.1",
        "FLOTILLA_ADMIN_PORT": str(free_port()),
        "FLOTILLA_SNAPSHOT_DIR": str(folder / SNAPSHOT),
        "FLOTILLA_API_KEYS_DIR": str(folder / API_KEYS),
        "FLOTILLA_CREDENTIALS_DIR": str(folder / CREDENTIALS),
        "FLOTILLA_SETTLE_SECONDS": "0",
        "FLOTILLA_DRAIN_SECONDS": "1",
        **({"PYTHONPATH": COMPILED} if COMPILED else {}),
        **(env or {}),
    }
    log = folder / "router.log"
    with running(module("flotilla_router"), cpu=SERVER, log=log, env=settings) as process:
        wait_for_port(port, process, log)
        answer = httpx.post(f"http://127.0.0.1:{port}{PATH}", content=make_body(stream=False), headers=HEADERS)
        if answer.status_code != HTTPStatus.OK or ("x-flotilla-score" in answer.headers) != judges:
            what = "judged" if judges else "passed on"
            raise RuntimeError(f"{name}: an answer was not {what}: {answer.status_code} {answer.headers}")
        yield Proxy(name, port, process.pid)


@contextmanager
def splice(upstream_port: int, scratch: Path) -> Generator[Proxy]:
    """The bare splice."""
    port = free_port()
    log = scratch / "splice.log"
    command = module("slice_bench.splice", "--port", str(port), "--upstream", str(upstream_port))
    with running(command, cpu=SERVER, log=log) as process:
        wait_for_port(port, process, log)
        yield Proxy(SPLICE, port, process.pid)


@contextmanager
def envoy(upstream_port: int, scratch: Path) -> Generator[Proxy]:
    """Envoy with one worker, HTTP/1.1 on both sides, an access log and nothing else."""
    port = free_port()
    config = scratch / "envoy.json"
    config.write_text(json.dumps(_envoy_config(port, upstream_port, scratch / "access.log")))
    log = scratch / "envoy.log"
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
    command = [binary, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    with running(command, cpu=SERVER, log=log) as process:
        wait_for_port(port, process, log)
        yield Proxy(ENVOY, port, process.pid)


def envoy_version() -> str:
    """What `envoy --version` says."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split("version:")[-1].strip().split("/")[1]


def _envoy_config(port: int, upstream_port: int, access_log: Path) -> dict[str, object]:
    types = "type.googleapis.com/envoy.extensions"
    router = {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
    access = {
        "name": "file",
        "typed_config": {"@type": f"{types}.access_loggers.file.v3.FileAccessLog", "path": str(access_log)},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "300s"}}
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [router],
        "access_log": [access],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    listener = {
        "name": "listener",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": _address(upstream_port)}}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_requests": 4096}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
