"""Artifacts in ConfigMaps, which the control API hands out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from learning import a_strategy
from rig import (
    NAMESPACE,
    POLICY,
    Peer,
    Received,
    Rig,
    a_snapshot,
    expert,
    model_server,
    replies,
    router,
    served_fallback,
    until,
)

from artifacts import an_artifact, digest
from flotilla_api.artifact import write_tar
from flotilla_api.control import ProblemKind
from flotilla_api.snapshot import ArtifactSource, RoutingSnapshot

FILES = an_artifact()
PATH = f"/v1/artifacts/{NAMESPACE}/{POLICY}/{digest(FILES)}"


@dataclass
class Control:
    """A control API: hands out one snapshot, and one artifact once it is there."""

    snapshot: RoutingSnapshot
    status: int = 200
    body: bytes = write_tar(FILES)
    asked: list[Received] = field(default_factory=list[Received])
    polls: list[list[str]] = field(default_factory=list[list[str]])
    """What each named as a problem, but for artifacts that are on their way."""
    loading: bool = False
    """Whether one has named such an artifact."""

    async def __call__(self, received: Received, peer: Peer) -> None:
        url = urlsplit(received.path)
        if url.path.startswith("/v1/artifacts/"):
            self.asked.append(received)
            await replies(self.body if self.status == 200 else b"{}", status=self.status)(received, peer)
            return
        query = parse_qs(url.query)
        told = query.get("problem", [])
        self.loading |= any(problem.startswith("ArtifactLoading:strategy:") for problem in told)
        self.polls.append([problem for problem in told if not problem.startswith("ArtifactLoading")])
        if query.get("digest") == [RoutingSnapshot.digest_of(self.snapshot.to_json())]:
            await peer.closed()
        await replies(self.snapshot.to_json())(received, peer)


def a_learned_snapshot() -> RoutingSnapshot:
    """A policy whose artifact is in a ConfigMap."""
    strategy = a_strategy(ArtifactSource(digest=digest(FILES)))
    return a_snapshot(expert("small", "127.0.0.1:1"), served_fallback("big", "127.0.0.1:2"), strategy=strategy)


@asynccontextmanager
async def under(folder: Path, control: Control) -> AsyncGenerator[Rig]:
    """A router under this control API."""
    (folder / "token").mkdir()
    (folder / "token" / "token").write_text("t-1")
    async with (
        model_server(control) as server,
        router(folder, None, control_url=f"http://{server.address}") as rig,
    ):
        yield rig


def in_use(rig: Rig) -> str | None:
    return rig.process.router.judge.learned.digest_of("strategy")


async def test_the_control_api_is_asked_with_the_routers_own_token(tmp_path: Path) -> None:
    """For the artifact by its digest; it is in use then."""
    control = Control(a_learned_snapshot())
    async with under(tmp_path, control) as rig:
        await until(lambda: in_use(rig))

        (asked,) = control.asked
        assert (asked.method, asked.path, asked.headers["authorization"]) == ("GET", PATH, "Bearer t-1")
        assert in_use(rig) == digest(FILES)


async def test_an_artifact_on_its_way_is_told_and_is_no_problem_of_the_routers(tmp_path: Path) -> None:
    """So the policy does not say that all is well before it is; nothing is wrong, and nothing is logged."""
    control = Control(a_learned_snapshot())
    async with under(tmp_path, control) as rig:
        await until(lambda: in_use(rig) and control.loading and not rig.process.store.problems())

        assert control.polls[-1] == []
        assert not rig.log.of("problem")


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        pytest.param(404, "ArtifactNotFound:strategy:", id="no such ConfigMap"),
        pytest.param(409, "ArtifactDigestMismatch:strategy:", id="another artifact"),
        pytest.param(503, "ArtifactNotFound:strategy:", id="an operator that cannot say"),
    ],
)
async def test_what_is_missing_is_told_and_asked_for_again(status: int, problem: str, tmp_path: Path) -> None:
    """The next poll names the problem, and the one after its end does not."""
    control = Control(a_learned_snapshot(), status)
    async with under(tmp_path, control) as rig:
        await until(lambda: any(control.polls))
        assert control.polls[-1][0].startswith(problem)

        control.status = 200

        await until(lambda: in_use(rig))
        await until(lambda: not control.polls[-1])


async def test_a_tar_that_is_larger_than_any_configmap_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Whoever answers in the operator's place cannot fill the router's memory."""
    control = Control(a_learned_snapshot(), body=b"0" * (3 << 20))
    async with under(tmp_path, control) as rig:
        await until(lambda: any(control.polls))

        assert "larger than" in control.polls[-1][0]
        assert in_use(rig) is None


async def test_without_a_control_api_the_problem_says_so(tmp_path: Path) -> None:
    """Requests are drawn by weight."""
    async with router(tmp_path, a_learned_snapshot()) as rig:
        await until(lambda: "FLOTILLA_CONTROL_URL" in str(rig.process.store.problems()))

        (problem,) = rig.process.store.problems()
        assert problem.kind is ProblemKind.ARTIFACT_NOT_FOUND
        assert "Requests are drawn by weight." in problem.text


async def test_a_router_that_ends_waits_for_no_artifact(tmp_path: Path) -> None:
    """One that is being fetched is given up."""

    async def silent(received: Received, peer: Peer) -> None:
        await peer.closed()

    strategy = ArtifactSource(digest=digest(FILES))
    async with model_server(silent) as server:
        source = strategy.model_copy(update={"url": f"http://{server.address}/router.tar"})
        snapshot = a_snapshot(expert("small", "127.0.0.1:1"), strategy=a_strategy(source))
        async with router(tmp_path, snapshot):
            await until(lambda: server.received)

    assert not [task for task in asyncio.all_tasks() if "_bring" in repr(task)]
