"""Artifacts, policies and prompts that are not what they should be: the router never stops serving."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning import EASY, HARD, Fleet, Json, a_strategy, a_trial, fleet, stored
from rig import ListLog, Peer, Received, a_snapshot, expert, model_server, post, until

from artifacts import an_artifact, an_embedder, digest, npz, sealed
from flotilla_api.artifact import MANIFEST_FILE, WEIGHTS_FILE, write_tar
from flotilla_api.control import ProblemKind
from flotilla_api.snapshot import ArtifactSource
from flotilla_router.artifacts import LONGEST_BACKOFF_SECONDS, Artifacts, backoff_seconds
from flotilla_router.learned import Learned
from flotilla_router.telemetry import Telemetry

GONE = "sha256:" + "0" * 64
NO_ROOM = "Opening the artifact takes more memory than there is."
SCRIPTS = [
    pytest.param("", id="empty"),
    pytest.param(" \n\t ", id="blank"),
    pytest.param("证明这个定理", id="Chinese"),
    pytest.param("أثبت النظرية", id="Arabic"),
    pytest.param("प्रमेय सिद्ध करो", id="Hindi"),
    pytest.param("พิสูจน์ทฤษฎีบท", id="Thai"),
    pytest.param("👩‍👩‍👧‍👦🏳️‍🌈", id="emoji"),
    pytest.param("\u0000\u202e\ufeff\ufffd", id="control characters"),
    pytest.param("e\u0301" * 5000, id="combining"),
    pytest.param("a" * 1_000_000, id="1 MB of one word"),
    pytest.param("prove " * 160_000, id="1 MB of words"),
    pytest.param("🧮" * 200_000, id="1 MB of emoji"),
    pytest.param("\\" * 100_000, id="escapes"),
]


async def with_one_in_use(them: Fleet, folder: Path, **changes: Any) -> str:
    """Put a good artifact into use; its digest."""
    files = an_artifact()
    await them.use(strategy=a_strategy(stored(folder, files, "good"), **changes))
    return digest(files)


async def refused(them: Fleet, role: str = "strategy") -> tuple[str, str]:
    """Kind and text of the problem that a role has, once it has one."""
    await until(lambda: [each for each in them.problems() if each[1] == role])
    ((kind, _, text),) = [each for each in them.problems() if each[1] == role]
    return kind, text


def other(**changes: Any) -> dict[str, bytes]:
    """A good artifact with another digest."""
    return an_artifact(manifest={"data": {"digest": GONE, "rows": 3, "splitSeed": 1}}, **changes)


def truncated() -> tuple[str, bytes]:
    files = other()
    return digest(files), write_tar(files)[:5000]


def tampered() -> tuple[str, bytes]:
    files = other()
    weights = {"weights": np.full(an_embedder().dims, 9.0, np.float32), "bias": np.zeros(1, np.float32)}
    return digest(files), write_tar({**files, WEIGHTS_FILE: npz(weights)})


def another_one() -> tuple[str, bytes]:
    return GONE, write_tar(other())


def no_tar() -> tuple[str, bytes]:
    return GONE, os.urandom(4096)


def empty_file() -> tuple[str, bytes]:
    return GONE, b""


def of_version_2() -> tuple[str, bytes]:
    files = other()
    manifest = json.loads(files[MANIFEST_FILE]) | {"schemaVersion": 2}
    sealed_files = sealed(manifest, {name: data for name, data in files.items() if name != MANIFEST_FILE})
    return digest(sealed_files), write_tar(sealed_files)


def with_nan_weights() -> tuple[str, bytes]:
    weights = {"weights": np.full(an_embedder().dims, np.nan, np.float32), "bias": np.zeros(1, np.float32)}
    files = other(arrays=weights)
    return digest(files), write_tar(files)


def of_another_embedder() -> tuple[str, bytes]:
    spec = an_embedder().spec.model_dump(exclude_defaults=True) | {"digest": GONE}
    files = an_artifact(manifest={"embedder": spec})
    return digest(files), write_tar(files)


def with_another_golden_score() -> tuple[str, bytes]:
    files = other(golden=({"prompt": "", "scores": {"strong": 0.9}},))
    return digest(files), write_tar(files)


@pytest.mark.parametrize(
    ("make", "kind", "word", "reason"),
    [
        pytest.param(truncated, "ArtifactRefused", "tar", "Unreadable", id="truncated"),
        pytest.param(tampered, "ArtifactDigestMismatch", "weights.npz", "DigestMismatch", id="tampered"),
        pytest.param(another_one, "ArtifactDigestMismatch", "manifest.json", "DigestMismatch", id="another one"),
        pytest.param(no_tar, "ArtifactRefused", "tar", "Unreadable", id="no tar"),
        pytest.param(empty_file, "ArtifactRefused", "tar", "Unreadable", id="empty"),
        pytest.param(of_version_2, "ArtifactRefused", "version", "UnknownVersion", id="another version"),
        pytest.param(with_nan_weights, "ArtifactRefused", "weights", "InvalidWeights", id="NaN weights"),
        pytest.param(of_another_embedder, "ArtifactRefused", "embedder", "EmbedderMismatch", id="embedder mismatch"),
        pytest.param(with_another_golden_score, "ArtifactRefused", "golden", "GoldenMismatch", id="golden row"),
    ],
)
async def test_a_bad_artifact_is_refused_and_the_previous_one_stays(
    make: Any, kind: str, word: str, reason: str, tmp_path: Path
) -> None:
    """The problem names what is wrong and what stays; it is counted; requests are ranked as before."""
    pinned, data = make()
    async with fleet(tmp_path) as them:
        good = await with_one_in_use(them, tmp_path)
        (tmp_path / "bad.tar").write_bytes(data)

        them.load(strategy=a_strategy(ArtifactSource(digest=pinned, file=str(tmp_path / "bad.tar"))), generation=2)
        told, text = await refused(them)

        assert told == kind
        assert word in text
        assert f"The previous one, {good}, stays." in text
        assert them.rig.metric("flotilla_router_artifacts_refused_total") >= 1
        labels = f'policy="helpdesk",reason="{reason}",role="strategy"'
        assert them.rig.metric(f"flotilla_router_artifacts_refused_total{{{labels}}}") >= 1
        assert (await them.model(EASY), await them.model(HARD)) == ("small", "big")
        assert (await them.record())["artifact"] == good


async def test_an_oversized_artifact_is_not_even_read(tmp_path: Path) -> None:
    """A sparse file of 1 TB costs nothing."""
    async with fleet(tmp_path) as them:
        with (tmp_path / "large.tar").open("wb") as file:
            file.truncate(1 << 40)

        them.load(strategy=a_strategy(ArtifactSource(digest=GONE, file=str(tmp_path / "large.tar"))))
        kind, text = await refused(them)

        assert kind == "ArtifactNotFound"
        assert "larger than 64 MiB" in text
        assert "Requests are drawn by weight." in text
        assert await them.model(HARD) == "small"
        assert them.decisions("not_loaded", "small") == 1


async def test_an_artifact_that_appears_later_is_used(tmp_path: Path) -> None:
    """Whatever order things are deployed in; then there is no problem any more."""
    files = an_artifact()
    source = ArtifactSource(digest=digest(files), file=str(tmp_path / "late.tar"))
    async with fleet(tmp_path) as them:
        them.load(strategy=a_strategy(source))
        await refused(them)

        stored(tmp_path, files, "late")

        await until(lambda: them.digest("strategy"))
        assert them.problems() == []
        assert await them.model(HARD) == "big"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"models": {"weak": "small", "huge": "big"}}, "lacks: it has weak, strong", id="an unknown model"),
        pytest.param({"models": {"weak": "small"}}, "weak, strong", id="half a pair"),
        pytest.param({"type": "QualityGap"}, "one for WinRate", id="another strategy"),
        pytest.param({"type": "Cluster", "alpha": 0.5}, "one for WinRate", id="no pair at all"),
        pytest.param({"targetStrongRatio": 0.3}, "calibration", id="nothing to start from"),
    ],
)
async def test_an_artifact_that_does_not_go_with_the_policy_is_refused(
    changes: Json, word: str, tmp_path: Path
) -> None:
    """The previous one stays, with its own names and threshold."""
    async with fleet(tmp_path) as them:
        good = await with_one_in_use(them, tmp_path)

        them.load(strategy=a_strategy(stored(tmp_path, other()), **changes), generation=2)
        kind, text = await refused(them)

        assert kind == "ArtifactRefused"
        assert word in text
        assert f"The previous one, {good}, stays." in text
        labels = 'policy="helpdesk",reason="Unfit",role="strategy"'
        assert them.rig.metric(f"flotilla_router_artifacts_refused_total{{{labels}}}") == 1
        assert (await them.model(EASY), await them.model(HARD)) == ("small", "big")


async def test_a_bad_canary_or_shadow_takes_no_part(tmp_path: Path) -> None:
    """Its sessions stay with the strategy's artifact, and each role has its own problem."""
    gone = ArtifactSource(digest=GONE, file=str(tmp_path / "gone.tar"))
    async with fleet(tmp_path) as them:
        await with_one_in_use(them, tmp_path)

        them.load(
            strategy=a_strategy(stored(tmp_path, an_artifact(), "good")), canary=a_trial(gone), shadow=a_trial(gone)
        )
        canary, shadow = await refused(them, "canary"), await refused(them, "shadow")

        assert "stay with the strategy's artifact" in canary[1]
        assert "Nothing is scored" in shadow[1]
        assert await them.model(HARD) == "big"
        assert (await them.record())["shadow"] is None


