"""Volumes for claims: a directory each, of the default StorageClass."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from pathlib import Path

from localcluster.runner.api import Api, ApiError, Json, Unreachable
from localcluster.runner.model import Model, NamespacedName, ObjectMeta, ResourceRequirements

log = logging.getLogger(__name__)

CLASS = "standard"
PROVISIONER = "flotilla.dev/local-directory"
RETRY_SECONDS = 1.0


class ClaimSpec(Model, frozen=True):
    access_modes: tuple[str, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    storage_class_name: str = ""
    volume_name: str = ""
    volume_mode: str = "Filesystem"


class Phase(Model, frozen=True):
    phase: str = ""


class Claim(Model, frozen=True):
    """A PersistentVolumeClaim."""

    metadata: ObjectMeta
    spec: ClaimSpec
    status: Phase = Phase()

    @property
    def key(self) -> NamespacedName:
        """The claim's namespace and name."""
        return NamespacedName(self.metadata.namespace, self.metadata.name)


class DirectorySource(Model, frozen=True):
    path: str


class VolumeSpec(Model, frozen=True):
    host_path: DirectorySource | None = None
    persistent_volume_reclaim_policy: str = "Retain"


class PersistentVolume(Model, frozen=True):
    """A PersistentVolume."""

    metadata: ObjectMeta
    spec: VolumeSpec
    status: Phase = Phase()


class Provisioner:
    """Makes a volume for every pending claim of its class and removes it after its claim."""

    def __init__(self, api: Api, directory: Path) -> None:
        self._api, self._directory = api, directory
        self._work: asyncio.Queue[Claim | PersistentVolume] = asyncio.Queue()

    def note_claim(self, claim: Claim) -> None:
        """A claim is there; if it waits for a volume it will get one."""
        if wants_volume(claim):
            self._work.put_nowait(claim)

    def note_volume(self, volume: PersistentVolume) -> None:
        """A volume is there; if its claim has gone, so will it."""
        if is_released(volume):
            self._work.put_nowait(volume)

    async def run(self) -> None:
        """Make the class, then volumes until cancelled."""
        await self._insist(make_class(), "/apis/storage.k8s.io/v1/storageclasses")
        while True:
            item = await self._work.get()
            if isinstance(item, Claim):
                directory = self._directory / f"pvc-{item.metadata.uid}"
                directory.mkdir(parents=True, exist_ok=True)
                await self._insist(make_volume(item, directory), "/api/v1/persistentvolumes")
            else:
                await self._remove(item)

    async def _insist(self, body: Json, path: str) -> None:
        """The object exists. What the API server refuses for good is logged and left."""
        while True:
            try:
                await self._api.create(path, body)
            except ApiError as error:
                if error.status != 409:
                    log.error("cannot make %s: %s", body["metadata"]["name"], error)
            except Unreachable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    async def _remove(self, volume: PersistentVolume) -> None:
        assert volume.spec.host_path is not None
        await asyncio.to_thread(shutil.rmtree, volume.spec.host_path.path, ignore_errors=True)
        with contextlib.suppress(ApiError, Unreachable):  # it is listed again when the API server is back
            await self._api.delete(f"/api/v1/persistentvolumes/{volume.metadata.name}")


def wants_volume(claim: Claim) -> bool:
    """Whether the claim waits for a volume of this provisioner's class."""
    return claim.spec.storage_class_name == CLASS and not claim.spec.volume_name and claim.status.phase == "Pending"


def is_released(volume: PersistentVolume) -> bool:
    """Whether the volume is the provisioner's own and its claim has gone."""
    ours = volume.metadata.annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
    deletable = volume.spec.persistent_volume_reclaim_policy == "Delete" and volume.spec.host_path is not None
    return ours and deletable and volume.status.phase == "Released"


def make_class() -> Json:
    """The default StorageClass."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def make_volume(claim: Claim, directory: Path) -> Json:
    """A volume for that claim alone, which Kubernetes' own controller then binds to it."""
    meta = claim.metadata
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{meta.uid}",
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": claim.spec.resources.requests.get("storage", "1Gi")},
            "accessModes": list(claim.spec.access_modes),
            "volumeMode": claim.spec.volume_mode,
            "storageClassName": CLASS,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {**reference, "uid": meta.uid},
            "hostPath": {"path": str(directory), "type": "DirectoryOrCreate"},
        },
    }
