"""Fixtures of the tests that run on a real API server."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from operator_world import CRDS, World

from localcluster.binaries import ensure_binaries
from localcluster.cluster import LocalCluster
from localcluster.config import ImageSpec
from stack.images import make_images

DUMPS = Path(__file__).parents[2] / "build" / "cluster-dumps"
FAILED = pytest.StashKey[bool]()


TOOLBOX = ImageSpec(["/bin/sh"], {"sh": ["/bin/sh"], "python3": [sys.executable]})


@pytest.fixture(scope="session")
def cluster() -> Generator[LocalCluster]:
    """A cluster with the default nodes that runs pods; one for each worker of a parallel run.

    Beside the project's images it knows `toolbox`: a shell and Python, for pods that a test writes itself.
    """
    images = {**make_images(), "toolbox": TOOLBOX}
    with LocalCluster.start(images=images, name="test", restart_backoff_seconds=0.2) as running:
        yield running


@pytest.fixture(scope="session")
def control_plane() -> Generator[LocalCluster]:
    """A cluster without nodes: nothing runs pods."""
    with LocalCluster.start(name="test-bare", runner=False) as running:
        yield running


@pytest.fixture(scope="module")
def plane() -> Generator[LocalCluster]:
    """A control plane with our CRDs, whose API server the tests may kill."""
    with LocalCluster.start(name="operator", runner=False) as cluster:
        cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield cluster


@pytest.fixture
def world(plane: LocalCluster, tmp_path: Path) -> Iterator[World]:
    """No operator runs yet."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", namespace)
    with ExitStack() as stack:
        yield World(plane, namespace, tmp_path, stack)
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def namespace(cluster: LocalCluster, request: pytest.FixtureRequest) -> Generator[str]:
    """A namespace of the test's own on `cluster`, deleted afterwards; after a failure, the cluster is dumped first."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    if request.node.stash.get(FAILED, False):
        cluster.dump(DUMPS / re.sub(r"[^\w.-]+", "-", request.node.nodeid))
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane's programs, if need be, before the first test's clock runs."""
    if not session.config.getoption("collectonly"):
        ensure_binaries()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave word of a failure for the fixtures that end after it."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report
