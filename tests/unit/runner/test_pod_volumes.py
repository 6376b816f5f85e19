"""What volumes hold and where containers see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from pod_builders import a_container, a_pod

from localcluster.runner.model import ConfigMap, Secret
from localcluster.runner.sources import Sources, Token, TokenKey, UnresolvedError, find_references
from localcluster.runner.volume_files import write_files
from localcluster.runner.volumes import (
    Bind,
    EmptyDirectory,
    File,
    Files,
    HostDirectory,
    VolumeContent,
    plan_mounts,
    plan_volumes,
)

CONFIG_MAP = msgspec.convert(
    {"metadata": {"name": "cfg"}, "data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}}, ConfigMap
)
SECRET = msgspec.convert({"metadata": {"name": "hf"}, "data": {"token": "czNjcmV0"}}, Secret)


def _plan(volume: dict[str, Any]) -> VolumeContent:
    pod = a_pod(volumes=[{"name": "v", **volume}], metadata={"labels": {"b": 'x"y', "a": "1"}})
    sources = Sources(
        pod=pod,
        pod_ip="127.96.128.1",
        host_ip="127.96.127.255",
        config_maps={"cfg": CONFIG_MAP},
        secrets={"hf": SECRET},
        claims={"data": "/state/data", "web-0-v": "/state/scratch"},
        tokens={TokenKey("flotilla-gateway", 600): Token("eyJ", 0.0, 600.0)},
    )
    return plan_volumes(sources)["v"]


@pytest.mark.parametrize(
    ("volume", "content"),
    [
        pytest.param({"emptyDir": {}}, EmptyDirectory(), id="emptyDir"),
        pytest.param(
            {"configMap": {"name": "cfg"}},
            Files({"a": File(b"1", 0o644), "b": File(b"2", 0o644), "c": File(b"\0\1", 0o644)}),
            id="configMap",
        ),
        pytest.param(
            {"configMap": {"name": "cfg", "items": [{"key": "b", "path": "x/y", "mode": 0o600}]}},
            Files({"x/y": File(b"2", 0o600)}),
            id="configMap items",
        ),
        pytest.param({"configMap": {"name": "none", "optional": True}}, Files({}), id="optional configMap"),
        pytest.param(
            {"secret": {"secretName": "hf", "defaultMode": 0o400}},
            Files({"token": File(b"s3cret", 0o400)}),
            id="secret",
        ),
        pytest.param(
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            Files({"labels": File(b'a="1"\nb="x\\"y"', 0o644)}),
            id="downwardAPI",
        ),
        pytest.param(
            {
                "projected": {
                    "sources": [
                        {
                            "serviceAccountToken": {
                                "path": "token",
                                "audience": "flotilla-gateway",
                                "expirationSeconds": 600,
                            }
                        },
                        {"configMap": {"name": "cfg", "items": [{"key": "a", "path": "ca.crt"}]}},
                        {"secret": {"name": "hf"}},
                    ]
                }
            },
            Files({"token": File(b"s3cret", 0o644), "ca.crt": File(b"1", 0o644)}),
            id="projected: later sources win",
        ),
        pytest.param(
            {"persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
            HostDirectory("/state/data", create=True, read_only=True),
            id="claim",
        ),
        pytest.param(
            {"ephemeral": {"volumeClaimTemplate": {}}}, HostDirectory("/state/scratch", create=True), id="ephemeral"
        ),
    ],
)
def test_volume_contents(volume: dict[str, Any], content: VolumeContent) -> None:
    """Each type of volume holds what Kubernetes says it does."""
    assert _plan(volume) == content


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "cfg", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
        (
            {"secret": {"secretName": "hf", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent secret key: z",
        ),
        (
            {"persistentVolumeClaim": {"claimName": "none"}},
            'persistentvolumeclaim "none" is not bound to a volume of this cluster',
        ),
        ({"nfs": {"server": "x"}}, "volumes of this type are not supported by the local cluster"),
    ],
)
def test_volume_that_cannot_be_made(volume: dict[str, Any], message: str) -> None:
    """What is missing is said in the words of the kubelet's FailedMount event."""
    with pytest.raises(UnresolvedError) as refused:
        _plan(volume)

    assert str(refused.value) == f'MountVolume.SetUp failed for volume "v" : {message}'


def test_references_are_found_everywhere() -> None:
    """Whatever a pod refers to in its environment and volumes is looked up, sidecars' and init containers' too."""
    pod = a_pod(
        a_container(envFrom=[{"configMapRef": {"name": "c1"}}]),
        initContainers=[
            a_container("i", env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}])
        ],
        volumes=[
            {"name": "a", "configMap": {"name": "c2"}},
            {
                "name": "b",
                "projected": {"sources": [{"secret": {"name": "s2"}}, {"serviceAccountToken": {"path": "t"}}]},
            },
            {"name": "c", "ephemeral": {}},
        ],
    )

    found = find_references(pod)

    assert (found.config_maps, found.secrets, found.claims) == ({"c1", "c2"}, {"s1", "s2"}, {"web-0-c"})
    assert found.tokens == {TokenKey("", 3600)}


def _mounts(*mounts: dict[str, Any]) -> list[Bind]:
    pod = a_pod(a_container(volumeMounts=list(mounts)))
    contents: dict[str, VolumeContent] = {"files": Files({}), "dir": EmptyDirectory()}
    return plan_mounts(pod.spec.containers[0], contents, {"files": "/v/files", "dir": "/v/dir"}, {"POD": "web-0"})


def test_mounts_are_made_from_the_outside_in() -> None:
    """A mount below another comes after it; volumes that the runner writes are read-only."""
    binds = _mounts(
        {"name": "files", "mountPath": "/data/sub/"},
        {"name": "dir", "mountPath": "/data", "subPathExpr": "$(POD)/x"},
        {"name": "dir", "mountPath": "/ro", "readOnly": True},
    )

    assert binds == [
        Bind("/v/dir/web-0/x", "/data"),
        Bind("/v/dir", "/ro", read_only=True),
        Bind("/v/files", "/data/sub", read_only=True),
    ]


@pytest.mark.parametrize("sub_path", ["../x", "/x", "a/../../x"])
def test_sub_path_stays_in_its_volume(sub_path: str) -> None:
    """A subPath that would leave the volume is refused."""
    with pytest.raises(UnresolvedError, match="invalid subPath"):
        _mounts({"name": "dir", "mountPath": "/d", "subPath": sub_path})


def test_written_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """An update shows new, changed and removed files at once, through the kubelet's `..data` link."""
    directory = tmp_path / "v"
    write_files(directory, {"a": File(b"1", 0o644), "x/y": File(b"2", 0o600)})
    old = (directory / "..data").readlink()

    write_files(directory, {"a": File(b"3", 0o644), "b": File(b"4", 0o644)})

    assert {entry.name for entry in directory.iterdir() if not entry.name.startswith("..")} == {"a", "b"}
    assert (directory / "a").read_text() == "3"
    assert (directory / "a").readlink() == Path("..data/a")
    assert not (directory / old).exists()


def test_written_files_have_their_modes(tmp_path: Path) -> None:
    """Permission bits are those of the item, or of the volume."""
    write_files(tmp_path, {"x/y": File(b"2", 0o400)})

    assert (tmp_path / "x/y").stat().st_mode & 0o777 == 0o400
