"""The Dockerfiles: what they copy exists and is enough, and what they make runs as nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from flotilla_api import names

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "router")
PORTS = {
    "operator": {names.OPERATOR_ADMIN_PORT, names.CONTROL_PORT, names.WEBHOOK_PORT},
    "router": {names.GATEWAY_PORT, names.GATEWAY_TLS_PORT, names.ROUTER_ADMIN_PORT},
}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
by_image = pytest.mark.parametrize("image", IMAGES)


def _instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of every line, continuations joined, comments left out."""
    text = (ROOT / "images" / image / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def _last(image: str, instruction: str) -> str:
    return [arguments for name, arguments in _instructions(image) if name == instruction][-1]


def _copied(image: str) -> list[str]:
    """Sources from the repository, by their path in it."""
    copies = [arguments.split() for name, arguments in _instructions(image) if name == "COPY"]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


@by_image
def test_everything_copied_exists_and_reaches_the_builder(image: str) -> None:
    """The ignore file lets through what is copied."""
    ignore = (ROOT / "images" / image / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in ignore if line.startswith("!")]

    for source in _copied(image):
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in allowed), source


@by_image
def test_image_runs_as_the_user_that_pods_run_as(image: str) -> None:
    """A number, so that a kubelet can see that it is not root."""
    assert _last(image, "USER") == "65532:65532"


@by_image
def test_entrypoint_is_a_console_script(image: str) -> None:
    """The program that the distribution installs, without a shell around it."""
    (program,) = json.loads(_last(image, "ENTRYPOINT"))

    assert program == f"flotilla-{image}"
    assert program in PROJECT["project"]["scripts"]


@by_image
def test_exposed_ports_are_those_of_the_contract(image: str) -> None:
    """EXPOSE is documentation, and right."""
    assert {int(port) for port in _last(image, "EXPOSE").split()} == PORTS[image]


@by_image
def test_version_label_is_the_distributions(image: str) -> None:
    """Unless the builder says another."""
    (version,) = [a.removeprefix("VERSION=") for name, a in _instructions(image) if name == "ARG" and "VERSION=" in a]

    assert version == PROJECT["project"]["version"]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What `make images` asks of a builder, one line for each image."""
    folder = tmp_path_factory.mktemp("bin")
    builder, asked = folder / "docker", folder / "asked"
    builder.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    builder.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    command = ["make", "--silent", "images", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)
    return asked.read_text().splitlines()


@by_image
def test_an_image_is_labelled_with_what_it_was_built_from(image: str, builds: list[str]) -> None:
    """The Dockerfile's labels come from the distribution's version and the commit, `-dirty` where files differ."""
    (build,) = [line for line in builds if f"--file images/{image}/Dockerfile" in line]
    arguments = dict(re.findall(r"--build-arg (\w+)=(\S*)", build))
    declared = {value.partition("=")[0] for name, value in _instructions(image) if name == "ARG"}

    assert arguments["VERSION"] == PROJECT["project"]["version"]
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", arguments["REVISION"])
    assert set(arguments) == declared


@by_image
def test_every_stage_is_of_one_python_and_any_architecture(image: str) -> None:
    """The virtual environment moves between stages, so both need the same interpreter; no platform is fixed."""
    stages = [arguments for name, arguments in _instructions(image) if name == "FROM"]

    assert {stage.split()[0] for stage in stages} == {"python:3.12-slim"}
    assert "--platform" not in " ".join(stages)


@by_image
def test_every_download_is_locked(image: str) -> None:
    """Each requirement has hashes; without them pip stops, and pip is told to ask for them."""
    assert ("ENV", "PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1") in (
        _instructions(image)
    )
    for source in _copied(image):
        if source.startswith("requirements/"):
            text = (ROOT / source).read_text()
            pinned = re.findall(r"^[\w.-]+==", text, re.MULTILINE)
            assert len(pinned) > 0
            assert len(re.findall(r"^[\w.-]+==[^\\]+\\\n\s+--hash=sha256:", text, re.MULTILINE)) == len(pinned)


@by_image
def test_what_is_copied_builds_the_distribution(image: str, tmp_path: Path) -> None:
    """The wheel that the image installs can be built from the copied files alone, and holds the program."""
    for source in _copied(image):
        target = tmp_path / "src" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__")
        _ = (
            shutil.copytree(ROOT / source, target, ignore=ignored)
            if (ROOT / source).is_dir()
            else shutil.copy(ROOT / source, target)
        )

    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "wheels")]
    subprocess.run(command, cwd=tmp_path / "src", check=True, capture_output=True)

    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    held = zipfile.ZipFile(wheel)
    module = PROJECT["project"]["scripts"][f"flotilla-{image}"].partition(":")[0].replace(".", "/")
    assert f"{module}.py" in held.namelist()
    (scripts,) = [held.read(name).decode() for name in held.namelist() if name.endswith("entry_points.txt")]
    assert f"flotilla-{image}" in scripts
