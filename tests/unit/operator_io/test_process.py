"""Settings, logs, the admin listener and the process's first words."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from builders import NAMESPACE, a_profile, an_expert
from fakes.apiserver import FakeApiServer, running_api_server
from flotilla_operator.__main__ import Operator, make_clients, run
from flotilla_operator.adapters.admin import Admin
from flotilla_operator.adapters.client import Connection
from flotilla_operator.adapters.kinds import KINDS, LEASE, OWN_KINDS
from flotilla_operator.settings import SettingsError, load_settings
from flotilla_operator.telemetry import LOGGER, Telemetry, configure_logging, fields

REQUIRED = {
    "FLOTILLA_ENGINE_IMAGE": "vllm/vllm-openai:v0.32.0",
    "FLOTILLA_ROUTER_IMAGE": "flotilla-router:1",
    "FLOTILLA_NAMESPACE": "flotilla-system",
}


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Logging as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("kopf", "aiohttp", "asyncio", "urllib3", "kubernetes")}
    yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_settings_need_little() -> None:
    """Three variables suffice; routers find the control API by its Service."""
    settings = load_settings(REQUIRED)

    assert settings.for_children().control_url == "https://flotilla-control.flotilla-system.svc:9443"
    assert settings.watch_namespaces == ()
    assert settings.control_names[0] == "flotilla-control.flotilla-system.svc"


def test_settings_read_lists_numbers_and_empty_values() -> None:
    """Commas separate names, an empty value counts as none, and other variables are nobody's business."""
    more = {
        "FLOTILLA_WATCH_NAMESPACES": "agents, data ,",
        "FLOTILLA_WORKERS": "3",
        "FLOTILLA_LOG_LEVEL": "",
        "FLOTILLA_CONTROL_SERVICE_HOST": "10.0.0.1",
        "FLOTILLA_POD_IP": "fd00::1",
    }
    settings = load_settings({**REQUIRED, **more})

    assert settings.watch_namespaces == ("agents", "data")
    assert (settings.workers, settings.log_level) == (3, "INFO")
    assert settings.control_address == "[fd00::1]:9443"


def test_settings_of_sidecars_reach_those_who_make_them() -> None:
    """What a policy does not say of its sidecars is the chart's."""
    more = {
        "FLOTILLA_SIDECAR_PORT": "4000",
        "FLOTILLA_SIDECAR_ADMIN_PORT": "4001",
        "FLOTILLA_SIDECAR_CPU_REQUEST": "1",
        "FLOTILLA_SIDECAR_MEMORY_REQUEST": "2Mi",
        "FLOTILLA_SIDECAR_MEMORY_LIMIT": "3Mi",
    }
    made = load_settings({**REQUIRED, **more}).for_children()

    assert (made.sidecar_port, made.sidecar_admin_port) == (4000, 4001)
    assert (made.sidecar_cpu_request, made.sidecar_memory_request, made.sidecar_memory_limit) == ("1", "2Mi", "3Mi")


def test_settings_of_prometheus_are_an_address_files_and_labels() -> None:
    """No secret is a variable's value."""
    more = {
        "FLOTILLA_PROMETHEUS_URL": "https://prometheus.monitoring.svc:9090/prefix",
        "FLOTILLA_PROMETHEUS_TOKEN_FILE": "/etc/flotilla/prometheus/token",
        "FLOTILLA_PROMETHEUS_LABELS": "cluster=prod, region = eu",
        "FLOTILLA_SCRAPE_INTERVAL_SECONDS": "30",
    }
    settings = load_settings({**REQUIRED, **more})

    assert settings.prometheus_url == "https://prometheus.monitoring.svc:9090/prefix"
    assert settings.prometheus_labels == (("cluster", "prod"), ("region", "eu"))
    assert settings.scrape_interval_seconds == 30.0


