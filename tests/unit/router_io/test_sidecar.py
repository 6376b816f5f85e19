"""A router beside an agent: nobody shows a key, and what is outside is reached through the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from relays import a_token, pair, relay_lines, sidecar, write
from rig import (
    DONE,
    LAST_CHUNK,
    POLICY,
    STREAM_HEAD,
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

from flotilla_api.snapshot import RequestEdits, Target, TimePrice, TokenPrice

SURE, UNSURE = chat_answer("4", logprob=-0.01), chat_answer("5", logprob=-3.0)
FREE = TimePrice(perSecondUSD=0)
PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=10)


def big(url: str = "http://provider.invalid/v1", **changes: Any) -> Target:
    """The external fallback, for a sidecar that never calls its url."""
    external = changes.pop("external", {})
    return external_fallback("big", url, **external).model_copy(update={"price": PRICE, **changes})


async def test_an_agent_needs_no_key_and_experts_are_called_directly(tmp_path: Path) -> None:
    """Only its own pod reaches a sidecar: what the policy says of keys is the gateway's business."""
    async with (
        model_server(replies(SURE)) as small,
        sidecar(tmp_path, a_snapshot(expert("small", small.address), anonymous=False), None) as rig,
    ):
        answer = await ask(rig.port, post(chat(), headers=["authorization: Bearer flotilla"]))
        metrics = await ask(rig.port, get("/metrics"))

    assert (answer.status, answer.headers["x-flotilla-model"], metrics.status) == (200, "small", 200)
    assert rig.process.store.problems() == []
    assert "authorization" not in small.received[0].headers


async def test_a_call_outside_goes_to_the_gateway_as_the_agent_wrote_it(tmp_path: Path) -> None:
    """With the pod's token and the Fallback's own name; what its provider needs besides is the gateway's to do."""
    edits = RequestEdits(drop=("min_p",), rename={"max_tokens": "max_completion_tokens"}, set={"seed": 7})
    target = big(external={"edits": edits, "hasCredentials": True})
    async with (
        model_server(replies(chat_answer("4"))) as gateway,
        sidecar(tmp_path, a_snapshot(target), f"http://{gateway.address}/deep/v1") as rig,
    ):
        request = post(chat(min_p=0.1, max_tokens=5), headers=["authorization: Bearer flotilla", "x-request-id: r-1"])
        answer = await ask(rig.port, request)

    (received,) = gateway.received
    assert (answer.status, received.path) == (200, "/deep/v1/chat/completions")
    assert received.headers["authorization"] == f"Bearer {a_token('agent-1')}"
    assert (received.headers["x-flotilla-relay"], received.headers["x-request-id"]) == (POLICY, "r-1")
    assert "x-flotilla-boundary" not in received.headers
    assert received.json == chat(model="big", min_p=0.1, max_tokens=5)


@pytest.mark.parametrize("boundary", ["policy", "header"])
async def test_a_strict_boundary_goes_along(tmp_path: Path, boundary: str) -> None:
    """The gateway knows neither rules nor the agent's headers, so it is told what followed from them."""
    snapshot = a_snapshot(big(location="Local"))
    if boundary == "policy":
        route = snapshot.route.model_copy(update={"boundary": "LocalOnly"})
        snapshot = snapshot.model_copy(update={"route": route})
    lines = ["x-flotilla-boundary: LocalOnly"] if boundary == "header" else []
    async with (
        model_server(replies(chat_answer("4"))) as gateway,
        sidecar(tmp_path, snapshot, f"http://{gateway.address}/v1") as rig,
    ):
        answer = await ask(rig.port, post(chat(), headers=lines))

    assert answer.status == 200
    assert gateway.received[0].headers["x-flotilla-boundary"] == "LocalOnly"


async def test_a_relay_passes_no_sidecar(tmp_path: Path) -> None:
    """An agent that sends the header, by mistake or not, is told; nobody is asked in its name."""
    async with (
        model_server(replies(SURE)) as small,
        sidecar(tmp_path, a_snapshot(expert("small", small.address)), None) as rig,
    ):
        answer = await ask(rig.port, post(chat(), headers=relay_lines()))

    assert (answer.status, answer.json["error"]["code"]) == (403, "relay_refused")
    assert small.received == []


