"""The Prometheus adapter against a server that a test scripts: down, slow, and lying."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.prometheus import FakePrometheus, Row, running_prometheus_fake, success
from flotilla_operator.adapters.prometheus import PrometheusMetrics
from flotilla_operator.adapters.prometheus_server import PrometheusServer, PrometheusSettings
from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.fleet import (
    ExpertSignals,
    Fleet,
    FleetSignals,
    MeasuredPod,
    NamespacedName,
    Routers,
    ServedExpert,
)
from flotilla_operator.scaling.signals import Known, Signal, Unknown
from stack.certificates import make_serving_certificate

SCOPE = r.Scope()
KEY, POLICY = NamespacedName("team", "invoice"), NamespacedName("team", "router")
GATEWAY, ENGINE = "router-gateway-1-a", "invoice-expert-1-a"
FLEET = Fleet(
    {KEY: ServedExpert((MeasuredPod(ENGINE, "127.0.0.1:1", 0.0),), frozenset({POLICY.name}))},
    {POLICY: Routers((MeasuredPod(GATEWAY, "127.0.0.1:1", 0.0),))},
)
NO_LABELS: Mapping[str, str] = {}
_GATEWAY = {"namespace": "team", "policy": "router", "pod": GATEWAY}
_ENGINE = {"namespace": "team", "pod": ENGINE}
HEALTHY: Mapping[r.Reading, list[Row]] = {
    r.ROUTERS: [(_GATEWAY, 4.0)],
    r.SCRAPES: [(_GATEWAY, 3.0)],
    r.ENGINES: [({**_ENGINE, "model_name": "invoice"}, 6.0)],
    r.DEMAND: [({"namespace": "team", "expert": "invoice"}, 2.5)],
    r.RUNNING: [(_ENGINE, 7.0)],
}


@pytest.fixture
async def server() -> AsyncGenerator[FakePrometheus]:
    async with running_prometheus_fake() as fake:
        fake.vectors = {r.promql(reading, SCOPE): rows for reading, rows in HEALTHY.items()}
        yield fake


@asynccontextmanager
async def source(server: FakePrometheus, **more: Any) -> AsyncGenerator[PrometheusMetrics]:
    """`more` are settings."""
    settings = replace(PrometheusSettings(server.url, timeout_seconds=5.0), **more)
    async with PrometheusServer(settings, answer_max_bytes=10**6) as api:
        yield PrometheusMetrics(api, SCOPE, fleet=lambda: FLEET, timeout_seconds=settings.timeout_seconds)


async def read(server: FakePrometheus, **more: Any) -> FleetSignals:
    async with source(server, **more) as metrics:
        return await metrics.read(time.time())


def invoice(signals: FleetSignals) -> ExpertSignals:
    return signals.experts[KEY]


def why(signal: Signal) -> str:
    assert isinstance(signal, Unknown), signal
    return signal.why


async def test_every_reading_is_one_query_for_the_whole_fleet(server: FakePrometheus) -> None:
    """However many Experts there are, a tick asks as often as there are readings."""
    signals = await read(server)

    assert sorted(server.queries) == sorted(r.promql(reading, SCOPE) for reading in r.READINGS)
    assert invoice(signals).arrivals == Known(2.5, 4.0)
    assert invoice(signals).running == Known(7.0, 6.0)
    assert signals.problems == ()


async def test_server_that_is_down_leaves_everything_unknown(server: FakePrometheus) -> None:
    """Nobody listens: no exception, and no zero."""
    signals = await read(server, url="http://127.0.0.1:9")

    assert "Prometheus cannot be asked" in why(invoice(signals).arrivals)
    assert "Prometheus cannot be asked" in why(invoice(signals).running)
    (problem,) = signals.problems
    assert f"({len(r.READINGS)} readings)" in problem


async def test_slow_server_costs_no_more_than_the_timeout(server: FakePrometheus) -> None:
    """All queries of a tick end together, however many wait."""
    server.hold = asyncio.Event()

    async with source(server, timeout_seconds=0.05) as metrics:
        signals = await metrics.read(time.time())

    assert "within 0.05 s" in why(invoice(signals).arrivals)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        pytest.param(302, b"", "redirect (302)", id="redirect"),
        pytest.param(401, b"", "refused the credentials (401)", id="no credentials"),
        pytest.param(403, b"", "refused the credentials (403)", id="wrong credentials"),
        pytest.param(422, b'{"status":"error","error":"too many samples"}', "422: too many samples", id="refused"),
        pytest.param(503, b"<html>", "answered 503", id="overloaded"),
        pytest.param(200, b'{"status":"success","data":{"resul', "no JSON", id="truncated"),
        pytest.param(200, b"[]", "no object", id="a list"),
        pytest.param(200, b'{"status":"error","error":"boom"}', "boom", id="an error with status 200"),
        pytest.param(200, success("scalar", [1, "2"]), "no vector", id="another type"),
        pytest.param(200, success("vector", None), "without a list", id="no result"),
        pytest.param(200, success("vector", [{"metric": NO_LABELS}]), "cannot be read", id="no value"),
        pytest.param(200, success("vector", [7]), "cannot be read", id="no series"),
        pytest.param(
            200, success("vector", [{"metric": NO_LABELS, "value": [1, "1"]}] * 2), "the same series twice", id="twice"
        ),
        pytest.param(200, success("vector", [], warnings=["store down"]), "in part: store down", id="a part"),
        pytest.param(200, b"[" * 100_000, "no JSON", id="deep nesting"),
        pytest.param(200, b" " * 2_000_000, "larger than 1000000 bytes", id="huge"),
    ],
)
async def test_answer_that_is_no_answer_leaves_everything_unknown(
    server: FakePrometheus, status: int, body: bytes, reason: str
) -> None:
    """Whatever it is, the reason is told and nothing counts as zero."""
    server.statuses[""], server.bodies[""] = status, body

    signals = await read(server)

    assert reason in why(invoice(signals).arrivals)
    assert reason in why(invoice(signals).running)


async def test_one_query_that_fails_leaves_the_others_known(server: FakePrometheus) -> None:
    """A reading fails alone."""
    server.statuses[r.promql(r.RUNNING, SCOPE)] = 500

    signals = await read(server)

    assert why(invoice(signals).running) == "Prometheus answered 500"
    assert invoice(signals).arrivals == Known(2.5, 4.0)
    assert signals.problems == ("Prometheus answered 500 (running)",)


async def test_remarks_about_a_query_are_no_partial_answer(server: FakePrometheus) -> None:
    """Newer servers remark on names of metrics; that says nothing of the data."""
    remark = success("vector", [], warnings=["PromQL info: metric might not be a counter"])
    server.bodies[r.promql(r.PREEMPTIONS, SCOPE)] = remark

    signals = await read(server)

    assert signals.problems == ()


@pytest.mark.parametrize("lie", ["NaN", "+Inf", "-Inf", "-1", "1e300"])
async def test_value_that_is_no_amount_is_unknown(server: FakePrometheus, lie: str) -> None:
    """It is neither used nor taken for zero."""
    server.vectors[r.promql(r.DEMAND, SCOPE)] = [({"namespace": "team", "expert": "invoice"}, lie)]
    server.vectors[r.promql(r.RUNNING, SCOPE)] = [(_ENGINE, lie)]

    signals = await read(server)

    assert "no amount" in why(invoice(signals).arrivals)
    assert "no amount" in why(invoice(signals).running)


async def test_too_many_series_are_not_read(server: FakePrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that explodes ends in a reason, not in the operator's memory."""
    monkeypatch.setattr("flotilla_operator.scaling.answers.ROWS_MAX", 2)
    server.vectors[r.promql(r.DEMAND, SCOPE)] = [({"namespace": "team", "expert": f"x{n}"}, 1) for n in range(3)]

    signals = await read(server)

    assert "3 series, more than 2" in why(invoice(signals).arrivals)


