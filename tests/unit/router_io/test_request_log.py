"""The request log of a running router: what it holds, who may read it, and that it never costs a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from learning import HARD, a_strategy, a_trial, fleet, stored
from relays import TokenReviews, a_token, gateway, relay_lines
from rig import (
    POLICY,
    STREAM_HEAD,
    ModelServer,
    Peer,
    Received,
    Reply,
    Rig,
    Script,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    chat_event,
    chat_stream,
    chunk,
    client,
    expert,
    external_fallback,
    get,
    model_server,
    post,
    replies,
    router,
    served_fallback,
    streams,
    until,
)

import flotilla_router.rows as rows_module
from artifacts import an_artifact
from flotilla_api.snapshot import RequestLogConfig, TokenPrice, WeightedTarget

READER, WRITER = "reader-key", "writer-key"
PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=2)
SECRET = "my secret is 4711"


def logged(prompts: str = "Text", *, max_bytes: int = 1 << 20, readers: tuple[str, ...] = ("reader",)) -> Any:
    return RequestLogConfig.model_validate({"prompts": prompts, "maxBytes": max_bytes, "readers": readers})


def _prepare(folder: Path) -> None:
    """The mounted Secret and the volume."""
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    (folder / "keys" / "reader").write_text(READER)
    (folder / "keys" / "writer").write_text(WRITER)
    (folder / "requests").mkdir(exist_ok=True)


@asynccontextmanager
async def a_log(
    folder: Path, *scripts: Script, config: RequestLogConfig | None, **fields: Any
) -> AsyncGenerator[tuple[Rig, ModelServer]]:
    """A gateway with one expert that keeps a log."""
    _prepare(folder)
    async with model_server(*(scripts or (replies(chat_answer("four")),))) as model:
        snapshot = a_snapshot(expert("small", model.address, price=PRICE), requestLog=config, **fields)
        async with router(folder, snapshot) as rig:
            yield rig, model


def read(rig: Rig, *, key: str | None = READER, query: str = "") -> Any:
    headers = [] if key is None else [f"x-flotilla-key: {key}"]
    return ask(rig.ports.admin, get(f"/v1/request-log{query}", headers=headers))


def rows_of(page: Reply) -> list[dict[str, Any]]:
    assert page.status == 200, page.body
    return [json.loads(line) for line in page.body.splitlines()]


async def rows(rig: Rig, count: int = 1) -> list[dict[str, Any]]:
    """The rows, once that many are there."""
    await until(lambda: rig.metric("flotilla_router_request_log_rows_total{") >= count)
    found = await everything(rig)
    assert len(found) == count
    return found


async def everything(rig: Rig, *, limit: int = 1000) -> list[dict[str, Any]]:
    """The rows of all pages, each of which begins where the one before ended."""
    found: list[dict[str, Any]] = []
    page = await read(rig, query=f"?limit={limit}")
    while True:
        found += rows_of(page)
        if page.headers["x-flotilla-more"] == "false":
            return found
        page = await read(rig, query=f"?limit={limit}&after={page.headers['x-flotilla-cursor']}")
        assert page.headers["x-flotilla-gap"] == "false"


def problem_of(page: Reply) -> tuple[int, str]:
    return page.status, page.json["error"]["code"]


# What a row holds


async def test_row_says_what_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    """Prompt, choice, attempts with their tokens and dollars, and the answer."""
    async with a_log(tmp_path, replies(chat_answer("It is four.")), config=logged()) as (rig, _):
        reply = await ask(rig.port, post(chat(), headers=["x-request-id: r-1"]))
        (row,) = await rows(rig)
    assert reply.status == 200

    assert row.pop("time") > 0
    assert row.pop("snapshot").startswith("sha256:")
    (attempt,) = row.pop("attempts")
    assert (attempt["target"], attempt["result"]) == ("small", "ok")
    assert (attempt["input_tokens"], attempt["output_tokens"]) == (10, 5)
    assert row == {
        "id": "r-1",
        "policy": POLICY,
        "alias": "auto",
        "api": "chat",
        "reason": "Static",
        "prompt": "2 + 2?",
        "candidates": ["small"],
        "choice": "small",
        "propensity": 1.0,
        "model": "small",
        "status": 200,
        "usd": pytest.approx(20e-6),
        "answer": "It is four.",
    }


@pytest.mark.parametrize(("model", "propensity"), [("auto", 0.25), ("small", None)])
async def test_row_says_how_likely_its_choice_was(tmp_path: Path, model: str, propensity: float | None) -> None:
    """The share of the draw; of a model that was asked for by name nobody drew."""
    _prepare(tmp_path)
    async with model_server(replies(chat_answer("four"))) as server:
        targets = expert("small", server.address), expert("other", server.address)
        shares = (WeightedTarget(name="small", weight=1), WeightedTarget(name="other", weight=3))
        snapshot = a_snapshot(*targets, requestLog=logged())
        route = snapshot.route.model_copy(update={"experts": shares})
        async with router(tmp_path, snapshot.model_copy(update={"route": route})) as rig:
            rig.process.dispatcher.draw = lambda: 0.99
            await ask(rig.port, post(chat(model=model)))
            (row,) = await rows(rig)

    assert (row["choice"], row["propensity"]) == ("small", propensity)


async def test_row_says_what_learned_routing_said(tmp_path: Path) -> None:
    """Scores, artifacts, the shadow's opinion, and how likely an explored choice was."""
    _prepare(tmp_path)
    source = stored(tmp_path, an_artifact())
    async with fleet(tmp_path) as them:
        strategy = a_strategy(source, exploreRatio=1.0)
        await them.use(strategy=strategy, shadow=a_trial(source), requestLog=logged())
        await until(lambda: them.digest("shadow") == source.digest)
        await them.ask(HARD)
        (row,) = await rows(them.rig)

    assert (row["reason"], row["propensity"], row["artifact"]) == ("Explored", 0.5, source.digest)
    assert row["candidates"] == ["small", "big"]
    assert row["choice"] in row["candidates"]
    assert row["scores"] == {"big": row["score"]}
    assert row["score"] > 0.5
    assert row["shadow"] == {"artifact": source.digest, "score": row["score"], "model": "big"}