async def test_a_served_fallback_is_called_directly(tmp_path: Path) -> None:
    """It is a pod like an expert's, and gets no token."""
    async with (
        model_server(replies(UNSURE)) as small,
        model_server(replies(SURE)) as large,
        sidecar(
            tmp_path, a_snapshot(expert("small", small.address), served_fallback("large", large.address)), None
        ) as rig,
    ):
        answer = await ask(rig.port, post(chat()))

    assert (answer.headers["x-flotilla-model"], answer.headers["x-flotilla-reason"]) == ("large", "LowConfidence")
    assert "authorization" not in large.received[0].headers


async def test_a_new_token_is_shown_over_the_same_connection(tmp_path: Path) -> None:
    """The kubelet replaces it every now and then."""
    async with (
        model_server(replies(chat_answer("4"))) as gateway,
        sidecar(tmp_path, a_snapshot(big()), f"http://{gateway.address}/v1") as rig,
    ):
        await ask(rig.port, post(chat()))
        write(tmp_path / "sidecar" / "gateway-token" / "token", a_token("agent-1-again"))
        rig.process.look_at_files()
        await ask(rig.port, post(chat()))

    tokens = [received.headers["authorization"] for received in gateway.received]
    assert tokens == [f"Bearer {a_token('agent-1')}", f"Bearer {a_token('agent-1-again')}"]
    assert gateway.connections == 1


@pytest.mark.parametrize(
    ("url", "token", "ca", "says"),
    [
        pytest.param(None, "t", None, "the snapshot names no gateway", id="no gateway"),
        pytest.param("http://gateway/v1", "", None, "token is missing", id="no token"),
        pytest.param("http://gateway/v1", "a\nb", None, "not one line", id="a token that is none"),
        pytest.param("https://gateway/v1", "t", "no PEM", "not in PEM format", id="an authority that is none"),
    ],
)
async def test_what_a_call_to_the_gateway_misses_is_told(
    tmp_path: Path, url: str | None, token: str, ca: str | None, says: str
) -> None:
    """External fallbacks are left out; the control API hears why, unless the policy has none of them."""
    if ca is not None:
        write(tmp_path / "sidecar" / "gateway-ca" / "ca.crt", ca)
    async with (
        model_server(replies(UNSURE)) as small,
        sidecar(tmp_path, a_snapshot(expert("small", small.address), big()), url, token=token) as rig,
    ):
        answer = await ask(rig.port, post(chat()))
        (problem,) = rig.process.store.problems()
        rig.load(a_snapshot(expert("small", small.address), gateway=url, generation=2))
        after = rig.process.store.problems()

    assert (answer.status, answer.headers["x-flotilla-attempts"]) == (200, "1")
    assert (problem.kind, problem.target) == ("Gateway", "")
    assert says in problem.text
    assert after == []


async def test_a_token_that_comes_late_is_used(tmp_path: Path) -> None:
    """A problem is over when its file is there."""
    async with (
        model_server(replies(chat_answer("4"))) as gateway,
        sidecar(tmp_path, a_snapshot(big()), f"http://{gateway.address}/v1", token="") as rig,
    ):
        before = await ask(rig.port, post(chat()))
        write(tmp_path / "sidecar" / "gateway-token" / "token", a_token("agent-1"))
        rig.process.look_at_files()
        after = await ask(rig.port, post(chat()))

    assert (before.status, after.status, rig.process.store.problems()) == (503, 200, [])


async def test_a_gateway_with_a_certificate_is_known_by_its_authority(tmp_path: Path) -> None:
    """The one that is mounted, and no other."""
    right, wrong = Authority.make(), Authority.make("another authority")
    async with (
        model_server(replies(chat_answer("4")), tls=right.server_context(tmp_path / "tls")) as gateway,
        sidecar(tmp_path / "a", a_snapshot(big()), None) as rig,
    ):
        answers: list[int] = []
        for authority in (right, wrong):
            write(tmp_path / "a" / "sidecar" / "gateway-ca" / "ca.crt", authority.pem.decode())
            rig.load(a_snapshot(big(), gateway=f"https://localhost:{gateway.address.split(':')[1]}/v1"))
            answers.append((await ask(rig.port, post(chat()))).status)

    assert answers == [200, 502]