async def test_old_samples_are_unknown_however_new_the_answer(server: FakePrometheus) -> None:
    """A scrape that stopped two minutes ago is found by the sample's own age."""
    server.vectors[r.promql(r.ROUTERS, SCOPE)] = [(_GATEWAY, 120.0)]

    signals = await read(server)

    assert "the newest sample is 120 s old" in why(invoice(signals).arrivals)


@pytest.mark.parametrize(("ahead", "word"), [(100.0, "ahead of"), (-100.0, "behind")])
async def test_clock_that_differs_is_told_of_and_does_no_harm(server: FakePrometheus, ahead: float, word: str) -> None:
    """Ages are by the server's own clock."""
    server.clock_ahead = ahead

    signals = await read(server)

    assert invoice(signals).arrivals == Known(2.5, 4.0)
    assert signals.problems in {
        (f"Prometheus' clock is {seconds} s {word} this machine's",) for seconds in (99, 100, 101)
    }


async def test_answer_from_the_past_is_unknown(server: FakePrometheus) -> None:
    """A proxy that repeats an old answer sends it with a new date."""
    server.answers_late = 300.0

    signals = await read(server)

    assert "is it cached?" in why(invoice(signals).arrivals)


async def test_skew_is_known_without_a_date(server: FakePrometheus) -> None:
    """Then the moment of the answer is all there is to go by."""
    server.dated, server.clock_ahead = False, 60.0

    signals = await read(server)

    assert any("ahead of" in problem for problem in signals.problems)


async def test_token_is_read_again_when_it_changes(server: FakePrometheus, tmp_path: Path) -> None:
    """Mounted Secrets are rotated in place."""
    token = tmp_path / "token"
    token.write_text("first\n")

    async with source(server, token_file=str(token)) as metrics:
        await metrics.read(time.time())
        before = set(server.authorizations)
        server.authorizations.clear()
        token.write_text("second\n")
        await metrics.read(time.time())

    assert before == {"Bearer first"}
    assert set(server.authorizations) == {"Bearer second"}