async def test_row_names_who_might_have_answered(tmp_path: Path) -> None:
    """Not those that lack what is asked, or that the request's boundary keeps out."""
    _prepare(tmp_path)
    async with model_server(replies(chat_answer("four"))) as model:
        targets = (
            expert("small", model.address),
            expert("blind", model.address).model_copy(update={"tools": False}),
            served_fallback("big", model.address),
            external_fallback("api", "http://127.0.0.1:1/v1"),
        )
        async with router(tmp_path, a_snapshot(*targets, requestLog=logged())) as rig:
            tools = [{"type": "function", "function": {"name": "f"}}]
            await ask(rig.port, post(chat(tools=tools), headers=["x-flotilla-boundary: LocalOnly"]))
            (row,) = await rows(rig)

    assert row["candidates"] == ["small", "big"]


async def test_row_of_a_stream_holds_its_text(tmp_path: Path) -> None:
    """Put together from its events, escapes and all."""
    words = ('"Fo', 'ur"\n', "\\ \u00e9 👋")
    async with a_log(tmp_path, streams(*chat_stream(*words)), config=logged()) as (rig, _):
        await ask(rig.port, post(chat(stream=True)))
        (row,) = await rows(rig)

    assert row["answer"] == '"Four"\n\\ \u00e9 👋'


async def test_row_of_a_long_stream_holds_its_beginning(tmp_path: Path) -> None:
    """4,096 characters, of however many events."""
    words = [f"word{number} " for number in range(2000)]
    async with a_log(tmp_path, streams(*chat_stream(*words)), config=logged()) as (rig, _):
        await ask(rig.port, post(chat(stream=True)))
        (row,) = await rows(rig)

    assert row["answer"] == "".join(words)[:4096]


