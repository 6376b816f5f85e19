"""Trained artifacts in ConfigMaps: which of those that policies name are there, their digests, and their files.

They are looked at again and again, not watched: kopf watches ConfigMaps by the label of our own children only, and what
somebody else makes need not carry any. Only what a stored policy names is ever read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flotilla_api.artifact import write_tar
from flotilla_api.conditions import Reason
from flotilla_api.control import ARTIFACT_ROLES
from flotilla_operator.ports import Clock, NotFoundError, OperatorError
from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef
from flotilla_operator.resources.artifact_map import map_digest, map_files
from flotilla_operator.resources.specs import InvalidSpecError, parse_policy
from flotilla_operator.resources.strategies import named_artifacts
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .kinds import CONFIG_MAP, ref_of
from .store import Store
from .tokens import ExpiringCache

LOOK_SECONDS = 10.0
"""Between two looks at the same ConfigMap: soon enough for a person who waits, one small read each."""
PULSE_SECONDS = 1.0
TARS_MAX = 8
"""Tars that are remembered, of up to 1 MiB each, for the routers that ask one after the other."""
TAR_SECONDS = 60.0

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there are no files for a router."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """A ConfigMap when it was last looked at."""

    version: str
    """'': it does not exist."""
    digest: str | None


class Artifacts:
    """Knows the artifacts in ConfigMaps, and wakes the policies that name one that changed."""

    def __init__(
        self,
        client: Client,
        store: Store,
        clock: Clock,
        *,
        leading: Callable[[], bool],
        wake: Callable[[Key], None],
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._leading = leading
        self._wake = wake
        self._seen: dict[ObjectRef, _Seen] = {}
        self._tars: ExpiringCache[bytes] = ExpiringCache(clock.monotonic, TARS_MAX)
        self._due = 0.0

    def of(self, key: Key) -> Mapping[str, str | None]:
        """As `Observed.artifact_maps`, of the policy `key`."""
        named = self._named(key)
        return {ref.name: self._seen[ref].digest for ref in sorted(named) if ref in self._seen}

    async def files(self, key: Key, digest: str) -> bytes | Missing:
        """The tar of the artifact with `digest` that the policy names in a ConfigMap.

        Raises:
            OperatorError: the Kubernetes API does not answer.
        """
        named = sorted(ref for ref, wanted in self._named(key).items() if digest in wanted)
        if not named:
            text = f"{key} names no ConfigMap with an artifact of digest {digest}"
            return Missing(Reason.ARTIFACT_NOT_FOUND, text)
        found = [await self._read(ref, digest) for ref in named]
        return next((each for each in found if isinstance(each, bytes)), found[0])

    async def run(self) -> None:
        """Looks for ever, while this replica leads. The store must have been filled."""
        while True:
            if self._leading():
                await self._look()
            else:
                self._seen.clear()
            await self._clock.sleep(PULSE_SECONDS)

    async def _read(self, ref: ObjectRef, digest: str) -> bytes | Missing:
        known = self._tars.get((ref, digest))
        if known is not None:
            return known
        try:
            live = await self._client.get(CONFIG_MAP.path(ref.namespace, ref.name))
        except NotFoundError:
            return Missing(Reason.ARTIFACT_NOT_FOUND, f"{ref} does not exist")
        if (found := map_digest(live)) != digest:
            what = f"holds the artifact {found}" if found else "has no manifest.json"
            return Missing(Reason.ARTIFACT_DIGEST_MISMATCH, f"{ref} {what}, the policy pins {digest}")
        return self._tars.put((ref, digest), write_tar(map_files(live)), TAR_SECONDS)

    async def _look(self) -> None:
        """Every ConfigMap is looked at when it is due, and a new one at once."""
        namers = self._namers()
        self._seen = {ref: seen for ref, seen in self._seen.items() if ref in namers}
        due = self._due <= self._clock.monotonic()
        for ref in sorted(namers):
            if due or ref not in self._seen:
                await self._look_at(ref, namers[ref])
        if due:
            self._due = self._clock.monotonic() + LOOK_SECONDS

    async def _look_at(self, ref: ObjectRef, namers: set[Key]) -> None:
        before = self._seen.get(ref)
        try:
            seen = await self._observe(ref, before)
        except OperatorError as error:
            logger.warning("artifact not seen", extra=fields(object=str(ref), reason=str(error)))
            return
        self._seen[ref] = seen
        if before is None or before.digest != seen.digest:
            for key in sorted(namers):
                self._wake(key)

    async def _observe(self, ref: ObjectRef, before: _Seen | None) -> _Seen:
        """It is read whole only when it changed."""
        try:
            metadata = await self._client.get_metadata(CONFIG_MAP, ref.namespace, ref.name)
            if before is not None and before.version == metadata["resourceVersion"]:
                return before
            live = await self._client.get(CONFIG_MAP.path(ref.namespace, ref.name))
        except NotFoundError:
            return _Seen("", None)
        return _Seen(live["metadata"]["resourceVersion"], map_digest(live))

    def _namers(self) -> dict[ObjectRef, set[Key]]:
        found: dict[ObjectRef, set[Key]] = {}
        for key in self._store.owners():
            for ref in self._named(key):
                found.setdefault(ref, set()).add(key)
        return found

    def _named(self, key: Key) -> dict[ObjectRef, set[str]]:
        """The ConfigMaps that the stored policy names, and the digests that it wants of each."""
        policy = self._store.get(ref_of(key)) if key.kind == "RoutingPolicy" else None
        found: dict[ObjectRef, set[str]] = {}
        for name, digest in _config_maps(policy) if policy else ():
            found.setdefault(ObjectRef(CONFIG_MAP.kind, key.namespace, name), set()).add(digest)
        return found


def _config_maps(policy: Manifest) -> Iterator[tuple[str, str]]:
    """Names and digests; most policies name none and need not be parsed."""
    spec: Manifest = policy.get("spec") or {}
    if not any("artifact" in (spec.get(role) or {}) for role in ARTIFACT_ROLES):
        return
    try:
        artifacts = named_artifacts(parse_policy(policy))
    except InvalidSpecError:
        return
    for artifact in artifacts.values():
        if artifact.configMapRef:
            yield artifact.configMapRef.name, artifact.digest
