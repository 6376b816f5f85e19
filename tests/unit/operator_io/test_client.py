"""The client: every answer is an object or an error that says whether to try again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fakes.apiserver import running_api_server
from flotilla_operator.adapters.client import Client, Connection, api_error, load_connection
from flotilla_operator.adapters.kinds import KINDS, SECRET
from flotilla_operator.ports import (
    ApiError,
    NotFoundError,
    OutdatedError,
    RefusedError,
    UnavailableError,
    UnreachableError,
)
from flotilla_operator.telemetry import Telemetry

IMMUTABLE_UID = 'ConfigMap "x" is invalid: metadata.uid: Invalid value: "1": field is immutable'

UNTYPED = "failed to create typed patch object (agents/x; apps/v1, Kind=Deployment): .spec.x: field not declared"


def connect(url: str) -> Connection:
    """A connection with a token."""
    return Connection(
        url, None, verify=True, server_name=None, client_certificate=None, authorization=lambda: "Bearer secret"
    )


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        pytest.param(404, "not found", NotFoundError, id="absent"),
        pytest.param(409, "modified", OutdatedError, id="changed meanwhile"),
        pytest.param(422, IMMUTABLE_UID, OutdatedError, id="another object by that name"),
        pytest.param(422, "spec.replicas: must be positive", RefusedError, id="invalid"),
        pytest.param(403, "forbidden", RefusedError, id="forbidden"),
        pytest.param(400, "bad", RefusedError, id="malformed"),
        pytest.param(401, "expired token", UnavailableError, id="a token that is being rotated"),
        pytest.param(429, "slow down", UnavailableError, id="throttled"),
        pytest.param(503, "etcd", UnavailableError, id="broken"),
        pytest.param(500, "etcdserver: leader changed", UnavailableError, id="broken inside"),
        pytest.param(500, UNTYPED, RefusedError, id="an apply that does not fit the schema"),
    ],
)
def test_api_error_says_whether_to_try_again(status: int, message: str, expected: type[ApiError]) -> None:
    """The status, and for a wrong uid the message, decide."""
    assert type(api_error(status, {"message": message})) is expected


async def test_an_answer_that_is_not_json_is_an_error_with_its_text() -> None:
    """A proxy's page in between is shown, not a crash."""
    async with running_api_server() as api, Client(connect(api.url), Telemetry()) as client:
        api.failures["GET", "/api/v1/secrets/x"] = {"code": 502, "message": "bad gateway"}

        with pytest.raises(UnavailableError, match="bad gateway"):
            await client.get("/api/v1/secrets/x")


async def test_no_answer_is_unreachable() -> None:
    """Nothing listens there."""
    async with Client(connect("http://127.0.0.1:1"), Telemetry()) as client:
        with pytest.raises(UnreachableError, match="GET /version"):
            await client.get("/version")


async def test_calls_are_counted() -> None:
    """Writes by resource and verb, failures by code."""
    telemetry = Telemetry()
    async with running_api_server() as api, Client(connect(api.url), telemetry) as client:
        manifest = {"metadata": {"name": "x", "namespace": "n"}}
        await client.create(SECRET, "n", manifest)
        with pytest.raises(OutdatedError):
            await client.create(SECRET, "n", manifest)
        await client.list_objects(KINDS["Pod"], "")

    text = telemetry.exposition().decode()
    assert 'flotilla_operator_api_writes_total{resource="secrets",verb="create"} 1.0' in text
    assert 'flotilla_operator_api_errors_total{code="409",verb="POST"} 1.0' in text


def test_load_connection_reads_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a pod, KUBECONFIG says where to and as whom."""
    path = tmp_path / "config"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", "insecure-skip-tls-verify": True}}
    user = {"name": "u", "user": {"token": "abc"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    content = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **content}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    connection = load_connection()

    assert connection.server == "https://127.0.0.1:6443"
    assert connection.authorization() == "Bearer abc"
    assert not connection.verify
