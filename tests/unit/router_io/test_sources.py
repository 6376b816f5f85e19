"""Artifacts from files, HTTP servers and registries."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flotilla_api.snapshot import ArtifactSource
from flotilla_router import sources
from flotilla_router.sources import SourceError, bring

DIGEST = "sha256:" + "0" * 64
NONE: dict[str, str] = {}
Answer = tuple[int, dict[str, str], bytes]
Site = Callable[[str, Mapping[str, str]], Answer]


@contextmanager
def serving(site: Site) -> Generator[str]:
    """A web server on loopback; HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site(self.path, {key.lower(): value for key, value in self.headers.items()})
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def a_source(**where: str) -> ArtifactSource:
    return ArtifactSource(digest=DIGEST, **where)


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


# --- files


def test_a_file_is_read(tmp_path: Path) -> None:
    """As it is; what is in it is looked at elsewhere."""
    (tmp_path / "a.tar").write_bytes(b"tar")

    assert bring(a_source(file=str(tmp_path / "a.tar"))) == b"tar"


def test_a_file_that_is_not_there_or_too_large_or_none_is_an_error(tmp_path: Path) -> None:
    """A named pipe would block for ever, and 10 GB would not fit."""
    large = tmp_path / "large.tar"
    with large.open("wb") as file:
        file.truncate(10 * 1024**3)
    os.mkfifo(tmp_path / "pipe")

    for name, message in (("large.tar", "larger"), ("pipe", "no file"), ("gone", "No such file"), (".", "no file")):
        with pytest.raises(SourceError, match=message):
            bring(a_source(file=str(tmp_path / name)))


# --- URLs


def test_a_url_is_read_through_redirects() -> None:
    """As object stores have them."""

    def site(path: str, headers: Mapping[str, str]) -> Answer:
        return (302, {"location": "/b"}, b"") if path == "/a" else (200, {}, b"tar" * 100_000)

    with serving(site) as host:
        assert bring(a_source(url=f"http://{host}/a")) == b"tar" * 100_000


def test_a_redirect_to_a_file_is_not_followed(tmp_path: Path) -> None:
    """A server cannot make the router read its own disk."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")

    with (
        serving(lambda path, headers: (302, {"location": secret.as_uri()}, b"")) as host,
        pytest.raises(SourceError, match=r"http://127|not allowed|302"),
    ):
        bring(a_source(url=f"http://{host}/a"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param((404, NONE, b"nothing"), "status 404", id="not found"),
        pytest.param((500, NONE, b""), "status 500", id="an error"),
        pytest.param((200, {"content-length": "10"}, b"short"), "too early|does not answer", id="cut off"),
        pytest.param((200, NONE, b"x" * 70_000), "larger than", id="too large"),
    ],
)
def test_a_bad_answer_is_an_error(answer: Answer, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the address and what is wrong."""
    monkeypatch.setattr(sources, "MAX_FETCHED_BYTES", 65_536)

    with serving(lambda path, headers: answer) as host, pytest.raises(SourceError, match=message) as raised:
        bring(a_source(url=f"http://{host}/a?signature=secret"))

    assert "secret" not in str(raised.value)


def test_a_server_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it sends something, there is a last moment."""
    monkeypatch.setattr(sources, "FETCH_SECONDS", -1.0)

    with serving(lambda path, headers: (200, {}, b"x" * 1000)) as host, pytest.raises(SourceError, match="longer than"):
        bring(a_source(url=f"http://{host}/a"))


def test_nobody_there_is_an_error() -> None:
    """The port was free a moment ago."""
    with serving(lambda path, headers: (200, {}, b"")) as host:
        pass

    with pytest.raises(SourceError, match="does not answer"):
        bring(a_source(url=f"http://{host}/a"))


# --- registries


class Registry:
    """One repository, `routers/small`; anonymous tokens where `private` is set."""

    def __init__(self, layers: Mapping[str, bytes], *, private: bool = False) -> None:
        self.private = private
        self.blobs = {sha(data): data for data in layers.values()}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "layers": [
                    {"digest": sha(data), "size": len(data), "annotations": {"org.opencontainers.image.title": title}}
                    for title, data in layers.items()
                ],
            }
        ).encode()

    def __call__(self, path: str, headers: Mapping[str, str]) -> Answer:
        if path.startswith("/token?"):
            return 200, {}, b'{"token": "t0"}' if "repository%3Arouters%2Fsmall%3Apull" in path else b"{}"
        if self.private and headers.get("authorization") != "Bearer t0":
            realm = f'Bearer realm="http://{headers["host"]}/token",service="r",scope="repository:routers/small:pull"'
            return 401, {"www-authenticate": realm}, b"{}"
        if path == f"/v2/routers/small/manifests/{sha(self.manifest)}":
            return 200, {}, self.manifest
        blob = self.blobs.get(path.removeprefix("/v2/routers/small/blobs/"))
        return (404, {}, b"") if blob is None else (200, {}, blob)


def pulled(registry: Registry, digest: str | None = None) -> sources.Fetched:
    """What a pull brings."""
    with serving(registry) as host:
        return bring(a_source(oci=f"{host}/routers/small@{digest or sha(registry.manifest)}"))


@pytest.mark.parametrize("private", [False, True])
def test_a_registry_gives_the_tar_that_is_its_one_layer(private: bool) -> None:
    """Also where a token has to be asked for, which anyone gets."""
    assert pulled(Registry({"artifact.tar": b"tar"}, private=private)) == b"tar"


def test_a_registry_gives_an_artifacts_files() -> None:
    """Pushed one layer a file; others are left alone."""
    layers = {"manifest.json": b"{}", "weights.npz": b"w", "readme.md": b"r"}

    assert pulled(Registry(layers)) == {"manifest.json": b"{}", "weights.npz": b"w"}


def test_a_layer_that_was_tampered_with_is_refused() -> None:
    """Its bytes are not those that the manifest names."""
    registry = Registry({"artifact.tar": b"tar"})
    registry.blobs[sha(b"tar")] = b"bad"

    with pytest.raises(SourceError, match="digest"):
        pulled(registry)


def test_a_manifest_that_is_not_there_or_holds_nothing_is_an_error() -> None:
    """The digest in the policy is that of the image manifest."""
    with pytest.raises(SourceError, match="status 404"):
        pulled(Registry({"artifact.tar": b"tar"}), DIGEST)
    with pytest.raises(SourceError, match="no layer"):
        pulled(Registry({}))


@pytest.mark.parametrize(
    "manifest", [b"[]", b"{", b'{"layers": 3}', b'{"layers": [{"size": "x"}]}', b'{"manifests": []}', b"\xff"]
)
def test_a_manifest_of_another_kind_is_an_error(manifest: bytes) -> None:
    """An index of images, or no JSON at all."""
    registry = Registry({})
    registry.manifest = manifest

    with pytest.raises(SourceError, match="manifest"):
        pulled(registry)


def test_a_registry_that_wants_an_account_is_an_error() -> None:
    """Policies hold no credentials for it."""
    with (
        serving(lambda path, headers: (401, {"www-authenticate": 'Basic realm="r"'}, b"")) as host,
        pytest.raises(SourceError, match="credentials"),
    ):
        bring(a_source(oci=f"{host}/routers/small@{DIGEST}"))
