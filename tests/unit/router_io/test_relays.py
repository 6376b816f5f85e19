"""A gateway lets its policy's sidecars in, by the tokens of their pods, and to external fallbacks only."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from relays import REVIEWS, TokenReviews, a_token, gateway, relay_lines
from rig import (
    NAMESPACE,
    a_snapshot,
    ask,
    chat,
    chat_answer,
    client,
    expert,
    external_fallback,
    get,
    model_server,
    post,
    replies,
    router,
    until,
)

from flotilla_api.snapshot import Target
from flotilla_router.control import ControlError
from flotilla_router.reviews import MOST_OF_ONE_PEER, MOST_REVIEWS, REVIEW_SECONDS, Reviews
from flotilla_router.verdicts import Admitted, Refused, Unavailable, Verdict

ANSWER = chat_answer("4")
AGENT = a_token("agent-1")
BIG = chat(model="big")


def a_policy(provider: str = "provider.invalid", *experts: Target) -> list[Target]:
    return [*experts, external_fallback("big", f"http://{provider}/v1")]


def known() -> TokenReviews:
    return TokenReviews({AGENT: "agent-1"})


async def test_a_token_is_reviewed_once_by_the_operator(tmp_path: Path) -> None:
    """The gateway shows its own token; what it learned lasts for the next request."""
    reviews = known()
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address), anonymous=False), reviews) as (rig, _),
    ):
        answers = [await ask(rig.port, post(BIG, headers=relay_lines())) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    (received,) = reviews.received
    assert (received.method, received.path, received.json) == ("POST", REVIEWS, {"token": AGENT})
    assert received.headers["authorization"] == "Bearer control-token"
    assert {line["client"] for line in rig.log.of("request")} == {"agent-1"}
    assert "authorization" not in provider.received[0].headers


@pytest.mark.parametrize(
    ("lines", "path", "status", "code"),
    [
        pytest.param(relay_lines(a_token("stranger")), "/v1/chat/completions", 401, "invalid_relay_token", id="a pod"),
        pytest.param(relay_lines("sk-1"), "/v1/chat/completions", 401, "invalid_relay_token", id="no token of a pod"),
        pytest.param(relay_lines()[:1], "/v1/chat/completions", 401, "invalid_relay_token", id="no token at all"),
        pytest.param(relay_lines(policy="other"), "/v1/completions", 403, "relay_refused", id="another policy"),
        pytest.param(relay_lines(), "/v1/route:explain", 403, "relay_refused", id="no completion"),
    ],
)
async def test_who_is_no_sidecar_is_refused(
    tmp_path: Path, lines: list[str], path: str, status: int, code: str
) -> None:
    """Also where the policy asks clients for no key: a relay reaches what they may not."""
    async with gateway(tmp_path, a_snapshot(*a_policy()), known()) as (rig, _):
        answer = await ask(rig.port, post(BIG, path=path, headers=lines))

    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert rig.metric("flotilla_router_relayed_requests_total{") == 0
    assert rig.metric(f'flotilla_router_refused_total{{code="{code}"') == 1


async def test_a_policy_that_allows_no_sidecars_serves_none(tmp_path: Path) -> None:
    """From the edit on, also those that run already and are known; nobody is asked about them."""
    reviews = known()
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), reviews) as (rig, _),
    ):
        before = await ask(rig.port, post(BIG, headers=relay_lines()))
        rig.load(a_snapshot(*a_policy(provider.address), sidecars=False, generation=2))
        after = [await ask(rig.port, post(BIG, headers=relay_lines(token))) for token in (AGENT, a_token("agent-2"))]
        own = await ask(rig.port, post(chat()))

    assert (before.status, own.status) == (200, 200)
    assert [(each.status, each.json["error"]["code"]) for each in after] == [(403, "sidecars_disabled")] * 2
    assert len(reviews.received) == 1


async def test_why_a_token_is_refused_is_said(tmp_path: Path) -> None:
    """To whoever holds it, who can then put it right."""
    async with gateway(tmp_path, a_snapshot(*a_policy()), known()) as (rig, _):
        answer = await ask(rig.port, post(BIG, headers=relay_lines(a_token("stranger"))))

    assert "pod stranger has no label" in answer.json["error"]["message"]
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_clients_key_is_no_token_and_a_token_no_key(tmp_path: Path) -> None:
    """Each opens its own door."""
    (tmp_path / "gateway" / "keys").mkdir(parents=True)
    (tmp_path / "gateway" / "keys" / "alice").write_text("sk-alice")
    async with gateway(tmp_path, a_snapshot(*a_policy(), anonymous=False), known()) as (rig, _):
        key = await ask(rig.port, post(BIG, headers=relay_lines("sk-alice")))
        token = await ask(rig.port, post(chat(), headers=relay_lines()[1:]))
        models = await ask(rig.port, get("/v1/models", headers=relay_lines()))

    assert [answer.status for answer in (key, token, models)] == [401, 401, 403]


@pytest.mark.parametrize("model", ["auto", "small", "nobody"])
async def test_a_sidecar_gets_external_fallbacks_only(tmp_path: Path, model: str) -> None:
    """Experts, aliases and everything else are its own to call."""
    async with (
        model_server(replies(ANSWER)) as small,
        gateway(tmp_path, a_snapshot(*a_policy("p", expert("small", small.address))), known()) as (rig, _),
    ):
        answer = await ask(rig.port, post(chat(model=model), headers=relay_lines()))

    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert small.received == []


async def test_a_sidecars_boundary_is_honoured(tmp_path: Path) -> None:
    """Whatever its snapshot says, nothing leaves the cluster."""
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), known()) as (rig, _),
    ):
        answer = await ask(rig.port, post(BIG, headers=[*relay_lines(), "x-flotilla-boundary: LocalOnly"]))

    assert (answer.status, answer.json["error"]["code"]) == (403, "boundary")
    assert provider.received == []


async def test_without_a_control_api_nobody_can_say_who_asks(tmp_path: Path) -> None:
    """The answer names the setting."""
    async with router(tmp_path, a_snapshot(*a_policy())) as rig:
        answer = await ask(rig.port, post(BIG, headers=relay_lines()))

    assert (answer.status, answer.json["error"]["code"]) == (503, "relay_unavailable")
    assert "FLOTILLA_CONTROL_URL" in answer.json["error"]["message"]


@pytest.mark.parametrize("status", [401, 404, 500, 200])
async def test_an_answer_that_is_no_verdict_is_a_503(tmp_path: Path, status: int) -> None:
    """An operator that is older, fails or says something else has not said that the token is bad."""
    reviews = known()
    reviews.status = status
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews) as (rig, _):
        answer = await ask(rig.port, post(BIG, headers=relay_lines()))

    assert (answer.status, answer.json["error"]["code"]) == (503, "relay_unavailable")


async def test_a_gateway_that_may_not_ask_blames_no_sidecar(tmp_path: Path) -> None:
    """What is wrong is the gateway's own: its token, or its rights."""
    reviews = TokenReviews()
    reviews.reason = "Forbidden"
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews) as (rig, _):
        answer = await ask(rig.port, post(BIG, headers=relay_lines()))

    assert (answer.status, answer.json["error"]["code"]) == (503, "relay_unavailable")
    assert "does not let this gateway ask" in answer.json["error"]["message"]