async def test_basic_authentication_takes_two_files(server: FakePrometheus, tmp_path: Path) -> None:
    """As a Secret of type kubernetes.io/basic-auth holds them."""
    for name, text in (("username", "flotilla"), ("password", "s3cret")):
        (tmp_path / name).write_text(text)

    await read(server, username_file=str(tmp_path / "username"), password_file=str(tmp_path / "password"))

    assert set(server.authorizations) == {"Basic ZmxvdGlsbGE6czNjcmV0"}


@pytest.mark.parametrize("kind", ["token_file", "ca_file"])
async def test_file_that_is_missing_is_named(server: FakePrometheus, tmp_path: Path, kind: str) -> None:
    """Nothing is asked without what was to be shown."""
    signals = await read(server, **{kind: str(tmp_path / "absent")})

    assert "absent" in why(invoice(signals).arrivals)
    assert server.queries == []


async def test_authority_that_is_none_is_a_reason(server: FakePrometheus, tmp_path: Path) -> None:
    """A file that holds no certificate."""
    (tmp_path / "ca.crt").write_text("no certificate")

    signals = await read(server, ca_file=str(tmp_path / "ca.crt"))

    assert "Prometheus cannot be asked" in why(invoice(signals).arrivals)


async def test_server_is_believed_for_its_authority_alone(tmp_path: Path) -> None:
    """Not without one that is named, not for another, and at once when the file changes."""
    own, other = make_serving_certificate("localhost"), make_serving_certificate("localhost")
    (tmp_path / "server.pem").write_text(own.key + own.certificate)
    authorities = tmp_path / "ca.crt"
    authorities.write_text(other.authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")

    async with running_prometheus_fake(context) as server:
        server.vectors = {r.promql(reading, SCOPE): rows for reading, rows in HEALTHY.items()}
        server.url = server.url.replace("127.0.0.1", "localhost")
        without = await read(server)
        async with source(server, ca_file=str(authorities)) as metrics:
            wrong = await metrics.read(time.time())
            authorities.write_text(own.authority)
            right = await metrics.read(time.time())

    assert "certificate verify failed" in why(invoice(without).arrivals)
    assert "certificate verify failed" in why(invoice(wrong).arrivals)
    assert invoice(right).arrivals == Known(2.5, 4.0)


async def test_secrets_are_in_no_reason(server: FakePrometheus, tmp_path: Path) -> None:
    """Reasons go to logs and statuses."""
    token = tmp_path / "token"
    token.write_text("s3cret\nwith a second line")

    signals = await read(server, token_file=str(token))

    assert isinstance(invoice(signals).arrivals, Unknown)
    assert "s3cret" not in str(signals)


async def test_answers_of_a_part_are_not_asked_for(server: FakePrometheus) -> None:
    """Thanos answers with what it has unless it is told not to."""
    await read(server)

    assert all(parameters["partial_response"] == "false" for parameters in server.parameters)


async def test_history_is_asked_by_the_servers_clock(server: FakePrometheus) -> None:
    """Steps come back oldest first, and the newest is now by this machine's."""
    server.clock_ahead = 1000.0
    now = time.time()
    labels = {"namespace": "team", "expert": "invoice"}
    ahead = now + 1000.0
    demand, routers = r.promql(r.past_demand(60.0), SCOPE), r.promql(r.past_scrapes(60.0), SCOPE)
    server.matrices[demand] = [(labels, [(ahead - 60, 5.0), (ahead, 6.0)])]
    server.matrices[routers] = [({"namespace": "team", "policy": "router"}, [(ahead - 180, 1.0), (ahead - 120, 2.0)])]
    busy, finished = (r.promql(each, SCOPE) for each in r.past_work(180.0))
    server.vectors |= {busy: [(labels, 6.0)], finished: [(labels, 2.0)]}

    async with source(server) as metrics:
        found = await metrics.history(now, 180.0, 60.0)

    (asked,) = (each for each in server.parameters if each["query"] == demand)
    assert float(asked["end"]) == pytest.approx(ahead, abs=2)
    assert found[KEY].demand == (None, 0.0, 5.0, 6.0)
    assert found[KEY].slot_seconds == Known(3.0)
    assert found[KEY].until == now


async def test_history_of_a_server_that_fails_is_none(server: FakePrometheus, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is known, which is not that nothing happened; the log says why."""
    server.statuses[""] = 500

    async with source(server) as metrics:
        found = await metrics.history(time.time(), 180.0, 60.0)

    assert found == {}
    assert [vars(record)["fields"] for record in caplog.records] == [{"reasons": ["Prometheus answered 500"]}]
