"""Reads objects of a cluster by kubectl's rules: $KUBECONFIG or ~/.kube/config, else a pod's own ServiceAccount."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import responses
from typing import Any, cast

import yaml

from flotilla_api.meta import GROUP, VERSION

from .errors import InputError

TIMEOUT_SECONDS = 10.0
_MALFORMED = (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError)
"""What the client raises, besides its own, for files that cannot be read or are of another shape than it expects."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who is asked, and as whom."""

    kubeconfig: str | None = None
    """A file; None: kubectl's."""
    context: str | None = None
    """None: the current one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Session:
    """An API server, asked as somebody."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        """The one that was named, else the context's."""

    def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """What the server says, also if that is an error.

        Raises:
            InputError: it does not answer.
        """
        request = self._api.param_serialize(
            "GET",
            path,
            query_params=list(query),
            header_params={"Accept": "application/json", **(headers or {})},
            auth_settings=["BearerToken"],
        )
        with _answering(self._api.configuration.host):
            answer = self._api.call_api(*request, _request_timeout=seconds)
            return _whole(answer.status, answer.getheaders(), answer.read())

    def read(self, path: str, what: str, query: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """An object.

        Raises:
            InputError: there is none, or it cannot be read; the message begins with `what`.
        """
        answer = self.get(path, query)
        if answer.status != 200:
            raise InputError(f"{what}: {reason_of(answer)}")
        return json.loads(answer.body)


def call(url: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str], *, seconds: float) -> Answer:
    """What a server that is no API server says, also if that is an error.

    Raises:
        InputError: it does not answer.
    """
    from urllib3 import PoolManager  # noqa: PLC0415 - as in `connect`

    with _answering(url), PoolManager(retries=False, timeout=seconds) as pool:
        answer = pool.request("GET", url, fields=list(query), headers=headers, redirect=False)
        return _whole(answer.status, answer.headers, answer.data)


@contextmanager
def _answering(who: str) -> Generator[None]:
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - as in `connect`
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        yield
    except (HTTPError, ApiException, OSError) as error:
        raise InputError(f"{who} does not answer: {error}") from error


def _whole(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


@contextmanager
def connect(cluster: Cluster, namespace: str | None) -> Generator[Session]:
    """Ask until the block ends; without `namespace` in the context's.

    Raises:
        InputError: nothing says whom to ask.
    """
    # What this imports is worth half a second, which commands on files do without.
    from kubernetes import client as raw_client  # noqa: PLC0415

    client = cast("Any", raw_client)
    configuration = client.Configuration()
    configuration.retries = False
    own = _load(cluster, configuration)
    with client.ApiClient(configuration) as api:
        yield Session(api, namespace or own)


def read(cluster: Cluster, plural: str, namespace: str | None, name: str) -> dict[str, Any]:
    """One of our objects; without `namespace` in the context's.

    Raises:
        InputError: there is no such object, or it cannot be read.
    """
    with connect(cluster, namespace) as session:
        return read_own(session, plural, name)


def read_own(session: Session, plural: str, name: str) -> dict[str, Any]:
    """One of our objects.

    Raises:
        InputError: there is no such object, or it cannot be read.
    """
    place = session.namespace
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{place}/{plural}/{name}"
    return session.read(path, f"{plural}/{name} in namespace {place}")


def _load(cluster: Cluster, configuration: Any) -> str:
    """`configuration` is that of the context; the value is its namespace."""
    from kubernetes.config import kube_config as raw_config  # noqa: PLC0415 - as above

    config = cast("Any", raw_config)
    path = cluster.kubeconfig or config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        return _load_files(config, path, cluster.context, configuration)
    except config.ConfigException as error:
        if cluster.kubeconfig or cluster.context:
            raise InputError(f"{cluster.kubeconfig or 'kubeconfig'}: {error}") from error
        return _load_own(configuration, error)
    except _MALFORMED as error:
        raise InputError(f"{path} is no kubeconfig: {' '.join(str(error).split())}") from error


def _load_files(config: Any, path: str, context: str | None, configuration: Any) -> str:
    files = config.KubeConfigMerger(path)
    if files.config is None:
        raise config.ConfigException("there is no kubeconfig")
    loader = config.KubeConfigLoader(files.config, context, config_base_path=None, config_persister=files.save_changes)
    loader.load_and_set(configuration)
    return loader.current_context["context"].get("namespace") or "default"


def _load_own(configuration: Any, missing: Exception) -> str:
    """That of the pod that this runs in."""
    from kubernetes import config as raw_config  # noqa: PLC0415 - as above

    config = cast("Any", raw_config)
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise InputError(f"{missing}; and this is no pod: {error}") from error
    return "default"


def reason_of(answer: Answer) -> str:
    """What the server said: Kubernetes' message, a router's, or the status alone."""
    try:
        said = json.loads(answer.body)
        return str(said["message"] if "message" in said else said["error"]["message"])
    except (TypeError, ValueError, KeyError):
        return f"{answer.status} {responses.get(answer.status, '')}".rstrip()
