"""The API server, as the runner uses it: plain JSON over one HTTP session."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
REQUEST_TIMEOUT_SECONDS = 10.0
WATCH_SECONDS = 290

Json = dict[str, Any]


class ApiError(Exception):
    """The API server refused; `status` is its HTTP status code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Unreachable(Exception):  # noqa: N818
    """The API server did not answer."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of an object: ADDED, MODIFIED, DELETED, or BOOKMARK, which only carries a resource version."""

    kind: str
    object: Json


class Api:
    """A session with the API server of a kubeconfig."""

    def __init__(self, url: str, session: aiohttp.ClientSession, tls: ssl.SSLContext) -> None:
        self._url, self._session, self._tls = url, session, tls

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncGenerator[Self]:
        """A session with the credentials of the file's current context; closed on leaving."""
        cluster, user = _read_kubeconfig(kubeconfig)
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        if "client-certificate" in user:
            tls.load_cert_chain(user["client-certificate"], user["client-key"])
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            yield cls(cluster["server"], session, tls)

    async def get(self, path: str, **query: str) -> Json:
        """The object or list at `path`.

        Raises:
            ApiError: the API server refused; 404 if there is none.
            Unreachable: it did not answer.
        """
        return await self._call("GET", path, query=query)

    async def find(self, path: str) -> Json | None:
        """The object at `path`, or None if there is none; else as `get`."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, path: str, body: Json) -> Json:
        """The object as stored; raises as `get`, 409 if it exists."""
        return await self._call("POST", path, body=body)

    async def patch(self, path: str, body: Json, content_type: str, **query: str) -> Json:
        """The object as it is after the patch; raises as `get`."""
        return await self._call("PATCH", path, body=body, content_type=content_type, query=query)

    async def delete(self, path: str, options: Json | None = None) -> None:
        """The object is gone or going; that it was not there is no error, nor that another has taken its name."""
        try:
            await self._call("DELETE", path, body=options or {})
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def watch(self, path: str, resource_version: str, **query: str) -> AsyncIterator[WatchEvent]:
        """The changes after that version, until the API server ends the stream.

        Raises:
            ApiError: it refused; 410 if the version is too old.
            Unreachable: the stream broke.
        """
        query = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_SECONDS, sock_read=WATCH_SECONDS + 10)
        try:
            async with self._session.get(self._url + path, params=query, ssl=self._tls, timeout=timeout) as response:
                await _require_success(response)
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    yield WatchEvent(event["type"], event["object"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(str(error)) from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        try:
            async with self._session.request(
                method,
                self._url + path,
                params=query,
                data=None if body is None else json.dumps(body),
                headers={"Content-Type": content_type},
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS),
            ) as response:
                await _require_success(response)
                return json.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(str(error)) from error


async def _require_success(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        text = await response.text()
        try:
            text = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            text = text[:200]
        raise ApiError(response.status, text)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: an object may be larger than a stream's own limit for one."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _read_kubeconfig(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    return cluster, _named(config["users"], context["user"])["user"]


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)
