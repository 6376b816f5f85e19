"""The store: what was last heard about every object of interest, indexed. PURE: fed by its caller, no I/O.

Versions decide which of two reports is newer: a resourceVersion is a number that grows over all objects of a cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flotilla_operator.reconcile.types import Key, Manifest, ObjectRef

from .kinds import OWNER_KINDS, controller_of, controlling_owner, key_of, labelled_owner

Entry = TypeVar("Entry")
Member = TypeVar("Member")

TOMBSTONES_MAX = 20_000
"""Deletions that are remembered, oldest forgotten first; each guards only against reports that are seconds late."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one report changed: before is None for a new object, after is None for one that is gone."""

    before: Manifest | None
    after: Manifest | None


class Store:
    """Objects by reference, with the indexes that reconciling needs.

    `references` gives what an owner's spec names, so that a change of the named wakes the namer.
    """

    def __init__(self, references: Callable[[Manifest], Iterable[ObjectRef]]) -> None:
        self._references = references
        self._objects: dict[ObjectRef, Manifest] = {}
        self._by_kind: defaultdict[str, set[ObjectRef]] = defaultdict(set)
        self._index: defaultdict[str | Key, set[ObjectRef]] = defaultdict(set)
        """By the controller's uid, and by the owner that labels name."""
        self._named: dict[ObjectRef, frozenset[ObjectRef]] = {}
        self._namers: defaultdict[ObjectRef, set[Key]] = defaultdict(set)
        self._deleted: dict[str, int] = {}
        self._listed: dict[tuple[str, str], int] = {}

    def apply(self, manifest: Manifest) -> Change | None:
        """`manifest` is stored; None when the store already knew that much or more."""
        ref, version = ObjectRef.of(manifest), _version(manifest)
        before = self._objects.get(ref)
        if version <= self._deleted.get(_uid(manifest), 0) or (before and version <= _version(before)):
            return None
        return self._put(ref, before, manifest)

    def remove(self, manifest: Manifest) -> Change | None:
        """The object is gone as of `manifest`'s version; None when none, or a newer one by that name, is known."""
        self._bury(_uid(manifest), _version(manifest))
        ref = ObjectRef.of(manifest)
        before = self._objects.get(ref)
        if before is None or _version(before) > _version(manifest):
            return None
        return self._drop(ref, before)

    def forget(self, ref: ObjectRef) -> Change | None:
        """The object is gone by a live read; None when none is known."""
        before = self._objects.get(ref)
        if before is None:
            return None
        self._bury(_uid(before), _version(before))
        return self._drop(ref, before)

    def replace(self, kind: str, namespace: str, items: Sequence[Manifest], version: int) -> list[Change]:
        """Objects of `kind` in `namespace` ('': all) are `items`, a consistent list taken at `version`.

        What the list lacks is gone, unless the store heard of it after `version`. A list older than the last one means
        that the cluster was restored from a backup: then only the list counts.
        """
        restored = version < self._listed.get((kind, namespace), 0)
        self._listed[kind, namespace] = version
        present = {ObjectRef.of(item) for item in items}
        missing = [ref for ref in self._by_kind[kind] if ref not in present and namespace in ("", ref.namespace)]
        gone = [self._expire(ref, version, restored=restored) for ref in missing]
        seen = [self._restore(item) if restored else self.apply(item) for item in items]
        return [change for change in (*gone, *seen) if change]

    def get(self, ref: ObjectRef) -> Manifest | None:
        """The object, or None."""
        return self._objects.get(ref)

    def controlled_by(self, uid: str) -> list[Manifest]:
        """Objects whose controller has `uid`, sorted by reference."""
        return [self._objects[ref] for ref in sorted(self._index.get(uid, ()))]

    def labelled(self, key: Key, kind: str) -> list[Manifest]:
        """Objects of `kind` whose labels name `key`, sorted by name."""
        return [self._objects[ref] for ref in sorted(self._index.get(key, ())) if ref.kind == kind]

    def owners(self) -> list[Key]:
        """Every Expert, Fallback and RoutingPolicy."""
        refs = (ref for kind in OWNER_KINDS for ref in self._by_kind[kind])
        return sorted(key for ref in refs if (key := key_of(ref)))

    def of_kind(self, kind: str) -> list[Manifest]:
        """Every object of `kind`, sorted by reference."""
        return [self._objects[ref] for ref in sorted(self._by_kind[kind])]

    def namers(self, ref: ObjectRef) -> frozenset[Key]:
        """Owners that depend on `ref`: those that name it, and those that name these; whether it exists or not."""
        direct = self._namers.get(ref, set[Key]())
        indirect = (self._namers.get(ObjectRef(key.kind, key.namespace, key.name), set[Key]()) for key in direct)
        return frozenset(direct.union(*indirect))

    def named_by(self, ref: ObjectRef) -> frozenset[ObjectRef]:
        """What the owner `ref` names itself, whether it exists or not."""
        return self._named.get(ref, frozenset())

    def concerned(self, change: Change) -> frozenset[Key]:
        """The keys that a change wakes."""
        manifests = [manifest for manifest in (change.before, change.after) if manifest]
        return frozenset(key for manifest in manifests for key in self._concerned(manifest))

    def _concerned(self, manifest: Manifest) -> frozenset[Key]:
        ref = ObjectRef.of(manifest)
        key = key_of(ref)
        if key or ref.kind == "AcceleratorProfile":
            return self.namers(ref).union([key] if key else [])
        owners = {owner for owner in (labelled_owner(manifest), controlling_owner(manifest)) if owner}
        if ref.kind != "Pod":
            return frozenset(owners)
        namers = (self.namers(ObjectRef(owner.kind, owner.namespace, owner.name)) for owner in owners)
        return frozenset(owners).union(*namers)

    def _put(self, ref: ObjectRef, before: Manifest | None, after: Manifest) -> Change:
        if before:
            self._drop(ref, before)
        self._objects[ref] = after
        self._by_kind[ref.kind].add(ref)
        for entry in self._index_keys(after):
            self._index[entry].add(ref)
        if key := key_of(ref):
            self._named[ref] = frozenset(self._references(after))
            for named in self._named[ref]:
                self._namers[named].add(key)
        return Change(before, after)

    def _drop(self, ref: ObjectRef, before: Manifest) -> Change:
        del self._objects[ref]
        self._by_kind[ref.kind].discard(ref)
        for entry in self._index_keys(before):
            _discard(self._index, entry, ref)
        if key := key_of(ref):
            for named in self._named.pop(ref, frozenset()):
                _discard(self._namers, named, key)
        return Change(before, None)

    def _index_keys(self, manifest: Manifest) -> list[str | Key]:
        controller, owner = controller_of(manifest), labelled_owner(manifest)
        return [*([controller["uid"]] if controller else ()), *([owner] if owner else ())]

    def _expire(self, ref: ObjectRef, version: int, *, restored: bool) -> Change | None:
        before = self._objects[ref]
        if not restored and _version(before) > version:
            return None
        if not restored:
            self._bury(_uid(before), version)
        return self._drop(ref, before)

    def _restore(self, manifest: Manifest) -> Change | None:
        ref = ObjectRef.of(manifest)
        self._deleted.pop(_uid(manifest), None)
        before = self._objects.get(ref)
        same = before is not None and _uid(before) == _uid(manifest) and _version(before) == _version(manifest)
        return None if same else self._put(ref, before, manifest)

    def _bury(self, uid: str, version: int) -> None:
        self._deleted[uid] = max(version, self._deleted.pop(uid, 0))
        while len(self._deleted) > TOMBSTONES_MAX:
            del self._deleted[next(iter(self._deleted))]


def _discard(index: defaultdict[Entry, set[Member]], entry: Entry, member: Member) -> None:
    index[entry].discard(member)
    if not index[entry]:
        del index[entry]


def _uid(manifest: Manifest) -> str:
    return manifest["metadata"]["uid"]


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])