async def test_a_model_of_the_policy_that_does_not_exist_leaves_the_others(tmp_path: Path) -> None:
    """A name without a target is passed over, hard prompts included."""
    names = {"weak": "small", "strong": "not-there-yet"}
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact()), models=names))

        assert await them.model(HARD) == "small"
        assert (await them.record())["reason"] == "WinRate"


async def test_a_strategy_without_any_model_of_the_route_is_a_draw(tmp_path: Path) -> None:
    """It is counted, so that somebody notices."""
    names = {"weak": "one", "strong": "two"}
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact()), models=names))

        assert await them.model(HARD) == "small"
        assert them.decisions("none_eligible", "small") == 1


@pytest.mark.parametrize("prompt", SCRIPTS)
async def test_any_prompt_is_answered(prompt: str, tmp_path: Path) -> None:
    """By whichever model; the score is a number in [0, 1]."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())), maxBodyBytes=16 << 20)

        reply = await them.ask(prompt)

        assert reply.status == 200
        assert reply.headers["x-flotilla-reason"] == "WinRate"
        assert 0 <= (await them.record())["score"] <= 1


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([], id="no message"),
        pytest.param([{"role": "system", "content": "x"}], id="no user"),
        pytest.param([{"role": "user", "content": None}], id="null"),
        pytest.param([{"role": "user", "content": 7}], id="a number"),
        pytest.param([{"role": "user", "content": [{"type": "text"}, 5]}], id="odd parts"),
        pytest.param([7, None, "x"], id="no objects"),
        pytest.param("a text", id="no list"),
        pytest.param([{"role": "user", "content": "\ud800"}], id="half a surrogate pair"),
    ],
)
async def test_messages_of_any_shape_are_passed_on(messages: Any, tmp_path: Path) -> None:
    """What they mean is for the engine to say: here they are a prompt without text."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))

        assert (await them.ask(messages=messages)).status == 200