async def test_a_control_api_that_is_down_stops_no_sidecar_that_is_known(tmp_path: Path) -> None:
    """Only those that nobody has seen yet have to wait for it."""
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), known()) as (rig, control),
    ):
        before = await ask(rig.port, post(BIG, headers=relay_lines()))
        control.scripts = [replies(b"", status=500)]
        after = [
            (await ask(rig.port, post(BIG, headers=relay_lines(token)))).status for token in (AGENT, a_token("agent-2"))
        ]

    assert (before.status, after) == (200, [200, 503])


async def test_the_loop_serves_others_while_a_token_is_reviewed(tmp_path: Path) -> None:
    """The rest of the body is taken when the verdict is there, and the request begins then."""
    reviews = known()
    reviews.answers.clear()
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), reviews) as (rig, _),
        client(rig.port) as raw,
    ):
        request = post(BIG, headers=relay_lines())
        await raw.send(request[:-10])
        await until(lambda: reviews.received)
        await raw.send(request[-10:])
        other = await ask(rig.port, get("/v1/models"))
        asked = list(provider.received)
        reviews.answers.set()
        answer = await raw.reply()
        await raw.send(request)
        again = await raw.reply()

    assert (other.status, asked, answer.status, again.status) == (200, [], 200, 200)
    assert len(reviews.received) == 1


