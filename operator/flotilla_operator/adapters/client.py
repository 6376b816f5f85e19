"""A raw client of the Kubernetes API: JSON over aiohttp, each answer an object or an error of the tree in `ports`."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast

import aiohttp
import kubernetes.client
import kubernetes.config

from flotilla_operator.ports import (
    ApiError,
    NotFoundError,
    OutdatedError,
    RefusedError,
    UnavailableError,
    UnreachableError,
)
from flotilla_operator.reconcile.types import Manifest
from flotilla_operator.telemetry import Telemetry

from .kinds import Kind

Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

READ_TIMEOUT_SECONDS = 30.0
WRITE_TIMEOUT_SECONDS = 4.0
"""Shorter than what is left of a Lease when its holder stops writing: no write of a former holder lands late."""
CONNECT_TIMEOUT_SECONDS = 3.0
CONNECTIONS = 32
TIMEOUTS_OF_AN_OUTAGE = 3
"""In a row."""
UNTYPED_PATCH = "failed to create typed patch object"
"""How the API server answers, with status 500, an apply that does not fit the kind's schema."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and how to show who we are."""

    server: str
    ca_path: str | None
    verify: bool
    server_name: str | None
    client_certificate: tuple[str, str] | None
    authorization: Callable[[], str | None]
    """The value of the Authorization header now: tokens are rotated."""

    def ssl_context(self) -> ssl.SSLContext:
        """Trusts the API server's authority and holds the client's certificate where there is one."""
        context = ssl.create_default_context(cafile=self.ca_path)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.client_certificate:
            context.load_cert_chain(*self.client_certificate)
        return context


class _Configuration(Protocol):
    """What we read of `kubernetes.client.Configuration`, which has no types."""

    host: str
    ssl_ca_cert: str | None
    verify_ssl: bool
    tls_server_name: str | None
    cert_file: str | None
    key_file: str | None

    def get_api_key_with_prefix(self, identifier: str) -> str | None:
        """The value of the Authorization header; rotated tokens are read again."""
        ...


def load_connection() -> Connection:
    """In a pod, its ServiceAccount's; else what KUBECONFIG says.

    Raises:
        kubernetes.config.ConfigException: neither is there.
    """
    raw: Any = kubernetes.client.Configuration()  # pyright: ignore[reportUnknownMemberType]
    loaders = cast("Any", kubernetes.config)
    try:
        loaders.load_incluster_config(client_configuration=raw)
    except loaders.ConfigException:
        loaders.load_kube_config(client_configuration=raw)
    configuration = cast("_Configuration", raw)
    certificate, private_key = configuration.cert_file, configuration.key_file
    return Connection(
        server=configuration.host.rstrip("/"),
        ca_path=configuration.ssl_ca_cert,
        verify=configuration.verify_ssl,
        server_name=configuration.tls_server_name,
        client_certificate=(certificate, private_key) if certificate and private_key else None,
        authorization=lambda: (
            configuration.get_api_key_with_prefix("BearerToken")
            or configuration.get_api_key_with_prefix("authorization")
        ),
    )


class Reachability:
    """What its clients learn about whether the API server can be reached."""

    def __init__(self) -> None:
        self.outages = 0
        """How many times the API server began to be unreachable."""
        self.reachable = True
        """Whether it could be reached last."""
        self._timeouts = 0

    def answered(self) -> None:
        """A request got any answer."""
        self.reachable = True
        self._timeouts = 0

    def failed(self, error: Exception) -> None:
        """A request got none. One that was slow is no outage; many in a row are, and so is a connection that broke."""
        self._timeouts += 1
        if isinstance(error, TimeoutError) and self._timeouts < TIMEOUTS_OF_AN_OUTAGE:
            return
        self.outages += self.reachable
        self.reachable = False


