"""A container's environment, command and arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pod_builders import a_container, a_pod, a_service

from localcluster.config import ImageSpec
from localcluster.runner.environment import expand, make_command, map_loopback, resolve_env, service_env
from localcluster.runner.model import ConfigMap, Secret
from localcluster.runner.sources import Sources, UnresolvedError

CONFIG_MAP = msgspec.convert({"metadata": {"name": "cfg"}, "data": {"MODE": "fast", "LEVEL": "3"}}, ConfigMap)
SECRET = msgspec.convert({"metadata": {"name": "hf"}, "data": {"token": "czNjcmV0"}}, Secret)


def _sources(container: dict[str, Any], **pod: Any) -> Sources:
    return Sources(
        pod=a_pod(container, metadata={"labels": {"app": "web"}, "annotations": {"a/b": "c"}}, **pod),
        pod_ip="127.96.128.1",
        host_ip="127.96.127.255",
        allocatable={"cpu": "8", "memory": "32Gi"},
        config_maps={"cfg": CONFIG_MAP},
        secrets={"hf": SECRET},
        services=(a_service("api", ports=[{"name": "http", "port": 80}]),),
        apiserver=("127.96.127.255", 6443),
    )


def _env(*variables: dict[str, Any], **container: Any) -> dict[str, str]:
    sources = _sources(a_container(env=list(variables), **container))
    return resolve_env(sources.pod.spec.containers[0], sources)


def _field(path: str) -> dict[str, Any]:
    return {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['a/b']", "c"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "cpu-0"),
        ("spec.serviceAccountName", "default"),
        ("status.podIP", "127.96.128.1"),
        ("status.hostIP", "127.96.127.255"),
    ],
)
def test_downward_api_fields(path: str, value: str) -> None:
    """Every field that the downward API offers to environments has its value."""
    assert _env(_field(path))["X"] == value


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        pytest.param("limits.memory", "1Mi", "512", id="memory in MiB"),
        pytest.param("limits.memory", "1", "536870912", id="memory in bytes"),
        pytest.param("requests.cpu", "1m", "250", id="cpu in millicores"),
        pytest.param("requests.cpu", "1", "1", id="cpu is rounded up"),
        pytest.param("limits.cpu", "1", "8", id="without a limit, what the node offers"),
    ],
)
def test_resource_fields(resource: str, divisor: str, value: str) -> None:
    """Requests and limits come in units of the divisor."""
    reference = {"name": "X", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}

    assert _env(reference, resources={"limits": {"memory": "512Mi"}, "requests": {"cpu": "250m"}})["X"] == value


def test_later_variables_may_use_earlier_ones() -> None:
    """$(NAME) is the value of what was set before, of envFrom and of Service variables too; others stay as written."""
    env = _env(
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(CFG_MODE)-$(API_SERVICE_HOST)-$(LATER)-$$(A)"},
        {"name": "LATER", "value": "x"},
        envFrom=[{"prefix": "CFG_", "configMapRef": {"name": "cfg"}}, {"secretRef": {"name": "hf"}}],
    )

    assert env["B"] == "1-fast-127.96.0.9-$(LATER)-$(A)"
    assert env["token"] == "s3cret"


def test_env_wins_over_env_from_and_services() -> None:
    """What the container says itself comes last."""
    env = _env(
        {"name": "MODE", "value": "slow"},
        {"name": "API_SERVICE_PORT", "value": "1"},
        envFrom=[{"configMapRef": {"name": "cfg"}}],
    )

    assert (env["MODE"], env["LEVEL"], env["API_SERVICE_PORT"]) == ("slow", "3", "1")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "none", "key": "k"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "hf", "key": "k"}}, "couldn't find key k in Secret shop/hf"),
        ({"configMapKeyRef": {"name": "none", "key": "k"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "cfg", "key": "k"}}, "couldn't find key k in ConfigMap shop/cfg"),
    ],
)
def test_missing_source_is_told_as_the_kubelet_does(source: dict[str, Any], message: str) -> None:
    """A required object or key that does not exist is an error; an optional one leaves the variable unset."""
    kind, reference = next(iter(source.items()))

    with pytest.raises(UnresolvedError) as refused:
        _env({"name": "X", "valueFrom": source})
    optional = _env({"name": "X", "valueFrom": {kind: {**reference, "optional": True}}})

    assert str(refused.value) == message
    assert "X" not in optional


def test_service_variables() -> None:
    """Services of the namespace are announced as Docker's links were; without links only the API server is."""
    linked = service_env(_sources(a_container()))
    alone = service_env(_sources(a_container(), enableServiceLinks=False))

    assert linked["API_SERVICE_PORT_HTTP"] == "80"
    assert linked["API_PORT"] == linked["API_PORT_80_TCP"] == "tcp://127.96.0.9:80"
    assert "API_SERVICE_HOST" not in alone
    assert (alone["KUBERNETES_SERVICE_HOST"], alone["KUBERNETES_SERVICE_PORT"]) == ("127.96.127.255", "6443")


