"""Policies with learned strategies, whose artifacts are files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import (
    ModelServer,
    Reply,
    Rig,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    expert,
    model_server,
    post,
    replies,
    served_fallback,
    until,
)
from rig import router as a_router

from artifacts import digest
from flotilla_api.artifact import write_tar
from flotilla_api.control import ProblemKind
from flotilla_api.snapshot import ArtifactSource, RoutingSnapshot, StrategyConfig, Target, TrialConfig

Json = dict[str, Any]
NAMES = {"weak": "small", "strong": "big"}
EASY, HARD = "please say hello", "prove theorem"


def stored(folder: Path, files: Mapping[str, bytes], name: str = "artifact") -> ArtifactSource:
    """The artifact, as a file."""
    path = folder / f"{name}.tar"
    path.write_bytes(write_tar(files))
    return ArtifactSource(digest=digest(files), file=str(path))


def a_strategy(source: ArtifactSource, **changes: Any) -> StrategyConfig:
    """WinRate between `small` and `big`, at a threshold of 0.5."""
    threshold = None if "targetStrongRatio" in changes or "alpha" in changes else 0.5
    fields: Json = {"type": "WinRate", "artifact": source, "models": NAMES, "threshold": threshold, **changes}
    return StrategyConfig(**fields)


def a_trial(source: ArtifactSource, percent: int = 100, **changes: Any) -> TrialConfig:
    """A shadow or a canary of the same pair."""
    return TrialConfig(artifact=source, models=NAMES, percent=percent, **changes)


@dataclass
class Fleet:
    """A small expert, a large fallback, and a router before them."""

    rig: Rig
    small: ModelServer
    big: ModelServer

    def load(self, more: Sequence[Target] = (), **fields: Any) -> RoutingSnapshot:
        """Bring a snapshot with these fields, such as a strategy; `more` targets are for those who ask by name."""
        own = expert("small", self.small.address), served_fallback("big", self.big.address)
        snapshot = a_snapshot(*own, **fields)
        snapshot = snapshot.model_copy(update={"targets": (*own, *more)})
        self.rig.load(snapshot)
        return snapshot

    async def use(self, **fields: Any) -> None:
        """Bring a snapshot, and wait until its strategy's artifact is in use."""
        await self.in_use(self.load(**fields).strategy)

    async def in_use(self, strategy: StrategyConfig | None) -> None:
        assert strategy is not None
        await until(lambda: self.digest("strategy") == strategy.artifact.digest)

    def digest(self, role: Any) -> str | None:
        """Of the artifact that a role uses."""
        return self.rig.process.router.judge.learned.digest_of(role)

    async def ask(self, prompt: Any = EASY, *headers: str, **fields: Any) -> Reply:
        """The answer to one question for the alias auto."""
        return await self.send(post(chat() | {"messages": messages(prompt)} | fields, headers=headers))

    async def send(self, request: bytes) -> Reply:
        """The answer to a request."""
        return await ask(self.rig.port, request)

    async def model(self, prompt: Any = EASY, *headers: str, **fields: Any) -> str:
        """Who answers it."""
        reply = await self.ask(prompt, *headers, **fields)
        assert reply.status == 200, reply.body
        return reply.headers["x-flotilla-model"]

    async def record(self) -> Json:
        """The last request's log line."""
        await until(lambda: self.rig.log.of("request"))
        return self.rig.log.of("request")[-1]

    def decisions(self, result: str, model: str) -> float:
        """How many the strategy's artifact has made."""
        labels = f'model="{model}",policy="helpdesk",result="{result}",role="strategy"'
        return self.rig.metric(f"flotilla_router_strategy_decisions_total{{{labels}}}")

    def problems(self) -> list[tuple[str, str, str]]:
        """Kind, target and text of what the control API is told, once nothing is being loaded."""
        problems = self.rig.process.store.problems()
        if any(problem.kind is ProblemKind.ARTIFACT_LOADING for problem in problems):
            return []
        return [(problem.kind.value, problem.target, problem.text) for problem in problems]


def messages(prompt: Any) -> list[Json]:
    """One message of the user's."""
    return [{"role": "user", "content": prompt}]


@asynccontextmanager
async def fleet(folder: Path) -> AsyncGenerator[Fleet]:
    """A fleet without a snapshot, until the block ends."""
    async with (
        model_server(replies(chat_answer("small", usage=(1, 1)))) as small,
        model_server(replies(chat_answer("big", usage=(1, 1)))) as big,
        a_router(folder, None) as rig,
    ):
        yield Fleet(rig, small, big)