@pytest.mark.parametrize("prompt", ["", HARD, [HARD, "x"], [1, 2, 3], [[1], [2]], [], None, 5, {"a": 1}])
async def test_prompts_of_completions_of_any_shape_are_passed_on(prompt: Any, tmp_path: Path) -> None:
    """Texts, lists of texts and token ids."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))
        body = json.dumps({"model": "auto", "prompt": prompt}).encode()

        reply = await them.send(post(body, path="/v1/completions"))

        assert reply.status == 200


async def test_requests_are_answered_while_an_artifact_is_on_its_way(tmp_path: Path) -> None:
    """From a server that takes the question and says nothing; the previous artifact ranks meanwhile."""

    async def silent(received: Received, peer: Peer) -> None:
        await peer.closed()

    async with fleet(tmp_path) as them, model_server(silent) as server:
        good = await with_one_in_use(them, tmp_path)
        slow = ArtifactSource(digest=GONE, url=f"http://{server.address}/router.tar")

        them.load(strategy=a_strategy(slow), generation=2)
        await until(lambda: server.received)

        assert (await them.model(EASY), await them.model(HARD)) == ("small", "big")
        assert (await them.record())["artifact"] == good
        assert them.problems() == []


async def test_no_request_is_lost_while_artifacts_come_and_go(tmp_path: Path) -> None:
    """Good and bad ones in turn, under load."""
    good, better = stored(tmp_path, an_artifact(), "good"), stored(tmp_path, other(), "better")
    bad = ArtifactSource(digest=GONE, file=str(tmp_path / "gone.tar"))
    async with fleet(tmp_path) as them:
        statuses: list[int] = []
        for source in (good, bad, better, bad, good) * 4:
            them.load(strategy=a_strategy(source), generation=len(statuses))
            statuses += [(await them.ask(HARD)).status for _ in range(5)]

        assert statuses == [200] * 100


@pytest.mark.parametrize(
    ("failures", "draw", "seconds"),
    [(1, 0.0, 0.5), (1, 1.0, 1.0), (3, 1.0, 4.0), (10, 1.0, LONGEST_BACKOFF_SECONDS), (10_000, 0.0, 30.0)],
)
def test_tries_come_less_and_less_often(failures: int, draw: float, seconds: float) -> None:
    """From half a second to a minute."""
    assert backoff_seconds(failures, draw) == seconds


async def test_an_artifact_that_would_end_the_container_is_refused_unopened(tmp_path: Path) -> None:
    """A router that is killed at each start would serve nobody, and so would all of the policy's at once."""
    sizes: list[int] = []

    def lacking_room(size: int) -> str:
        sizes.append(size)
        return NO_ROOM

    loop, log = asyncio.get_running_loop(), ListLog()
    learned = Learned(report=print)
    artifacts = Artifacts(
        loop,
        learned,
        Telemetry("agents", "helpdesk", log),
        ask_control=never,
        draw=lambda: 0.5,
        lacking_room=lacking_room,
    )
    source = stored(tmp_path, an_artifact())
    artifacts.want(a_snapshot(expert("small", "127.0.0.1:1"), strategy=a_strategy(source)))
    assert [problem.kind.value for problem in artifacts.problems()] == ["ArtifactLoading"]
    await until(lambda: sizes and artifacts.problems()[0].kind is ProblemKind.ARTIFACT_REFUSED)
    artifacts.close()

    (problem,) = artifacts.problems()
    assert (problem.kind.value, problem.target) == ("ArtifactRefused", "strategy")
    assert NO_ROOM in problem.text
    assert sizes == [(tmp_path / "artifact.tar").stat().st_size]
    assert learned.digest_of("strategy") is None


async def never(digest: str) -> bytes:
    raise AssertionError(digest)
