"""What one can do with a running cluster, whoever runs it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from localcluster.credentials import Administrator
from localcluster.snapshot import dump_cluster
from localcluster.tools import Helm, Kubectl
from localcluster.waiting import wait_until


class ClusterAccess:
    """A cluster's administrator: kubectl, Helm and plain HTTP; a context manager that closes its connections."""

    def __init__(self, directory: Path, api: httpx.Client | None = None) -> None:
        """Access to the cluster whose files are in `directory`."""
        self.directory = directory
        self.administrator = Administrator.read(directory / "credentials")
        self.kubectl = Kubectl(self.kubeconfig, directory / "kubectl-cache")
        self.helm = Helm(self.kubectl)
        self.api = api or make_client(self.administrator)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The API server's client is closed."""
        self.api.close()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.administrator.kubeconfig

    @property
    def url(self) -> str:
        """The API server's."""
        return self.administrator.url

    @property
    def ca_path(self) -> Path:
        """The certificate authority that signed the API server's certificate."""
        return self.administrator.ca

    @property
    def admin_token(self) -> str:
        """A bearer token that may do everything."""
        return self.administrator.token

    def helm_install(
        self,
        release: str,
        chart: Path,
        *,
        namespace: str,
        values: Mapping[str, Any] | None = None,
        wait_seconds: int | None = None,
    ) -> str:
        """The manifest that was installed; its namespace is made if absent, and awaited ready with `wait_seconds`."""
        return self.helm.install(release, chart, namespace=namespace, values=values, wait_seconds=wait_seconds)

    def logs(self, namespace: str, pod: str, container: str | None = None, *, previous: bool = False) -> str:
        """What a container wrote, through the API server as `kubectl logs` reads it.

        Raises:
            httpx.HTTPStatusError: no such pod or container, or it has not started.
        """
        parameters = {"container": container} if container else {}
        if previous:
            parameters["previous"] = "true"
        response = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}/log", params=parameters)
        return response.raise_for_status().text

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
        """Return once `condition` holds; a refused or failed request counts as not yet.

        Raises:
            TimeoutError: it did not come to hold; the message says `what` was awaited.
        """
        wait_until(condition, what, timeout_seconds=timeout_seconds)

    def dump(self, to: Path) -> Path:
        """Write all objects but Secrets, events, pods' logs and the programs' logs under `to`; `to`."""
        return dump_cluster(self.kubectl, self.directory / "logs", to)


def make_client(administrator: Administrator) -> httpx.Client:
    """An HTTP client of the API server; paths are relative (`/api/v1/nodes`)."""
    return httpx.Client(
        base_url=administrator.url,
        verify=ssl.create_default_context(cafile=str(administrator.ca)),
        headers={"Authorization": f"Bearer {administrator.token}"},
        trust_env=False,
        timeout=10.0,
    )