def test_metrics_have_to_come_before_the_next_decision() -> None:
    """However long their timeout is."""
    often = load_settings({**REQUIRED, "FLOTILLA_SCALING_INTERVAL_SECONDS": "5"})

    assert often.metrics_timeout_seconds == 3.0
    assert load_settings(REQUIRED).metrics_timeout_seconds == 10.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"FLOTILLA_SCALING_INTERVAL_SECONDS": "1"}, "SCALING_INTERVAL", id="no time to ask"),
        pytest.param({"FLOTILLA_PROMETHEUS_URL": "prometheus:9090"}, "PROMETHEUS_URL: .*https://", id="no scheme"),
        pytest.param({"FLOTILLA_PROMETHEUS_URL": "http://a:b@host"}, "no credentials", id="secret in the address"),
        pytest.param({"FLOTILLA_PROMETHEUS_URL": "http://host/?x=1"}, "before /api/v1", id="query in the address"),
        pytest.param({"FLOTILLA_PROMETHEUS_LABELS": "a-b=c"}, "'a-b' is no label", id="no label"),
        pytest.param({"FLOTILLA_PROMETHEUS_USERNAME_FILE": "/u"}, "belong together", id="user without password"),
        pytest.param({"FLOTILLA_PROMETHEUS_TIMEOUT_SECONDS": "60"}, "PROMETHEUS_TIMEOUT", id="longer than a tick"),
        pytest.param(
            {
                "FLOTILLA_PROMETHEUS_TOKEN_FILE": "/t",
                "FLOTILLA_PROMETHEUS_USERNAME_FILE": "/u",
                "FLOTILLA_PROMETHEUS_PASSWORD_FILE": "/p",
            },
            "exclude each other",
            id="two kinds of credentials",
        ),
        pytest.param({"FLOTILLA_ENGINE_IMAGE": ""}, "FLOTILLA_ENGINE_IMAGE", id="missing"),
        pytest.param({"FLOTILLA_WORKERS": "many"}, "FLOTILLA_WORKERS", id="not a number"),
        pytest.param({"FLOTILLA_IMAGE_PULL_POLICY": "Sometimes"}, "FLOTILLA_IMAGE_PULL_POLICY", id="not a choice"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, str], named: str) -> None:
    """The message names the variable, and the process ends with 2."""
    with pytest.raises(SettingsError, match=named):
        load_settings({**REQUIRED, **change})


