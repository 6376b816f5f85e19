"""Keeps a local copy of objects of one kind, and tells of every change once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from localcluster.runner.api import Api, ApiError, Unreachable
from localcluster.runner.model import NamespacedName

log = logging.getLogger(__name__)

RETRY_SECONDS = (0.1, 2.0)  # after the first failure, and at most

T = TypeVar("T", bound=msgspec.Struct)
OnChange = Callable[[NamespacedName, T | None], None]


class Watched(Generic[T]):
    """The objects at `path`, decoded as `kind`. `on_change` gets each new version, and None for one that is gone.

    It survives restarts of the API server: it lists again, and reports what went meanwhile as gone. An object that
    cannot be decoded is logged and treated as absent.
    """

    def __init__(self, api: Api, path: str, kind: type[T], on_change: OnChange[T], **query: str) -> None:
        self._api, self._path, self._kind, self._query = api, path, kind, query
        self._on_change = on_change
        self._objects: dict[NamespacedName, T] = {}
        self._versions: dict[NamespacedName, str] = {}
        self.listed = asyncio.Event()

    def get(self, key: NamespacedName) -> T | None:
        """The newest known version of the object; None: there is none, as far as is known."""
        return self._objects.get(key)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._objects.values()))

    async def run(self) -> None:
        """Keep the copy current until cancelled."""
        delay = RETRY_SECONDS[0]
        while True:
            try:
                version = await self._list()
                delay = RETRY_SECONDS[0]
                while True:
                    version = await self._follow(version)
            except (ApiError, Unreachable) as error:
                if not (isinstance(error, ApiError) and error.status == 410):
                    log.info("watch of %s broke off: %s", self._path, error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_SECONDS[1])

    async def _list(self) -> str:
        found = await self._api.get(self._path, **self._query)
        present: set[NamespacedName] = set()
        for item in found["items"]:
            present.add(self._store(item))
        for key in self._versions.keys() - present:
            self._forget(key)
        self.listed.set()
        return found["metadata"]["resourceVersion"]

    async def _follow(self, version: str) -> str:
        async for event in self._api.watch(self._path, version, **self._query):
            if event.kind == "DELETED":
                self._forget(_key(event.object))
            elif event.kind != "BOOKMARK":
                self._store(event.object)
            version = event.object["metadata"]["resourceVersion"]
        return version

    def _store(self, item: Mapping[str, Any]) -> NamespacedName:
        key, version = _key(item), item["metadata"]["resourceVersion"]
        if self._versions.get(key) == version:
            return key
        self._versions[key] = version
        try:
            decoded = msgspec.convert(item, self._kind)
        except msgspec.ValidationError as error:
            log.warning("cannot read %s %s: %s", self._kind.__name__, key, error)
            self._drop(key)
            return key
        self._objects[key] = decoded
        self._on_change(key, decoded)
        return key

    def _forget(self, key: NamespacedName) -> None:
        self._versions.pop(key, None)
        self._drop(key)

    def _drop(self, key: NamespacedName) -> None:
        if self._objects.pop(key, None) is not None:
            self._on_change(key, None)


def _key(item: Mapping[str, Any]) -> NamespacedName:
    return NamespacedName(item["metadata"].get("namespace", ""), item["metadata"]["name"])
