"""Reads objects of a cluster by kubectl's rules: $KUBECONFIG or ~/.kube/config, else a pod's own ServiceAccount."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from flotilla_api.meta import GROUP, VERSION

from .errors import InputError

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who is asked, and as whom."""

    kubeconfig: str | None = None
    """A file; None: kubectl's."""
    context: str | None = None
    """None: the current one."""


def read(cluster: Cluster, plural: str, namespace: str | None, name: str) -> dict[str, Any]:
    """One of our objects; without `namespace` in the context's.

    Raises:
        InputError: there is no such object, or it cannot be read.
    """
    # What these import is worth half a second, which commands on files do without.
    from kubernetes import client as raw_client  # noqa: PLC0415
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    client = cast("Any", raw_client)
    configuration = client.Configuration()
    configuration.retries = False
    own = _load(cluster, configuration)
    place = namespace or own
    try:
        with client.ApiClient(configuration) as api:
            found: dict[str, Any] = client.CustomObjectsApi(api).get_namespaced_custom_object(
                GROUP, VERSION, place, plural, name, _request_timeout=TIMEOUT_SECONDS
            )
    except ApiException as error:
        raise InputError(f"{plural}/{name} in namespace {place}: {_reason(cast('Any', error))}") from error
    except (HTTPError, OSError) as error:
        raise InputError(f"{configuration.host} does not answer: {error}") from error
    return found


def _load(cluster: Cluster, configuration: Any) -> str:
    """`configuration` is that of the context; the value is its namespace."""
    from kubernetes import config as raw_config  # noqa: PLC0415 - as above

    config = cast("Any", raw_config)
    try:
        config.load_kube_config(cluster.kubeconfig, cluster.context, client_configuration=configuration)
        contexts, current = config.list_kube_config_contexts(cluster.kubeconfig)
        chosen = next((each for each in contexts if each["name"] == cluster.context), current)
        return chosen["context"].get("namespace") or "default"
    except config.ConfigException as error:
        if cluster.kubeconfig or cluster.context:
            raise InputError(f"{cluster.kubeconfig or 'kubeconfig'}: {error}") from error
        return _load_own(config, configuration, error)


def _load_own(config: Any, configuration: Any, missing: Exception) -> str:
    """That of the pod that this runs in."""
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise InputError(f"{missing}; and this is no pod: {error}") from error
    return "default"


def _reason(error: Any) -> str:
    """What the API server said."""
    try:
        return json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