async def test_row_tells_what_was_escalated(tmp_path: Path) -> None:
    """Why the expert's answer was not good enough, and how sure it was."""
    _prepare(tmp_path)
    async with (
        model_server(replies(chat_answer("maybe", logprob=-3.0))) as small,
        model_server(replies(chat_answer("surely"))) as big,
    ):
        snapshot = a_snapshot(expert("small", small.address), served_fallback("big", big.address), requestLog=logged())
        async with router(tmp_path, snapshot) as rig:
            await ask(rig.port, post(chat()))
            (row,) = await rows(rig)

    assert (row["choice"], row["model"], row["cause"], row["answer"]) == ("small", "big", "LowConfidence", "surely")
    assert row["confidence"] == pytest.approx(0.0498, abs=1e-4)
    assert [attempt["target"] for attempt in row["attempts"]] == ["small", "big"]
    assert row["usd"] is None


async def test_row_of_a_request_that_failed_has_no_answer(tmp_path: Path) -> None:
    """Nobody answered it; its prompt is of use all the same."""
    async with a_log(tmp_path, replies(b'{"error":{}}', status=400), config=logged()) as (rig, _):
        await ask(rig.port, post(chat()))
        (row,) = await rows(rig)

    assert (row["status"], row["model"], row["prompt"]) == (400, None, "2 + 2?")
    assert "answer" not in row


