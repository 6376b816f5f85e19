"""Fixtures and hooks of every suite that runs against an installed Flotilla; its conftest.py imports them."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.steps import Space
from localcluster.binaries import ensure_binaries
from stack.flotilla import Stack

DUMPS = Path(__file__).parents[2] / "build" / "cluster-dumps"
_FAILED = pytest.StashKey[bool]()


@contextmanager
def new_space(stack: Stack) -> Generator[Space]:
    """A namespace with the Secrets that the builders name; deleted afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    stack.cluster.kubectl("create", "namespace", name)
    space = Space(stack, name)
    space.add_secrets()
    try:
        yield space
    finally:
        stack.cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def space(stack: Stack) -> Generator[Space]:
    """A namespace of the test's own."""
    with new_space(stack) as space:
        yield space


@pytest.fixture(autouse=True)
def dump_after_failure(stack: Stack, request: pytest.FixtureRequest) -> Generator[None]:
    """After a failure everything about the cluster is written to a folder, before the test's namespace goes."""
    if "space" in request.fixturenames:
        request.getfixturevalue("space")
    yield
    if request.node.stash.get(_FAILED, False):
        folder = DUMPS / re.sub(r"[^\w.-]+", "-", request.node.nodeid)
        shutil.rmtree(folder, ignore_errors=True)
        stack.cluster.dump(folder)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane's programs, if need be, before the first test's clock runs."""
    if not session.config.getoption("collectonly"):
        ensure_binaries()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave word of a failure for the fixtures that end after it."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report
