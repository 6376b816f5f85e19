"""The three that are compared, each on one processor in front of the same upstream: ours, Envoy, the bare splice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flotilla_api.snapshot import (
    Endpoint,
    EscalationConfig,
    Route,
    RoutingSnapshot,
    Target,
    TimeoutConfig,
    TokenPrice,
    WeightedTarget,
)
from slice_bench.processes import SERVER_CPU, free_port, module, running, wait_for_port


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    name: str
    port: int
    pid: int


def make_snapshot(upstream_port: int) -> RoutingSnapshot:
    """One expert behind the alias `auto`, priced, with every timeout set and no fallback to judge for."""
    expert = Target(
        kind="Expert",
        name="small",
        location="Local",
        model="small",
        endpoints=(Endpoint(address=f"127.0.0.1:{upstream_port}", pod="small-0"),),
        apis=("chat", "completions"),
        tools=True,
        jsonSchema=True,
        maxContextTokens=8192,
        price=TokenPrice(inputPerMillionUSD=0.02, outputPerMillionUSD=0.08),
    )
    escalation = EscalationConfig(
        on=(),
        commitTokens=12,
        commitMaxWaitSeconds=0.2,
        noSignal="Accept",
        structuredMaxWaitSeconds=5,
        structuredMaxBytes=65536,
        minConfidence=0.5,
        deadlineSeconds=20,
        onFallbackFailure="UseExpert",
    )
    timeouts = TimeoutConfig(
        connectSeconds=1, firstTokenSeconds=60, idleSeconds=60, totalSeconds=300, keepAliveAfterSeconds=60
    )
    route = Route(
        experts=(WeightedTarget(name="small", weight=1),), fallbacks=(), boundary="Any", escalation=escalation
    )
    return RoutingSnapshot(
        namespace="bench",
        policy="bench",
        uid="bench",
        generation=1,
        models=("auto",),
        pinnable=(),
        targets=(expert,),
        route=route,
        rules=(),
        timeouts=timeouts,
        maxBodyBytes=8 * 1024 * 1024,
        anonymous=True,
    )


@contextmanager
def ours(upstream_port: int, scratch: Path) -> Generator[Proxy]:
    """Flotilla's router, as it runs in a gateway pod."""
    snapshot_dir = scratch / "snapshot"
    snapshot_dir.mkdir(exist_ok=True)
    (snapshot_dir / "snapshot.json").write_bytes(make_snapshot(upstream_port).to_json())
    port = free_port()
    env = {
        "FLOTILLA_NAMESPACE": "bench",
        "FLOTILLA_POLICY": "bench",
        "FLOTILLA_DATA_HOST": "127.0.0.1",
        "FLOTILLA_DATA_PORT": str(port),
        "FLOTILLA_ADMIN_HOST": "127.0.0.1",
        "FLOTILLA_ADMIN_PORT": str(free_port()),
        "FLOTILLA_SNAPSHOT_DIR": str(snapshot_dir),
        "FLOTILLA_SETTLE_SECONDS": "0",
        "FLOTILLA_DRAIN_SECONDS": "1",
    }
    log = scratch / "router.log"
    with running(module("flotilla_router"), cpu=SERVER_CPU, log=log, env=env) as process:
        wait_for_port(port, process, log)
        yield Proxy("Flotilla", port, process.pid)


@contextmanager
def splice(upstream_port: int, scratch: Path) -> Generator[Proxy]:
    """The bare splice."""
    port = free_port()
    log = scratch / "splice.log"
    command = module("slice_bench.splice", "--port", str(port), "--upstream", str(upstream_port))
    with running(command, cpu=SERVER_CPU, log=log) as process:
        wait_for_port(port, process, log)
        yield Proxy("bare splice", port, process.pid)


@contextmanager
def envoy(upstream_port: int, scratch: Path) -> Generator[Proxy]:
    """Envoy with one worker, HTTP/1.1 on both sides, an access log and nothing else."""
    port = free_port()
    config = scratch / "envoy.json"
    config.write_text(json.dumps(_envoy_config(port, upstream_port, scratch / "access.log")))
    log = scratch / "envoy.log"
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
    command = [binary, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    with running(command, cpu=SERVER_CPU, log=log) as process:
        wait_for_port(port, process, log)
        yield Proxy("Envoy", port, process.pid)


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