@pytest.mark.parametrize(("token", "status"), [(AGENT, 100), (a_token("stranger"), 401)])
async def test_nobody_is_asked_for_a_body_before_it_is_known_who_sends_it(
    tmp_path: Path, token: str, status: int
) -> None:
    """Permission to send it comes with the verdict, or the refusal does."""
    reviews = known()
    reviews.answers.clear()
    head = post(b"x" * 9, headers=[*relay_lines(token), "expect: 100-continue"])[:-9]
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews) as (rig, _), client(rig.port) as raw:
        first = asyncio.ensure_future(raw.head())
        await raw.send(head)
        await until(lambda: reviews.received)
        await ask(rig.port, get("/healthz"))
        too_early = first.done()
        reviews.answers.set()
        answered, _ = await first

    assert (too_early, answered) == (False, status)


async def test_a_body_whose_sender_is_refused_is_not_taken(tmp_path: Path) -> None:
    """The answer comes at once, however much was announced, and the connection ends."""
    reviews = known()
    reviews.answers.clear()
    request = post(b"x" * 900_000, headers=relay_lines(a_token("stranger")))
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews) as (rig, _), client(rig.port) as raw:
        await raw.send(request[:-1])
        await until(lambda: reviews.received)
        reviews.answers.set()
        answer = await raw.reply()
        await until(lambda: rig.metric("flotilla_router_connections{") == 0)

    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_relay_token")
    assert answer.headers["connection"] == "close"


async def test_pipelined_relays_are_answered_in_turn(tmp_path: Path) -> None:
    """Also if the first of them waits for its verdict."""
    reviews = known()
    reviews.answers.clear()
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), reviews) as (rig, _),
        client(rig.port) as raw,
    ):
        await raw.send(post(BIG, headers=relay_lines()) + get("/healthz") + post(BIG, headers=relay_lines()))
        await until(lambda: reviews.received)
        reviews.answers.set()
        answers = [await raw.reply() for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.body for answer in answers] == [ANSWER, b"ok\n", ANSWER]


async def test_a_bad_verdict_that_comes_late_is_a_401(tmp_path: Path) -> None:
    """After the body; the connection stays."""
    reviews = known()
    reviews.answers.clear()
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews) as (rig, _), client(rig.port) as raw:
        await raw.send(post(BIG, headers=relay_lines(a_token("stranger"))))
        await until(lambda: reviews.received)
        reviews.answers.set()
        answer = await raw.reply()
        await raw.send(get("/healthz"))
        health = await raw.reply()

    assert (answer.status, answer.json["error"]["code"], health.status) == (401, "invalid_relay_token", 200)


async def test_a_client_that_leaves_before_the_verdict_is_forgotten(tmp_path: Path) -> None:
    """Nothing is called for it; the verdict serves the next."""
    reviews = known()
    reviews.answers.clear()
    async with (
        model_server(replies(ANSWER)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), reviews) as (rig, _),
    ):
        rig.log_defects()
        async with client(rig.port) as raw:
            await raw.send(post(BIG, headers=relay_lines()))
            await until(lambda: reviews.received)
        await until(lambda: rig.metric("flotilla_router_connections{") == 0)
        reviews.answers.set()
        answer = await ask(rig.port, post(BIG, headers=relay_lines()))

    assert (answer.status, len(provider.received), len(reviews.received)) == (200, 1, 1)
    assert rig.log.of("router error") == []


