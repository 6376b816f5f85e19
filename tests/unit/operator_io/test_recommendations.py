"""Recommendations over TLS, read as KEDA's metrics-api scaler reads them (kedacore/keda, metrics_api_scaler.go)."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml
from test_control_api import ACCESS_REVIEWS, BEARER, TOKEN_REVIEWS, Server, World, a_world, authenticated

from flotilla_api.names import child_name
from flotilla_operator.scaling.report import Recommendation
from flotilla_operator.scaling.types import Rule

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "keda"
ROLES = ROOT / "tests" / "golden" / "chart" / "default.yaml"
PATH = "/v1/recommendations/agents/sql"
UNBOUND = authenticated(username="system:serviceaccount:keda:reader", extra={})
GROW = Recommendation(3, 2, Rule.ECONOMICS, "4.20 requests/s: 3 cost least", age_seconds=5.0)


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    """The Kubernetes API knows an autoscaler's token, which is bound to no pod, and grants it the recommendation."""
    async with a_world() as found:
        found.api.reviews = {TOKEN_REVIEWS: UNBOUND, ACCESS_REVIEWS: {"allowed": True}}
        yield found


async def ask(
    world: World, server: Server, path: str = PATH, headers: dict[str, str] = BEARER
) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer."""
    async with world.http.get(f"https://127.0.0.1:{server.control.port}{path}", headers=headers) as response:
        return response.status, await response.json()


class KedaError(Exception):
    """KEDA reports the trigger as failing; the HPA that it made keeps its number."""


async def keda_reads(http: aiohttp.ClientSession, url: str, token: str) -> float:
    """What KEDA makes of an answer with `format: json`, `valueLocation: replicas` and `authMode: bearer`.

    Anything but 200 is an error. The location must be a JSON number; a string would be read as a quantity.
    """
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        body = await response.read()
        if response.status != 200:
            raise KedaError(f"{response.url.path}: api returned {response.status}")
    value = json.loads(body).get("replicas")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KedaError(f"valueLocation must point to value of type number got: {type(value).__name__}")
    return float(value)


def hpa_wants(value: float, replicas: int, target: float = 1.0, tolerance: float = 0.1) -> int:
    """What an HPA comes to with an external metric of type AverageValue; within the tolerance it keeps its number."""
    if replicas and abs(value / (target * replicas) - 1) <= tolerance:
        return replicas
    return math.ceil(value / target)


def is_active(value: float, activation_target: float = 0.0) -> bool:
    """Whether KEDA keeps the target above zero."""
    return value > activation_target


async def test_the_answer_says_the_number_and_why(world: World) -> None:
    """With the time of the decision, not of the answer."""
    server = await world.server(recommendation=GROW)

    status, body = await ask(world, server)

    decided_at = world.clock.now().timestamp() - 5.0
    assert status == 200
    assert {**body, "at": ""} == {
        "replicas": 3,
        "current": 2,
        "rule": "Economics",
        "message": "4.20 requests/s: 3 cost least",
        "at": "",
    }
    assert body["at"].endswith("Z")
    assert datetime.fromisoformat(body["at"]).timestamp() == pytest.approx(decided_at, abs=2.0)


@pytest.mark.parametrize(("recommended", "current"), [(3, 2), (1, 4), (12, 10), (1, 0), (0, 1), (2, 2)])
async def test_keda_comes_to_the_recommended_number(world: World, recommended: int, current: int) -> None:
    """With targetValue 1; and to zero by activation, which asks for more than activationTargetValue 0."""
    found = Recommendation(recommended, current, Rule.ECONOMICS, "", age_seconds=0.0)
    server = await world.server(recommendation=found)

    value = await keda_reads(world.http, f"https://127.0.0.1:{server.control.port}{PATH}", "token-1")

    assert is_active(value) == (recommended > 0)
    if recommended and current:
        assert hpa_wants(value, current) == recommended


async def test_an_hpa_ignores_a_change_within_its_tolerance(world: World) -> None:
    """21 instead of 20 is within the 10 % that an HPA tolerates by default, as the document warns."""
    server = await world.server(recommendation=Recommendation(21, 20, Rule.ECONOMICS, "", age_seconds=0.0))

    value = await keda_reads(world.http, f"https://127.0.0.1:{server.control.port}{PATH}", "token-1")

    assert (hpa_wants(value, 20), hpa_wants(value, 20, tolerance=0.0)) == (20, 21)


@pytest.mark.parametrize(
    ("recommendation", "said"),
    [
        pytest.param(None, "nothing was decided about Expert agents/sql", id="nothing decided"),
        pytest.param(
            Recommendation(0, 2, Rule.IDLE, "", age_seconds=121.0), "last decided about 121 s ago", id="too old"
        ),
    ],
)
async def test_what_is_not_known_is_an_error_to_keda(
    world: World, recommendation: Recommendation | None, said: str
) -> None:
    """So that it keeps its number: nothing shrinks on what is not known."""
    server = await world.server(recommendation=recommendation)

    status, body = await ask(world, server)

    assert (status, body["error"]["reason"]) == (503, "Unavailable")
    assert said in body["error"]["message"]
    with pytest.raises(KedaError, match="api returned 503"):
        await keda_reads(world.http, f"https://127.0.0.1:{server.control.port}{PATH}", "token-1")


async def test_the_permission_is_that_of_the_one_expert(world: World) -> None:
    """RBAC is asked for `get experts/recommendation`, by name, in the Expert's namespace, whatever the caller's is."""
    asked: list[dict[str, Any]] = []

    def grant(review: dict[str, Any]) -> dict[str, Any]:
        asked.append(review)
        return {"allowed": True}

    world.api.reviews[ACCESS_REVIEWS] = grant
    server = await world.server(recommendation=GROW)

    assert (await ask(world, server))[0] == 200

    (review,) = asked
    assert review["user"] == "system:serviceaccount:keda:reader"
    assert review["resourceAttributes"] == {
        "group": "flotilla.dev",
        "resource": "experts",
        "subresource": "recommendation",
        "verb": "get",
        "namespace": "agents",
        "name": "sql",
    }


@pytest.mark.parametrize(
    ("headers", "token", "allowed", "status"),
    [
        pytest.param({}, UNBOUND, True, 401, id="no token"),
        pytest.param(BEARER, {"authenticated": False}, True, 401, id="a wrong token"),
        pytest.param(BEARER, {**UNBOUND, "audiences": ["other"]}, True, 401, id="another audience"),
        pytest.param(BEARER, authenticated(username="alice", extra={}), True, 401, id="no ServiceAccount"),
        pytest.param(BEARER, UNBOUND, False, 403, id="without the permission"),
    ],
)
async def test_nobody_else_is_told(
    world: World, headers: dict[str, str], token: dict[str, Any], allowed: bool, status: int
) -> None:
    """Not even whether the Expert exists."""
    world.api.reviews = {TOKEN_REVIEWS: token, ACCESS_REVIEWS: {"allowed": allowed}}
    server = await world.server(recommendation=GROW, exists=False)

    assert (await ask(world, server, headers=headers))[0] == status


@pytest.mark.parametrize("path", ["/v1/recommendations/agents/gone", "/v1/recommendations/agents/SQL"])
async def test_an_expert_that_does_not_exist_is_not_found(world: World, path: str) -> None:
    """Nor one that could not."""
    server = await world.server(recommendation=GROW)

    assert (await ask(world, server, path=path))[0] == 404


async def test_a_standby_passes_the_question_on(world: World) -> None:
    """It has decided nothing itself."""
    leader = await world.server(recommendation=GROW)
    standby = await world.server(leading=False, leader=f"127.0.0.1:{leader.control.port}")

    status, body = await ask(world, standby)

    assert (status, body["replicas"]) == (200, 3)


def test_the_example_asks_for_what_there_is() -> None:
    """Its URL, location and target are those above; its Deployment, its token's role and the chart's go together."""
    texts = [path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]
    documents: list[dict[str, Any]] = [each for text in texts for each in yaml.safe_load_all(text)]
    kinds = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    scaled, login = kinds["ScaledObject", "sql"]["spec"], kinds["TriggerAuthentication", "sql-autoscaler"]["spec"]
    (trigger,) = scaled["triggers"]

    assert scaled["scaleTargetRef"]["name"] == child_name("Expert", "sql")
    assert urlsplit(str(trigger["metadata"]["url"])).path == PATH
    assert {**trigger["metadata"], "url": ""} == {
        "url": "",
        "valueLocation": "replicas",
        "targetValue": "1",
        "activationTargetValue": "0",
        "authMode": "bearer",
    }
    assert trigger["authenticationRef"]["name"] == "sql-autoscaler"
    assert login["boundServiceAccountToken"] == [{"parameter": "token", "serviceAccountName": "sql-autoscaler"}]
    binding = kinds["RoleBinding", "sql-autoscaler"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "sql-autoscaler", "namespace": "agents"}]
    assert f"name: {binding['roleRef']['name']}\n" in ROLES.read_text()