async def test_row_of_several_answers_holds_none(tmp_path: Path) -> None:
    """They cannot be told apart in a stream, and a label is for one."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        await ask(rig.port, post(chat(n=2)))
        (row,) = await rows(rig)

    assert "answer" not in row


async def test_prompt_is_its_first_and_last_512_characters(tmp_path: Path) -> None:
    """What strategies look at, whatever was sent."""
    text = "a" * 600 + "b" * 600_000 + "c" * 600
    async with a_log(tmp_path, config=logged()) as (rig, _):
        await ask(rig.port, post(chat(messages=[{"role": "user", "content": text}])))
        (row,) = await rows(rig)

    assert row["prompt"] == "a" * 512 + "c" * 512


async def test_redacted_row_holds_nothing_private(tmp_path: Path) -> None:
    """Neither of the prompt nor of the answer."""
    answer = "Write to ada@example.com or https://a.example/7"
    prompt = "I am 41, mail ada@example.com"
    async with a_log(tmp_path, replies(chat_answer(answer)), config=logged("Redacted")) as (rig, _):
        await ask(rig.port, post(chat(messages=[{"role": "user", "content": prompt}])))
        (row,) = await rows(rig)

    assert row["prompt"] == "I am ##, mail <email>"
    assert row["answer"] == "Write to <email> or <url>"


async def test_row_of_features_holds_no_text(tmp_path: Path) -> None:
    """Only the buckets of the prompt's n-grams, sorted, of norm 1."""
    async with a_log(tmp_path, replies(chat_answer(SECRET)), config=logged("Features")) as (rig, _):
        await ask(rig.port, post(chat(messages=[{"role": "user", "content": SECRET}])))
        (row,) = await rows(rig)

    assert row.keys().isdisjoint({"prompt", "answer"})
    assert "secret" not in json.dumps(row)
    features = row["features"]
    assert features["indices"] == sorted(set(features["indices"]))
    assert len(features["indices"]) == len(features["values"]) == 7
    assert sum(value**2 for value in features["values"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("prompts", ["Text", "Redacted", "Features"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param(None, id="null"),
        pytest.param([{"type": "image_url", "image_url": {"url": "data:,"}}], id="a picture"),
        pytest.param("零一二三四五六七八九" * 200, id="a script without spaces"),
        pytest.param("\u0000\u001b[2J\ud83d", id="half a pair and what steers terminals"),
    ],
)
async def test_any_prompt_has_a_row(tmp_path: Path, prompts: str, content: object) -> None:
    """Whatever is in it."""
    async with a_log(tmp_path, config=logged(prompts)) as (rig, _):
        reply = await ask(rig.port, post(chat(messages=[{"role": "user", "content": content}])))
        await rows(rig)

    assert reply.status == 200


async def test_nothing_is_kept_unless_the_policy_says_so(tmp_path: Path) -> None:
    """There is no file, and nothing to read."""
    async with a_log(tmp_path, config=None) as (rig, _):
        await ask(rig.port, post(chat()))
        page = await read(rig)

    assert problem_of(page) == (404, "no_request_log")
    assert list((tmp_path / "requests").rglob("*")) == []


async def test_prompts_are_in_no_line_of_the_routers_own_log(tmp_path: Path) -> None:
    """Whoever collects what pods write sees no prompt, no answer and no key."""
    async with a_log(tmp_path, replies(chat_answer("told: " + SECRET)), config=logged()) as (rig, _):
        await ask(rig.port, post(chat(messages=[{"role": "user", "content": SECRET}])))
        await rows(rig)
        await read(rig, key="wrong " + SECRET)
        lines = json.dumps(rig.log.lines)

    assert "4711" not in lines
    assert READER not in lines


# Who may read it


@pytest.mark.parametrize(
    ("key", "status"),
    [
        pytest.param(None, 401, id="no key"),
        pytest.param("wrong", 401, id="a key of nobody"),
        pytest.param("", 401, id="an empty key"),
        pytest.param(WRITER, 403, id="a client's key"),
        pytest.param(READER, 200, id="a reader's key"),
    ],
)
async def test_only_readers_may_read(tmp_path: Path, key: str | None, status: int) -> None:
    """Holders of keys that the policy names."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        await ask(rig.port, post(chat()))
        await rows(rig)
        page = await read(rig, key=key)

    assert page.status == status
    assert (b"2 + 2?" in page.body) == (status == 200)


async def test_clients_port_shows_no_log(tmp_path: Path) -> None:
    """It is on the admin port only, which no Service leads to."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        page = await ask(rig.port, get("/v1/request-log", headers=[f"x-flotilla-key: {READER}"]))

    assert page.status == 404


async def test_sidecar_keeps_no_log_and_shows_none(tmp_path: Path) -> None:
    """It is in its agent's pod, where the log would be the agent's to read."""
    (tmp_path / "requests").mkdir()
    async with model_server(replies(chat_answer("four"))) as model:
        snapshot = a_snapshot(expert("small", model.address), requestLog=logged())
        async with router(tmp_path, snapshot, role="Sidecar") as rig:
            await ask(rig.port, post(chat()))
            page = await read(rig)

    assert page.status == 404
    assert list((tmp_path / "requests").iterdir()) == []


async def test_gateway_keeps_nothing_of_what_it_passes_on_for_sidecars(tmp_path: Path) -> None:
    """The sidecar has chosen, by what the gateway does not know; a row would pass for a choice of the gateway's."""
    _prepare(tmp_path / "gateway")
    async with (
        model_server(replies(chat_answer("four"))) as provider,
        gateway(
            tmp_path,
            a_snapshot(external_fallback("big", f"http://{provider.address}/v1"), requestLog=logged()),
            TokenReviews({a_token("agent-1"): "agent-1"}),
        ) as (rig, _),
    ):
        relayed = await ask(rig.port, post(chat(model="big"), headers=relay_lines()))
        own = await ask(rig.port, post(chat()))
        (row,) = await rows(rig)

    assert (relayed.status, own.status) == (200, 200)
    assert row["alias"] == "auto"


async def test_readers_change_with_the_policy(tmp_path: Path) -> None:
    """At once, and the rows stay."""
    async with a_log(tmp_path, config=logged(readers=())) as (rig, model):
        await ask(rig.port, post(chat()))
        before = await read(rig)
        rig.load(a_snapshot(expert("small", model.address), requestLog=logged(readers=("writer",))))
        await until(lambda: rig.metric("flotilla_router_request_log_rows_total{") == 1)
        after = await read(rig, key=WRITER)

    assert before.status == 403
    assert len(rows_of(after)) == 1


# Pages


async def test_pages_follow_each_other(tmp_path: Path) -> None:
    """None is lost and none comes twice."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        for number in range(5):
            await ask(rig.port, post(chat(), headers=[f"x-request-id: r-{number}"]))
        await rows(rig, 5)
        first = rows_of(await read(rig, query="?limit=2"))
        seen = await everything(rig, limit=2)

    assert len(first) == 2
    assert [row["id"] for row in seen] == [f"r-{number}" for number in range(5)]


async def test_reader_who_comes_too_late_is_told(tmp_path: Path) -> None:
    """Rows that made room for others are a gap, not an end."""
    long = "x " * 500
    async with a_log(tmp_path, config=logged(max_bytes=16384)) as (rig, _):
        await ask(rig.port, post(chat()))
        first = await read(rig) if await rows(rig) else None
        for number in range(20):
            await ask(rig.port, post(chat(messages=[{"role": "user", "content": f"{number} {long}"}])))
        await until(lambda: rig.metric("flotilla_router_request_log_rows_total{") == 21)
        assert first is not None
        late = await read(rig, query=f"?after={first.headers['x-flotilla-cursor']}")
        held = rig.metric("flotilla_router_request_log_bytes{")

    assert late.headers["x-flotilla-gap"] == "true"
    assert rows_of(late)
    assert 0 < held <= 16384


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?after=x", "invalid_cursor"),
        ("?after=1:-2", "invalid_cursor"),
        ("?limit=0", "invalid_limit"),
        ("?limit=10001", "invalid_limit"),
        ("?limit=", "invalid_limit"),
        ("?limit=many", "invalid_limit"),
        ("?limit=1" + "0" * 5000, "invalid_limit"),
        ("?limit=" + "0" * 5000 + "1", "invalid_limit"),
        ("?after=" + "1" * 5000 + ":0", "invalid_cursor"),
    ],
)
async def test_page_that_cannot_be_is_refused(tmp_path: Path, query: str, code: str) -> None:
    """With a word on what is wrong."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        page = await read(rig, query=query)

    assert problem_of(page) == (400, code)


# What goes wrong


async def test_log_goes_on_when_the_container_starts_again(tmp_path: Path) -> None:
    """The volume outlives it."""
    async with a_log(tmp_path, config=logged()) as (rig, _):
        await ask(rig.port, post(chat(), headers=["x-request-id: before"]))
    async with a_log(tmp_path, config=logged()) as (rig, _):
        await ask(rig.port, post(chat(), headers=["x-request-id: after"]))
        await until(lambda: rig.metric("flotilla_router_request_log_rows_total{") == 1)
        found = await everything(rig)

    assert [row["id"] for row in found] == ["before", "after"]


async def test_rows_of_another_setting_go(tmp_path: Path) -> None:
    """Who takes text out of the log means what is there, too."""
    async with a_log(tmp_path, config=logged("Text")) as (rig, model):
        await ask(rig.port, post(chat()))
        await rows(rig)
        rig.load(a_snapshot(expert("small", model.address), requestLog=logged("Features")))
        await ask(rig.port, post(chat()))
        await until(lambda: rig.metric("flotilla_router_request_log_rows_total{") == 2)
        (row,) = rows_of(await read(rig))
        rig.load(a_snapshot(expert("small", model.address)))
        await until(lambda: not list((tmp_path / "requests").iterdir()))

    assert "features" in row


async def test_log_that_cannot_be_written_is_a_problem_and_no_error(tmp_path: Path) -> None:
    """Requests are answered; the problem goes once the volume is there."""
    async with a_log(tmp_path, config=None) as (rig, model):
        (tmp_path / "requests").rmdir()
        rig.load(a_snapshot(expert("small", model.address), requestLog=logged()))
        reply = await ask(rig.port, post(chat()))
        await until(lambda: rig.metric('flotilla_router_request_log_dropped_total{policy="helpdesk",reason="Disk"}'))
        (problem,) = rig.process.store.problems()
        (tmp_path / "requests").mkdir()
        await ask(rig.port, post(chat()))
        await rows(rig)
        solved = rig.process.store.problems()

    assert reply.status == 200
    assert problem.kind == "RequestLog"
    assert "cannot be opened" in problem.text
    assert solved == []


async def test_rows_that_nobody_takes_in_time_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not pile up in memory; they are counted."""
    monkeypatch.setattr("flotilla_router.requestlog.MAX_PENDING_BYTES", 1500)
    async with a_log(tmp_path, config=logged()) as (rig, _):
        reply = await ask(rig.port, post(chat(messages=[{"role": "user", "content": "x" * 1000}])))
        dropped = rig.metric('flotilla_router_request_log_dropped_total{policy="helpdesk",reason="Backlog"}')

    assert reply.status == 200
    assert dropped == 1


async def test_rows_under_way_when_the_setting_changes_are_dropped(tmp_path: Path) -> None:
    """Text that was begun with is not written where only features may be."""
    answered = asyncio.Event()

    async def late(received: Received, peer: Peer) -> None:
        await answered.wait()
        await replies(chat_answer("four"))(received, peer)

    async with a_log(tmp_path, late, config=logged("Text")) as (rig, model):
        async with client(rig.port) as raw:
            await raw.send(post(chat()))
            await until(lambda: model.received)
            rig.load(a_snapshot(expert("small", model.address), requestLog=logged("Features")))
            answered.set()
            assert (await raw.reply()).status == 200
        await until(lambda: rig.metric('flotilla_router_request_log_dropped_total{policy="helpdesk",reason="Setting"}'))

    assert not [path for path in (tmp_path / "requests").rglob("*.jsonl") if path.stat().st_size]


@pytest.mark.defect
async def test_mistake_on_one_row_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted and told without the prompt, and later rows are written."""
    redact = rows_module.redact

    def breaks(text: str) -> str:
        if "4711" in text:
            raise RuntimeError(text)
        return redact(text)

    monkeypatch.setattr(rows_module, "redact", breaks)
    async with a_log(tmp_path, config=logged("Redacted")) as (rig, _):
        await ask(rig.port, post(chat(messages=[{"role": "user", "content": SECRET}])))
        await until(lambda: rig.metric('flotilla_router_request_log_dropped_total{policy="helpdesk",reason="Defect"}'))
        (problem,) = rig.process.store.problems()
        await ask(rig.port, post(chat()))
        await rows(rig)

    assert problem.text == "a row of the request log cannot be made: RuntimeError"


async def test_row_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    """A log that is smaller than a row holds nothing, and says so."""
    async with a_log(tmp_path, config=logged(max_bytes=100)) as (rig, _):
        await ask(rig.port, post(chat()))
        await until(lambda: rig.metric('flotilla_router_request_log_dropped_total{policy="helpdesk",reason="Size"}'))

    assert not [path for path in (tmp_path / "requests").rglob("*") if path.is_file() and path.stat().st_size]


async def test_client_that_leaves_has_a_row(tmp_path: Path) -> None:
    """With what it got until then."""

    async def half(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(chat_event("one ")) + chunk(chat_event("two")))
        await peer.closed()

    async with a_log(tmp_path, half, config=logged()) as (rig, _):
        async with client(rig.port) as raw:
            await raw.send(post(chat(stream=True)))
            await raw.head()
            while b"two" not in await raw.chunk():
                pass
        (row,) = await rows(rig)

    assert (row["client_gone"], row["status"], row["answer"]) == (True, 499, "one two")