async def test_a_gateway_that_gets_a_certificate_is_not_known_by_the_pods_that_are_there(tmp_path: Path) -> None:
    """They have no authority mounted and can get none: what to do is told, and the system's roots are tried."""
    authority = Authority.make()
    async with (
        model_server(replies(chat_answer("4")), tls=authority.server_context(tmp_path / "tls")) as gateway,
        sidecar(tmp_path, a_snapshot(big()), "http://gateway.invalid/v1") as rig,
    ):
        before = rig.process.store.problems()
        rig.load(a_snapshot(big(), gateway=f"https://localhost:{gateway.address.split(':')[1]}/v1", generation=2))
        (problem,) = rig.process.store.problems()
        answer = await ask(rig.port, post(chat()))
        line = await rig.request_line()

    assert before == []
    assert (problem.kind, problem.target) == ("Gateway", "")
    assert "make the pod anew" in problem.text
    assert (answer.status, [attempt["result"] for attempt in line["attempts"]]) == (502, ["UpstreamError"])


async def test_a_gateway_whose_secret_holds_no_authority_is_known_by_the_systems_roots(tmp_path: Path) -> None:
    """The pod was made for a gateway with a certificate: nothing is missing."""
    (tmp_path / "sidecar" / "gateway-ca").mkdir(parents=True)
    async with sidecar(tmp_path, a_snapshot(big()), "https://gateway.invalid/v1") as rig:
        assert rig.process.store.problems() == []


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param(None, "UpstreamError", id="it is down"),
        pytest.param(replies(b'{"error":{"message":"no"}}', status=401), "UpstreamError", id="it refuses the token"),
        pytest.param(replies(b'{"error":{"message":"no"}}', status=403), "UpstreamError", id="it refuses the call"),
        pytest.param(replies(b'{"error":{"message":"no"}}', status=404), "UpstreamError", id="it knows no such model"),
        pytest.param(replies(b"", status=500), "UpstreamError", id="it fails"),
        pytest.param(replies(b"", status=503), "Overloaded", id="it cannot say who asks"),
    ],
)
@pytest.mark.parametrize("policy", ["UseExpert", "Error"])
async def test_without_a_gateway_local_answers_go_on(
    tmp_path: Path, script: Script | None, cause: str, policy: str
) -> None:
    """An escalation that cannot be made is what the policy says of a failed fallback."""
    async with model_server(replies(UNSURE)) as small, model_server(script or replies(b"")) as gateway:
        url = f"http://{gateway.address}/v1" if script else "http://127.0.0.1:9/v1"
        snapshot = a_snapshot(expert("small", small.address), big(), escalation={"onFallbackFailure": policy})
        async with sidecar(tmp_path, snapshot, url) as rig:
            answer = await ask(rig.port, post(chat()))
            line = await rig.request_line()

    first = "ok" if policy == "UseExpert" else "LowConfidence"
    assert [attempt["result"] for attempt in line["attempts"]] == [first, cause]
    if policy == "UseExpert":
        assert (answer.status, answer.headers["x-flotilla-model"]) == (200, "small")
        assert answer.json["choices"][0]["message"]["content"] == "5"
    else:
        assert answer.status == (503 if cause == "Overloaded" else 502)
        assert answer.json["error"]["message"] != "no"


async def both(
    tmp_path: Path, script: Script, request: bytes, *, small: Script | None = None, **fields: Any
) -> tuple[Reply, Received, Rig, Rig]:
    """The answer to a request that a sidecar sends on to a provider, what that received, and both routers."""
    write(tmp_path / "gateway" / "credentials" / "big" / "api-key", "sk-provider")
    async with model_server(small or replies(UNSURE)) as engine, model_server(script) as provider:
        target = big(f"http://{provider.address}/v1", external={"hasCredentials": True, **fields})
        async with pair(tmp_path, a_snapshot(expert("small", engine.address, price=FREE), target, anonymous=False)) as (
            inner,
            outer,
        ):
            answer = await ask(inner.port, request)
            await until(lambda: outer.log.of("request"))
    return answer, provider.received[0], inner, outer