@pytest.mark.parametrize(
    ("fields", "argv"),
    [
        pytest.param({}, ("python", "-m", "server"), id="the image's entrypoint"),
        pytest.param({"args": ["--port", "$(PORT)"]}, ("python", "-m", "server", "--port", "80"), id="args follow it"),
        pytest.param({"command": ["sh", "-c"], "args": ["x"]}, ("sh", "-c", "x"), id="command replaces it"),
        pytest.param({"command": ["hf", "get"]}, ("python", "-m", "hub", "get"), id="a program of the image"),
    ],
)
def test_command(fields: dict[str, Any], argv: tuple[str, ...]) -> None:
    """`command` replaces the entrypoint, `args` follow, and both see the container's variables."""
    image = ImageSpec(["python", "-m", "server"], {"hf": ["python", "-m", "hub"]}, {"A": "image", "B": "image"})
    sources = _sources(a_container(env=[{"name": "PORT", "value": "80"}, {"name": "B", "value": "own"}], **fields))

    command = make_command(sources.pod.spec.containers[0], image, {"A": "base", "PATH": "/bin"}, sources)

    assert command.argv == argv
    assert (command.env["A"], command.env["B"], command.env["HOSTNAME"]) == ("image", "own", "web-0")


def test_a_pods_loopback_is_its_own() -> None:
    """127.0.0.1 in a value, in `command` and in `args` is the pod's address, wherever the value comes from."""
    local = msgspec.convert({"metadata": {"name": "local"}, "data": {"UPSTREAM": "127.0.0.1:9"}}, ConfigMap)
    url = {"name": "URL", "value": "http://127.0.0.1:18080/v1"}
    words: dict[str, Any] = {"command": ["serve", "--host=127.0.0.1"], "args": ["$(URL)"]}
    container = a_container(env=[url], envFrom=[{"configMapRef": {"name": "local"}}], **words)
    sources = dataclasses.replace(_sources(container), config_maps={"local": local})

    command = make_command(sources.pod.spec.containers[0], ImageSpec(["x"]), {"OWN": "127.0.0.1"}, sources)

    assert command.argv == ("serve", "--host=127.96.128.1", "http://127.96.128.1:18080/v1")
    assert command.env["URL"] == "http://127.96.128.1:18080/v1"
    assert command.env["UPSTREAM"] == "127.96.128.1:9"
    assert command.env["OWN"] == "127.0.0.1", "what an image's stand-in brings is about this machine"


@pytest.mark.parametrize(
    ("text", "mapped"),
    [
        ("127.0.0.1", "A"),
        ("no,127.0.0.1,::1", "no,A,::1"),
        ("curl -s http://127.0.0.1/x && y@127.0.0.1:80", "curl -s http://A/x && y@A:80"),
        ("It listens at 127.0.0.1.", "It listens at A."),
        ("127.0.0.11 127.0.0.1.2 1127.0.0.1 2.127.0.0.1", "127.0.0.11 127.0.0.1.2 1127.0.0.1 2.127.0.0.1"),
        ("127.96.127.255", "127.96.127.255"),
    ],
)
def test_only_that_one_address_is_loopback(text: str, mapped: str) -> None:
    """Addresses of other pods and Services begin with 127 too."""
    assert map_loopback(text, "A") == mapped


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(A", "$(A"),
        ("$A $", "$A $"),
        ("$(NONE)", "$(NONE)"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    """The kubelet's own rules. Source: third_party/forked/golang/expansion."""
    assert expand(text, {"A": "1"}) == expanded


@given(st.text(alphabet="ab()x", max_size=20))
def test_text_without_dollars_is_left_alone(text: str) -> None:
    """Only a dollar sign begins something."""
    assert expand(text, {"a": "1"}) == text
