"""The queries: one for each reading, and each counts a pod once."""

from __future__ import annotations

import pytest

from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.readings import Reading, Scope, promql


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        pytest.param(
            r.DEMAND,
            "sum by (namespace, expert) (max by (namespace, pod, policy, expert) "
            '(irate(flotilla_router_demand_total{namespace!="",pod!=""}[45s])))',
            id="a counter of routers",
        ),
        pytest.param(
            r.ROUTERS,
            "min by (namespace, policy, pod) (time() - timestamp(flotilla_router_requests_in_flight{}))",
            id="who is scraped",
        ),
        pytest.param(
            r.KV_USAGE,
            "max by (namespace, pod) (max by (namespace, pod, model_name, engine) "
            '({__name__=~"vllm:kv_cache_usage_perc|vllm:gpu_cache_usage_perc",namespace!="",pod!=""}))',
            id="a gauge with an older name",
        ),
        pytest.param(
            r.QUEUE_P95,
            "histogram_quantile(0.95, sum by (namespace, expert, le) (label_replace(max by (namespace, pod, "
            'model_name, engine, le) (rate(vllm:request_queue_time_seconds_bucket{namespace!="",pod!=""}[45s])), '
            '"expert", "$1", "pod", "(.+)-expert-[a-z0-9]*-?[a-z0-9]+")))',
            id="a quantile by the Expert of the pod",
        ),
        pytest.param(
            r.ANSWERED,
            "sum by (namespace, target) (max by (namespace, pod, policy, target, result) "
            '(rate(flotilla_router_attempts_total{result="ok",namespace!="",pod!=""}[3600s])))',
            id="the last hour",
        ),
    ],
)
def test_reading_is_this_query(reading: Reading, text: str) -> None:
    """Pods are counted once before they are added up."""
    assert promql(reading, Scope()) == text


def test_scope_narrows_every_reading() -> None:
    """A Prometheus of several clusters, or an operator of some namespaces; values are quoted."""
    scope = Scope(0.5, (("cluster", 'a"b\\'),), ("agents", "lab"))

    for reading in r.READINGS:
        text = promql(reading, scope)
        assert 'cluster="a\\"b\\\\",' in text
        assert 'namespace=~"agents|lab"' in text
    assert "[1500ms]" in promql(r.DEMAND, scope)


@pytest.mark.parametrize(
    ("scrape_seconds", "function"),
    [
        pytest.param(1.0, "rate(", id="many scrapes a tick"),
        pytest.param(5.0, "rate(", id="three"),
        pytest.param(10.0, "rate(", id="one or two"),
        pytest.param(15.0, "irate(", id="one"),
        pytest.param(30.0, "irate(", id="every other tick has none"),
    ],
)
def test_every_request_is_in_the_rate_of_some_tick(scrape_seconds: float, function: str) -> None:
    """Whatever came between two scrapes is seen: both are within the window of a tick, also where one is missed."""
    scope = Scope(scrape_seconds, tick_seconds=15.0)

    text = promql(r.DEMAND, scope)

    assert f"({function}flotilla_router_demand_total" in text
    assert scope.window_seconds >= max(3 * scrape_seconds, 15.0 + scrape_seconds)
    assert f"[{scope.window_seconds:g}s]" in text


def test_readings_have_names_of_their_own() -> None:
    """They are shown where one fails."""
    assert len({reading.name for reading in r.READINGS}) == len(r.READINGS)