async def test_an_escalation_reaches_the_provider_through_the_gateway(tmp_path: Path) -> None:
    """The provider sees its own key and model and nothing of ours; the agent sees the sidecar's headers."""
    edits = RequestEdits(rename={"max_tokens": "max_completion_tokens"}, set={"seed": 7})
    reply = replies(chat_answer("4"), extra="x-request-id: provider-1\r\nx-ratelimit-remaining: 5\r\n")
    request = post(chat(max_tokens=5), headers=["user-agent: agent/1"])
    answer, received, inner, outer = await both(tmp_path, reply, request, edits=edits)
    line, relayed = await inner.request_line(), await outer.request_line()

    assert received.headers["authorization"] == "Bearer sk-provider"
    assert received.headers["user-agent"] == "agent/1"
    assert not [name for name in received.headers if name.startswith("x-flotilla")]
    expected = chat(model="big-model", max_completion_tokens=5, seed=7)
    assert received.json == expected
    assert answer.json["choices"][0]["message"]["content"] == "4"
    assert {name: answer.headers[name] for name in answer.headers if name.startswith("x-flotilla")} == {
        "x-flotilla-policy": POLICY,
        "x-flotilla-request-id": line["request_id"],
        "x-flotilla-model": "big",
        "x-flotilla-reason": "LowConfidence",
        "x-flotilla-attempts": "2",
        "x-flotilla-cost-usd": "0.00006",
    }
    assert (answer.headers["x-request-id"], answer.headers["x-ratelimit-remaining"]) == ("provider-1", "5")
    assert line["request_id"] == relayed["request_id"] == received.headers["x-request-id"]
    assert [attempt["endpoint"] for attempt in line["attempts"]] == ["small-0", "gateway"]
    assert (line["client"], line["relayed"]) == (None, False)
    assert (relayed["client"], relayed["relayed"], relayed["alias"]) == ("agent-1", True, "big")
    assert (relayed["reason"], [each["endpoint"] for each in relayed["attempts"]]) == ("Relayed", ["external"])


async def test_what_was_experienced_is_counted_at_the_sidecar_and_what_is_charged_at_the_gateway(
    tmp_path: Path,
) -> None:
    """Each once; the sidecar's log line and header say the price all the same."""
    answer, _, inner, outer = await both(tmp_path, replies(chat_answer("4", usage=(100, 10))), post(chat()))
    line = await inner.request_line()

    def of(rig: Rig) -> dict[str, float]:
        return {
            name: rig.metric(f"flotilla_router_{name}")
            for name in (
                "requests_total{",
                "attempts_total{",
                "escalations_total{",
                "request_duration_seconds_count{",
                "time_to_first_token_seconds_count{",
                "relayed_requests_total{",
                'tokens_total{policy="helpdesk",target="big"',
                'cost_usd_total{policy="helpdesk",target="big"',
                'unpriced_attempts_total{policy="helpdesk",target="big"',
                "requests_in_flight{",
            )
        }

    assert list(of(inner).values()) == [1, 2, 1, 1, 1, 0, 0, 0, 0, 0]
    assert list(of(outer).values()) == [0, 0, 0, 0, 0, 1, 110, 0.0002, 0, 0]
    assert outer.metric('flotilla_router_relayed_requests_total{code="200",model="big",policy="helpdesk"}') == 1
    assert (line["attempts"][1]["usd"], answer.headers["x-flotilla-cost-usd"]) == (0.0002, "0.0002")


async def test_an_attempt_without_a_known_price_is_counted_at_the_gateway_alone(tmp_path: Path) -> None:
    """Its provider has sent no usage."""
    _, _, inner, outer = await both(tmp_path, replies(chat_answer("4", usage=None)), post(chat()))

    found = [
        rig.metric('flotilla_router_unpriced_attempts_total{policy="helpdesk",target="big"') for rig in (inner, outer)
    ]
    assert found == [0, 1]


async def test_a_providers_refusal_reaches_the_agent_as_it_came(tmp_path: Path) -> None:
    """With its body and its wish for a pause, through both routers."""
    body = b'{"error": {"message": "slow down", "type": "rate_limit", "code": "rate_limit_exceeded"}}'
    script = replies(body, status=429, extra="retry-after: 7\r\n")
    answer, _, inner, outer = await both(tmp_path, script, post(chat()), small=replies(b"{}", status=500))

    assert (answer.status, answer.body, answer.headers["retry-after"]) == (429, body, "7")
    assert (await inner.request_line())["attempts"][-1]["result"] == "Overloaded"
    assert outer.metric('flotilla_router_relayed_requests_total{code="429"') == 1


