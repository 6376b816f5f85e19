"""Whatever happens, every request ends once and every account is settled."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from rig import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    Received,
    Rig,
    a_snapshot,
    chat,
    chat_answer,
    chat_event,
    chunk,
    client,
    expert,
    model_server,
    post,
    response,
    router,
    served_fallback,
    until,
)

from flotilla_api.snapshot import TokenPrice

PRICE = TokenPrice(inputPerMillionUSD=1, outputPerMillionUSD=10)


class Moody:
    """A model server that does anything, by a seed."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    async def __call__(self, received: Received, peer: Peer) -> None:
        logprob = self.chance.choice([-0.01, -3.0]) if received.json.get("logprobs") else None
        mood = self.chance.random()
        if mood < 0.1:
            peer.abort()
        elif mood < 0.2:
            await peer.write(response(b'{"error": {}}', status=self.chance.choice([429, 500, 503])))
        elif received.json["stream"]:
            await self._stream(peer, logprob, broken=mood < 0.4)
        else:
            answer = response(chat_answer("a b c", logprob=logprob))
            await peer.write(answer[: len(answer) // 2] if mood < 0.3 else answer)
            if mood < 0.3:
                peer.writer.close()

    async def _stream(self, peer: Peer, logprob: float | None, *, broken: bool) -> None:
        events = [chat_event("x", logprob=logprob) for _ in range(6)] + [chat_event(finish="stop"), DONE]
        await peer.write(STREAM_HEAD)
        for number, event in enumerate(events):
            if broken and number == self.chance.randrange(8):
                peer.abort()
                return
            await peer.write(chunk(event))
            await asyncio.sleep(0)
        await peer.write(LAST_CHUNK)


async def ask_or_leave(rig: Rig, chance: random.Random) -> None:
    """A request, some of whose clients leave early."""
    async with client(rig.port) as raw:
        await raw.send(post(chat(stream=chance.random() < 0.5)))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() / 100)
            return
        status, headers = await raw.head()
        body = await raw.body(headers)
        assert status in (200, 429, 500, 502, 503)
        if headers["content-type"].startswith("text/event-stream"):
            assert body.endswith(DONE) != (b'data: {"error":' in body)


@pytest.mark.parametrize("seed", range(3))
async def test_every_request_ends_once_and_every_account_is_settled(tmp_path: Path, seed: int) -> None:
    """Under random faults and leaving clients: nothing under way is left, logs and metrics agree, nothing crashed."""
    chance = random.Random(seed)
    moody = Moody(chance)
    async with (
        model_server(moody) as one,
        model_server(moody) as two,
        model_server(moody) as big,
        router(
            tmp_path,
            a_snapshot(
                expert("maths", one.address, two.address, price=PRICE), served_fallback("big", big.address, price=PRICE)
            ),
        ) as rig,
    ):
        crashes: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: crashes.append(context))
        for _ in range(12):
            await asyncio.gather(*(ask_or_leave(rig, chance) for _ in range(12)))
        await until(lambda: not rig.process.dispatcher.under_way)

        live = rig.process.registry.live
        assert live is not None
        assert [replica.in_flight for state in live.states.values() for replica in state.everyone()] == [0, 0, 0]
        lines = rig.log.of("request")
        attempts = [attempt for line in lines for attempt in line["attempts"]]
        assert rig.metric("flotilla_router_requests_in_flight{") == 0
        assert rig.metric("flotilla_router_requests_total{") == len(lines)
        assert rig.metric("flotilla_router_attempts_total{") == len(attempts)
        assert rig.metric("flotilla_router_cost_usd_total{") == pytest.approx(sum(a["usd"] or 0 for a in attempts))
        assert crashes == []