async def test_who_still_waits_when_the_router_ends_is_told(tmp_path: Path) -> None:
    """The drain has a limit, and a request whose sender is unknown ends with it."""
    reviews = known()
    reviews.answers.clear()
    changes = {"drain_seconds": 0.1}
    async with gateway(tmp_path, a_snapshot(*a_policy()), reviews, **changes) as (rig, _), client(rig.port) as raw:
        await raw.send(post(BIG, headers=relay_lines()))
        await until(lambda: reviews.received)
        await rig.process.drain()
        answer = await raw.reply()

    assert (answer.status, answer.json["error"]["code"]) == (503, "relay_unavailable")
    assert "shutting down" in answer.json["error"]["message"]


async def test_a_sidecars_errors_are_counted_by_the_fallback_that_it_asked_for(tmp_path: Path) -> None:
    """Whoever looks at the gateway sees which provider fails."""
    async with (
        model_server(replies(b"{}", status=500)) as provider,
        gateway(tmp_path, a_snapshot(*a_policy(provider.address)), known()) as (rig, _),
    ):
        answer = await ask(rig.port, post(BIG, headers=relay_lines()))

    assert answer.status == 500
    assert rig.metric('flotilla_router_relayed_requests_total{code="500",model="big",policy="helpdesk"}') == 1
    assert rig.metric("flotilla_router_attempts_total{") == 0


# Reviews, in virtual time