def test_the_process_says_what_it_misses(capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads it, not a traceback."""
    assert run({}) == 2
    assert "FLOTILLA_NAMESPACE" in capsys.readouterr().err


@pytest.mark.usefixtures("restored_logging")
def test_logs_are_json_lines() -> None:
    """A constant message and key-values, with the traceback where there is one."""
    stream = io.StringIO()
    configure_logging("INFO", stream)
    try:
        raise ValueError("provoked")
    except ValueError:
        logging.getLogger(LOGGER).exception("reconcile crashed", extra=fields(name="invoice"))
    logging.getLogger("kopf.activities").info("noise")

    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["message"], entry["name"]) == ("error", "reconcile crashed", "invoice")
    assert "ValueError: provoked" in entry["error"]


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.usefixtures("restored_logging")
def test_logs_are_key_values_on_a_terminal() -> None:
    """Values with blanks are quoted."""
    stream = Terminal()
    configure_logging("INFO", stream)
    logging.getLogger(LOGGER).info("reconciled", extra=fields(name="invoice", steps="new, changed"))

    assert stream.getvalue().rstrip().endswith('info    reconciled name=invoice steps="new, changed"')


async def test_the_admin_listener_says_what_is_wrong() -> None:
    """Health and readiness are told apart, and metrics are Prometheus text."""
    wrong = {"store": "not filled yet"}
    admin = Admin(Telemetry(), health={"feed": lambda: ""}, readiness={"store": lambda: wrong.get("store", "")})
    await admin.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{admin.port}") as http:
            healthy = await (await http.get("/healthz")).text()
            unready = await http.get("/readyz")
            reason = await unready.text()
            wrong.clear()
            ready = await http.get("/readyz")
            metrics = await (await http.get("/metrics")).text()
    finally:
        await admin.stop()

    assert (healthy, unready.status, reason) == ("ok", 503, "store: not filled yet")
    assert ready.status == 200
    assert "flotilla_operator_leader 0.0" in metrics


LEASE_PATH = LEASE.path("flotilla-system", "flotilla-operator")
FIRST_WRITE = ("PATCH", KINDS["ServiceAccount"].path(NAMESPACE, "invoice-expert"))


def a_free_port() -> int:
    """Nobody listens on it now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@dataclass
class Running:
    """The whole operator, as the process composes it."""

    api: FakeApiServer
    stopping: asyncio.Event
    task: asyncio.Task[None]

    @property
    def holder(self) -> str:
        """Who holds the Lease."""
        return self.api.objects.get(LEASE_PATH, {}).get("spec", {}).get("holderIdentity", "")

    async def until_held(self, request: tuple[str, str]) -> None:
        """The operator waits for the answer to `request`."""
        async with asyncio.timeout(20):
            while request not in self.api.held:  # noqa: ASYNC110 - the server has nothing to wait for
                await asyncio.sleep(0.01)


@asynccontextmanager
async def a_running_operator(*held: tuple[str, str], unserved: frozenset[str] = frozenset()) -> AsyncGenerator[Running]:
    """One Expert is to be served; requests in `held` are not answered yet."""
    async with running_api_server() as api:
        api.holds = {request: asyncio.Event() for request in held}
        api.unserved = unserved
        for manifest in (a_profile(), an_expert()):
            metadata = manifest["metadata"]
            api.put(KINDS[manifest["kind"]].path(metadata.get("namespace", ""), metadata["name"]), manifest)
        ports = {"FLOTILLA_CONTROL_PORT": str(a_free_port()), "FLOTILLA_ADMIN_PORT": str(a_free_port())}
        settings = load_settings({**REQUIRED, **ports, "FLOTILLA_WATCH_NAMESPACES": NAMESPACE})
        connection = Connection(
            api.url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: None
        )
        telemetry, stopping = Telemetry(), asyncio.Event()
        async with make_clients(connection, telemetry) as clients:
            operator = Operator(settings, connection, clients, telemetry)
            task = asyncio.create_task(operator.run(stopping))
            try:
                yield Running(api, stopping, task)
            finally:
                api.ended.set()
                stopping.set()
                await task


async def test_an_end_cuts_no_write_and_gives_up_the_lease_last() -> None:
    """What was begun is answered first; until then nobody else may write."""
    async with a_running_operator(FIRST_WRITE) as running:
        await running.until_held(FIRST_WRITE)
        leading = running.holder
        running.stopping.set()
        renewals = running.api.requests.count(("PUT", LEASE_PATH))
        async with asyncio.timeout(20):
            while running.api.requests.count(("PUT", LEASE_PATH)) == renewals:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        still_leading = running.holder
        running.api.holds[FIRST_WRITE].set()
        await running.task

        assert leading
        assert still_leading == leading
        assert FIRST_WRITE[1] in running.api.objects
        assert running.api.requests.index(FIRST_WRITE) < _last(running.api.requests, ("PUT", LEASE_PATH))
        assert running.holder == ""


async def test_an_end_during_the_start_is_an_end() -> None:
    """An operator that waits for its CRDs ends when it is told to."""
    async with a_running_operator(unserved=frozenset(kind.plural for kind in OWN_KINDS)) as running:
        async with asyncio.timeout(20):
            while not running.api.requests:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        running.stopping.set()
        await running.task

        assert running.holder == ""


def _last(requests: list[tuple[str, str]], wanted: tuple[str, str]) -> int:
    return len(requests) - 1 - requests[::-1].index(wanted)
