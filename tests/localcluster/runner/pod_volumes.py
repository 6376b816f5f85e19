"""One pod's volumes on disk, kept current while the pod lives."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from localcluster.runner.api import ApiError, Unreachable
from localcluster.runner.host import Host, wait_any
from localcluster.runner.hosts import make_hosts
from localcluster.runner.model import Pod
from localcluster.runner.sources import References, Sources, Token, TokenKey, UnresolvedError, find_references
from localcluster.runner.volume_files import write_files
from localcluster.runner.volumes import Bind, EmptyDirectory, Files, HostDirectory, VolumeContent, plan_volumes

OWN_FILES = "/.pod"  # where a container finds its /etc/hosts, which a single bound file could not change whole
REFRESH_RATIO = 0.8  # of a token's life: the kubelet's own rule
RETRY_SECONDS = 5.0


class PodVolumes:
    """The pod's volumes: made once, then kept as ConfigMaps, Secrets, labels and tokens change."""

    def __init__(self, pod: Pod, pod_ip: str, host: Host) -> None:
        self.pod, self._pod_ip, self._host = pod, pod_ip, host
        self.references: References = find_references(pod)
        self.directory = host.pod_directory(pod)
        self.contents: Mapping[str, VolumeContent] = {}
        self._tokens: dict[TokenKey, Token] = {}
        self._hosts_text = ""
        self._changed = asyncio.Event()

    @property
    def hosted(self) -> dict[str, str]:
        """Each volume's path on the host."""
        return {name: str(self._path_of(name, content)) for name, content in self.contents.items()}

    @property
    def own_bind(self) -> Bind:
        """Where a container sees the runner's own files for the pod."""
        return Bind(str(self.directory / "etc"), OWN_FILES, read_only=True)

    async def gather(self) -> Sources:
        """All that the pod refers to; raises as `Host.gather`."""
        return await self._host.gather(self.pod, self._pod_ip, self.references, self._tokens)

    async def prepare(self) -> None:
        """Every volume is there and current.

        Raises:
            UnresolvedError: one cannot be made yet.
            ApiError: the API server refused something.
            Unreachable: it did not answer.
        """
        await self._refresh_tokens()
        planned = plan_volumes(await self.gather())
        self.write_hosts()
        for name, content in planned.items():
            if self.contents.get(name) != content:
                self._write(name, content)
        self.contents = planned

    def wake(self) -> None:
        """Something that the pod refers to has changed."""
        self._changed.set()

    async def keep_current(self, complain: Callable[[str], None]) -> None:
        """Follow changes and refresh tokens until cancelled; `complain` hears why a volume could not be updated."""
        while True:
            await wait_any(self._changed, self._seconds_to_refresh())
            self._changed.clear()
            try:
                await self.prepare()
            except UnresolvedError as error:
                complain(str(error))
            except (ApiError, Unreachable):
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    def write_hosts(self) -> None:
        """The pod's /etc/hosts is current."""
        text = make_hosts(self.pod, self._pod_ip, self._host.known.services, self._host.headless)
        if text != self._hosts_text:
            self._hosts_text = text
            path = self.directory / "etc" / "hosts"
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)

    def discard(self) -> None:
        """Nothing of the volumes that lived with the pod is left."""
        shutil.rmtree(self.directory / "volumes", ignore_errors=True)
        shutil.rmtree(self.directory / "etc", ignore_errors=True)

    def _path_of(self, name: str, content: VolumeContent) -> Path:
        return Path(content.path) if isinstance(content, HostDirectory) else self.directory / "volumes" / name

    def _write(self, name: str, content: VolumeContent) -> None:
        path = self._path_of(name, content)
        match content:
            case Files():
                write_files(path, content.files)
            case EmptyDirectory():
                path.mkdir(parents=True, exist_ok=True)
            case HostDirectory() if content.create:
                path.mkdir(parents=True, exist_ok=True)
            case HostDirectory():
                if not path.exists():
                    raise UnresolvedError(f'MountVolume.SetUp failed for volume "{name}" : {path} does not exist')

    async def _refresh_tokens(self) -> None:
        for key in self.references.tokens:
            token = self._tokens.get(key)
            if token is None or time.time() >= _refresh_at(token):
                self._tokens[key] = await self._host.request_token(self.pod, key)

    def _seconds_to_refresh(self) -> float | None:
        if not self._tokens:
            return None
        return max(1.0, min(map(_refresh_at, self._tokens.values())) - time.time())


def _refresh_at(token: Token) -> float:
    return token.issued_at + REFRESH_RATIO * (token.expires_at - token.issued_at)