async def test_a_stream_flows_through_both(tmp_path: Path) -> None:
    """Usage that only the sidecar asked for is taken out again, and counted where the provider is called."""
    events = (*(chat_event(word) for word in ("so", "be", "it")), chat_event(finish="stop"))
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":10}}\n\n'
    unsure = streams(*chat_stream("a", "b", "c", "d", logprob=-3.0))
    request = post(chat(stream=True))
    answer, received, inner, outer = await both(tmp_path, streams(*events, usage, DONE), request, small=unsure)

    assert answer.body == b"".join((*events, DONE))
    assert received.json["stream_options"] == {"include_usage": True}
    assert (await inner.request_line())["attempts"][1]["usd"] == 0.0002
    assert [rig.metric('flotilla_router_tokens_total{policy="helpdesk",target="big"') for rig in (inner, outer)] == [
        0,
        110,
    ]


async def test_a_gateways_keep_alive_is_no_answer(tmp_path: Path) -> None:
    """It fixes the status at 200, but not the answer: when the provider fails after all, the expert's is used."""
    alive = asyncio.Event()

    async def gateway(received: Received, peer: Peer) -> None:
        await peer.write(STREAM_HEAD + chunk(b": keep-alive\n\n"))
        await alive.wait()
        await peer.write(chunk(b'data: {"error":{"message":"late","code":"UpstreamError"}}\n\n') + LAST_CHUNK)

    unsure = chat_stream("a", "b", "c", "d", logprob=-3.0)
    async with model_server(streams(*unsure)) as small, model_server(gateway) as server:
        snapshot = a_snapshot(expert("small", small.address), big(), timeouts={"keepAliveAfterSeconds": 0.2})
        async with sidecar(tmp_path, snapshot, f"http://{server.address}/v1") as rig, client(rig.port) as raw:
            await raw.send(post(chat(stream=True)))
            _, headers = await raw.head()
            first = await raw.chunk()
            alive.set()
            rest = await raw.body(headers)
            line = await rig.request_line()

    assert first == b": keep-alive\n\n"
    assert b"".join(chat_stream("a", "b", "c", "d")) in rest
    assert (line["model"], line["ttft_ms"] is not None) == ("small", True)
    assert [attempt["result"] for attempt in line["attempts"]] == ["ok", "UpstreamError"]


async def test_a_comment_with_data_is_an_answer(tmp_path: Path) -> None:
    """A server may write its comment and its first chunk into one event: nothing of it is lost."""
    event = b": working\n" + chat_event("4")
    async with (
        model_server(streams(event, chat_event(finish="stop"), DONE)) as provider,
        router(tmp_path, a_snapshot(external_fallback("big", f"http://{provider.address}/v1"))) as rig,
    ):
        answer = await ask(rig.port, post(chat(stream=True)))

    assert answer.body.startswith(event)


async def test_a_client_that_leaves_ends_the_call_at_the_provider(tmp_path: Path) -> None:
    """Through both routers, also before the first byte."""
    asked = asyncio.Event()

    async def provider(received: Received, peer: Peer) -> None:
        asked.set()
        await peer.closed()

    async with model_server(replies(UNSURE)) as small, model_server(provider) as server:
        snapshot = a_snapshot(expert("small", small.address), big(f"http://{server.address}/v1"))
        async with pair(tmp_path, snapshot) as (inner, outer):
            async with client(inner.port) as raw:
                await raw.send(post(chat()))
                await asked.wait()
            await until(lambda: server.open == 0)
            line, relayed = await inner.request_line(), await outer.request_line()

    assert (line["status"], relayed["status"]) == (499, 499)


async def test_a_snapshot_with_a_gateway_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    """As one with any other address that cannot be used."""
    async with router(tmp_path, a_snapshot(), role="Sidecar") as rig:
        error = rig.process.store.offer(a_snapshot(gateway="gateway:8080").to_json())

    assert error is not None
    assert error.startswith("gateway: ")