class Client:
    """Requests to one API server over pooled connections. An async context manager.

    Clients that share `reachability` tell the same story; each has its own connections.
    """

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        *,
        connections: int = CONNECTIONS,
        reachability: Reachability | None = None,
    ) -> None:
        self._connection = connection
        self._telemetry = telemetry
        self.reachability = reachability or Reachability()
        self._session = aiohttp.ClientSession(
            base_url=connection.server,
            connector=aiohttp.TCPConnector(
                limit=connections, ssl=connection.ssl_context() if connection.server.startswith("https:") else False
            ),
            timeout=aiohttp.ClientTimeout(total=READ_TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS),
            headers={"User-Agent": "flotilla-operator"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Manifest:
        """The object at `path`.

        Raises:
            OperatorError: see the tree; NotFoundError where there is none.
        """
        return await self._request("GET", path, query=query)

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The metadata of a live object.

        Raises:
            OperatorError: see the tree; NotFoundError where there is none.
        """
        answer = await self._request("GET", kind.path(namespace, name), accept=METADATA)
        return cast("Manifest", answer["metadata"])

    async def list_metadata(
        self, kind: Kind, namespace: str, *, label_selector: str, field_selector: str
    ) -> Sequence[Manifest]:
        """The metadata of each object of `kind` in `namespace` ('': all) that the selectors match.

        It is what the API server holds in its cache, which may be moments old: no other list costs it so little.
        """
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "resourceVersion": "0"}
        answer = await self._request("GET", kind.collection_path(namespace), query=query, accept=METADATA_LIST)
        return [item["metadata"] for item in cast("list[Manifest]", answer.get("items") or [])]

    async def list_objects(
        self, kind: Kind, namespace: str, *, field_selector: str = "", labels: Mapping[str, str] | None = None
    ) -> tuple[Sequence[Manifest], int]:
        """A consistent list of `kind` in `namespace` ('': all) with `labels`, and the version at which it was taken."""
        wanted = [kind.selector, *(f"{name}={value}" for name, value in (labels or {}).items())]
        selectors = {"labelSelector": ",".join(filter(None, wanted)), "fieldSelector": field_selector}
        path = kind.collection_path(namespace if kind.namespaced else "")
        answer = await self._request("GET", path, query={name: text for name, text in selectors.items() if text})
        head = {"apiVersion": kind.api_version, "kind": kind.kind}
        items = [{**head, **item} for item in cast("list[Manifest]", answer.get("items") or [])]
        return items, int(answer["metadata"]["resourceVersion"])

    async def create(self, kind: Kind, namespace: str, manifest: Manifest, *, counted: bool = True) -> Manifest:
        """The object as created; `counted`: among the writes in the metrics, which reviews are not.

        Raises:
            OperatorError: see the tree; OutdatedError when it is there already.
        """
        answer = await self._request("POST", kind.collection_path(namespace), body=manifest)
        if counted:
            self._count(kind, "create")
        return answer

    async def update(self, kind: Kind, manifest: Manifest) -> Manifest:
        """The object is `manifest`, whose resourceVersion must be the live one's."""
        metadata = manifest["metadata"]
        answer = await self._request("PUT", kind.path(metadata["namespace"], metadata["name"]), body=manifest)
        self._count(kind, "update")
        return answer

    async def apply(self, kind: Kind, manifest: Manifest, *, manager: str, subresource: str = "") -> Manifest:
        """`manifest` is applied server-side with force as `manager`.

        Raises:
            OperatorError: see the tree; OutdatedError when metadata.uid or resourceVersion is not the live object's.
        """
        metadata = manifest["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        path = f"{path}/{subresource}" if subresource else path
        query = {"fieldManager": manager, "force": "true"}
        answer = await self._request("PATCH", path, query=query, body=manifest, content_type=APPLY)
        self._count(kind, "patch")
        return answer

    async def merge(self, kind: Kind, patch: Manifest, *, manager: str, strategic: bool = False) -> Manifest:
        """`patch` is merged into the object of its name; fields that are None and lists that it replaces are gone.

        `strategic`: of lists that Kubernetes merges by a key, entries that `patch` does not name stay.

        Raises:
            OperatorError: see the tree; OutdatedError when metadata.resourceVersion is not the live object's.
        """
        path = kind.path(patch["metadata"].get("namespace", ""), patch["metadata"]["name"])
        content_type = STRATEGIC_MERGE if strategic else MERGE
        query = {"fieldManager": manager}
        answer = await self._request("PATCH", path, query=query, body=patch, content_type=content_type)
        self._count(kind, "patch")
        return answer

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """The object with `uid` is gone or going."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._request("DELETE", kind.path(namespace, name), body=body)
        self._count(kind, "delete")

    async def _request(
        self,
        verb: Verb,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Manifest:
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        try:
            status, answer = await self._exchange(verb, path, query, body, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._failed(verb, "unreachable")
            self.reachability.failed(error)
            raise UnreachableError(f"{verb} {path}: {error or type(error).__name__}") from error
        self.reachability.answered()
        if status < 400:
            return answer
        self._failed(verb, str(status))
        raise api_error(status, answer)

    async def _exchange(
        self,
        verb: Verb,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        headers: Mapping[str, str],
    ) -> tuple[int, Manifest]:
        authorization = self._connection.authorization()
        async with (
            asyncio.timeout(READ_TIMEOUT_SECONDS if verb == "GET" else WRITE_TIMEOUT_SECONDS),
            self._session.request(
                verb,
                path,
                params=query,
                data=json.dumps(body).encode() if body is not None else None,
                headers={**headers, "Authorization": authorization} if authorization else headers,
                server_hostname=self._connection.server_name,
            ) as response,
        ):
            return response.status, _decode(await response.read())

    def _count(self, kind: Kind, verb: str) -> None:
        self._telemetry.writes.labels(kind.plural, verb).inc()

    def _failed(self, verb: Verb, code: str) -> None:
        self._telemetry.errors.labels(verb, code).inc()


def _decode(data: bytes) -> Manifest:
    try:
        answer = json.loads(data)
    except ValueError:
        return {"message": data[:200].decode(errors="replace")}
    return cast("Manifest", answer) if isinstance(answer, dict) else {"message": str(answer)[:200]}


def api_error(status: int, answer: Manifest) -> ApiError:
    """The error of the tree for a metav1.Status with code `status`."""
    reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    return _error_class(status, message)(status, reason, message)


def _error_class(status: int, message: str) -> type[ApiError]:
    if status == 404:
        return NotFoundError
    # An apply whose metadata.uid is not the live object's is refused as if it tried to change the uid.
    if status == 409 or (status == 422 and "metadata.uid: Invalid value" in message):
        return OutdatedError
    if status == 500 and UNTYPED_PATCH in message:
        return RefusedError
    if status == 429 or status >= 500:
        return UnavailableError
    # A token that was just rotated, or an authorizer that has not caught up, passes by itself.
    return UnavailableError if status == 401 else RefusedError
