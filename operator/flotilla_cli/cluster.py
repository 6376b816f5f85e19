"""Reads objects of a cluster by kubectl's rules: $KUBECONFIG or ~/.kube/config, else a pod's own ServiceAccount."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


def _reason(error: Any) -> str:
    """What the API server said."""
    try:
        return json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