class Operator:
    """Says whose a token is, or fails, when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.says: Admitted | Refused | Exception = Admitted("agent-1")
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, token: str, seconds: float) -> Admitted | Refused:
        assert seconds == REVIEW_SECONDS
        self.asked.append(token)
        await self.answers.wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def settled(self) -> None:
        """Every question that is under way has been answered, and its verdict noted."""
        current = asyncio.current_task()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not current), return_exceptions=True)
        await asyncio.sleep(0)

    def reviews(self) -> Reviews:
        return Reviews(
            asyncio.get_running_loop(), self, namespace=NAMESPACE, now=lambda: self.now, wall=lambda: self.now
        )


def a_token_until(seconds: float) -> bytes:
    return a_token("agent-1", expires=seconds).encode()


PEER = "10.0.0.1"


async def test_a_known_sidecar_that_asks_every_now_and_then_never_waits() -> None:
    """Its request goes on at once, while one question runs however many requests there are."""
    operator = Operator()
    reviews = operator.reviews()
    token = a_token_until(3600)
    await reviews.of(token, PEER)
    operator.now = 50
    operator.answers.clear()
    found = [reviews.of(token, PEER) for _ in range(10)]

    assert [each.done() and each.result() for each in found] == [Admitted("agent-1")] * 10
    await until(lambda: len(operator.asked) == 2)
    operator.answers.set()
    await operator.settled()
    assert len(operator.asked) == 2


@pytest.mark.parametrize("now", [60, 119, 3599])
async def test_a_known_sidecar_that_was_silent_for_a_minute_is_asked_about_before_it_passes(now: float) -> None:
    """It may have lost its label since: one question, for whose answer every request waits."""
    operator = Operator()
    reviews = operator.reviews()
    token = a_token_until(3600)
    await reviews.of(token, PEER)
    operator.now = now
    operator.says = Refused("its pod is gone")
    found = [reviews.of(token, PEER) for _ in range(3)]
    waiting = [not each.done() for each in found]

    assert waiting == [True] * 3
    assert [await each for each in found] == [Refused("its pod is gone")] * 3
    assert len(operator.asked) == 2


@pytest.mark.parametrize(
    "error", [ControlError("status 503"), OSError("connection refused"), TimeoutError(), ValueError("a defect")]
)
async def test_a_known_sidecar_stays_until_its_token_expires(error: Exception) -> None:
    """Whatever keeps the control API from saying anything; after that nobody knows it."""
    operator = Operator()
    reviews = operator.reviews()
    token = a_token_until(300)
    seen: list[Verdict] = [await reviews.of(token, PEER)]
    operator.says = error
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for now in (50, 61, 200, 299):
        operator.now = now
        seen.append(await reviews.of(token, PEER))
        await operator.settled()
    operator.answers.clear()
    operator.now = 299.5
    at_once = reviews.of(token, PEER).done()
    operator.now = 300
    last = await reviews.of(token, PEER)

    assert seen == [Admitted("agent-1")] * 5
    assert (at_once, last) == (True, Refused("it has expired"))


async def test_a_sidecar_whose_pod_is_gone_is_refused_from_the_next_review_on() -> None:
    """What is found in the background counts for the next request, and a new pod may come after five seconds."""
    operator = Operator()
    reviews = operator.reviews()
    token = a_token_until(3600)
    await reviews.of(token, PEER)
    operator.says = Refused("gone")
    operator.now = 50
    at_once = await reviews.of(token, PEER)
    await operator.settled()
    afterwards = await reviews.of(token, PEER)
    operator.says = Admitted("agent-1")
    operator.now = 56
    later = await reviews.of(token, PEER)

    assert [at_once, afterwards, later] == [Admitted("agent-1"), Refused("gone"), Admitted("agent-1")]


def strangers(reviews: Reviews, peers: int, each: int) -> list[asyncio.Future[Verdict]]:
    """What so many tokens are told that nobody knows, from so many addresses."""
    return [
        reviews.of(a_token(f"forged-{peer}-{number}").encode(), f"10.0.1.{peer}")
        for peer in range(peers)
        for number in range(each)
    ]


async def test_a_flood_of_unknown_tokens_is_bounded() -> None:
    """So many questions run at once and no more; known sidecars go on, and are asked about all the same."""
    operator = Operator()
    reviews = operator.reviews()
    token = a_token_until(3600)
    await reviews.of(token, PEER)
    operator.answers.clear()
    found = strangers(reviews, MOST_REVIEWS // MOST_OF_ONE_PEER + 1, MOST_OF_ONE_PEER)
    operator.now = 50
    friend = reviews.of(token, PEER).result()

    assert [each.done() for each in found].count(False) == MOST_REVIEWS
    assert isinstance(found[-1].result(), Unavailable)
    await until(lambda: operator.asked.count(token.decode()) == 2)
    assert friend == Admitted("agent-1")
    reviews.close()
    await operator.settled()
    assert {type(await each) for each in found} == {Unavailable}


async def test_one_caller_takes_no_place_of_others() -> None:
    """Whatever it shows: a new sidecar's token is asked about; and answered questions make room again."""
    operator = Operator()
    reviews = operator.reviews()
    operator.answers.clear()
    flood = strangers(reviews, 1, MOST_REVIEWS)
    new = reviews.of(a_token("agent-9").encode(), PEER)
    refused = [type(each.result()) for each in flood if each.done()]
    operator.answers.set()
    verdict = await new
    await operator.settled()
    again = await reviews.of(a_token("forged").encode(), "10.0.1.0")

    assert refused == [Unavailable] * (MOST_REVIEWS - MOST_OF_ONE_PEER)
    assert verdict == again == Admitted("agent-1")


async def test_what_is_no_token_of_a_sidecar_is_asked_about_by_nobody() -> None:
    """Anybody can reach a gateway: what it refuses by itself costs the operator nothing."""
    operator = Operator()
    reviews = operator.reviews()
    operator.now = 100
    shown = (
        b"",
        b"sk-1",
        b"a.b.c",
        b"\xff.\xff.\xff",
        a_token_until(100),
        a_token("agent-1", audience="flotilla-control").encode(),
        a_token("agent-1", namespace="other").encode(),
    )
    verdicts = [await reviews.of(token, PEER) for token in shown]

    assert {type(verdict) for verdict in verdicts} == {Refused}
    assert operator.asked == []
