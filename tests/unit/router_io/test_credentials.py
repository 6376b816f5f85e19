"""A provider's key goes to its own url and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from certificates import Authority
from rig import a_snapshot, ask, chat, chat_answer, external_fallback, model_server, post, replies, router, until

from flotilla_api.snapshot import Target
from flotilla_router.credentials import Credential, Missing, UpstreamCredentials
from flotilla_router.reach import Providers, Reach, Reached
from flotilla_router.registry import Replica
from flotilla_router.upstream import Origin

ANSWER = chat_answer("4")


def mount(folder: Path, name: str, key: str) -> None:
    """A folder as the operator mounts it."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "api-key").write_text(key)


async def test_a_router_whose_mounts_are_older_than_its_snapshot_sends_no_key(tmp_path: Path) -> None:
    """Url and Secret change together: until the new key is mounted the new url is not called, then it gets its own."""
    folder = tmp_path / "credentials"
    mount(folder, "big-1", "sk-first")
    async with (
        model_server(replies(ANSWER)) as first,
        model_server(replies(ANSWER)) as second,
        router(
            tmp_path,
            a_snapshot(
                external_fallback("big", f"http://{first.address}/v1", credentials="big-1", hasCredentials=True)
            ),
        ) as rig,
    ):
        assert (await ask(rig.port, post(chat()))).status == 200

        moved = external_fallback("big", f"http://{second.address}/v1", credentials="big-2", hasCredentials=True)
        rig.load(a_snapshot(moved, generation=2))
        assert (await ask(rig.port, post(chat()))).status == 503
        assert [problem.target for problem in rig.process.store.problems()] == ["big"]
        assert second.received == []

        mount(folder, "big-2", "sk-second")
        await until(lambda: not rig.process.store.problems())
        assert (await ask(rig.port, post(chat()))).status == 200
        assert [each.headers["authorization"] for each in second.received] == ["Bearer sk-second"]
        assert [each.headers["authorization"] for each in first.received] == ["Bearer sk-first"]


def test_a_request_that_began_before_a_reload_finds_no_other_urls_key(tmp_path: Path) -> None:
    """It is pinned to its snapshot, whose credentials are no longer kept: it gets none, never the new ones."""
    mount(tmp_path, "big-1", "sk-first")
    mount(tmp_path, "big-2", "sk-second")
    old = external_fallback("big", "http://first/v1", credentials="big-1", hasCredentials=True)
    new = external_fallback("big", "http://second/v1", credentials="big-2", hasCredentials=True)
    credentials = UpstreamCredentials(tmp_path)
    reach = Reach(Providers(credentials))
    credentials.want([old])
    reach.of(old, Replica("http://first/v1", "external"), "chat")
    credentials.want([new])

    assert isinstance(reach.of(old, Replica("http://first/v1", "external"), "chat"), Missing)
    found = reach.of(new, Replica("http://second/v1", "external"), "chat")
    assert not isinstance(found, Missing)
    assert b"sk-second" in found.beginning


def test_a_rotated_key_is_used(tmp_path: Path) -> None:
    """A Secret that changes in place is read again; one that is taken away is missing."""
    mount(tmp_path, "big", "sk-1")
    big = external_fallback("big", "http://a/v1", hasCredentials=True)
    assert big.external is not None
    credentials = UpstreamCredentials(tmp_path)
    credentials.want([big])
    assert credentials.of("big", big.external) == Credential(b"Bearer sk-1", None)

    mount(tmp_path, "big", "sk-rotated")
    credentials.refresh()
    assert credentials.of("big", big.external) == Credential(b"Bearer sk-rotated", None)

    (tmp_path / "big" / "api-key").unlink()
    credentials.refresh()
    assert credentials.of("big", big.external) == Missing("Fallback big: its API key is not mounted")


@pytest.mark.parametrize(
    ("url", "fields", "tls", "port"),
    [
        pytest.param("https://a/v1", {}, True, 443, id="https without credentials or authorities"),
        pytest.param("https://a/v1", {"hasCa": True}, True, 443, id="https with authorities of its own"),
        pytest.param("http://a/v1", {}, False, 80, id="http"),
        pytest.param("http://a/v1", {"hasCa": True, "hasCredentials": True}, False, 80, id="http with files for more"),
        pytest.param("https://a:80/v1", {"hasCredentials": True}, True, 80, id="https on the port of http"),
    ],
)
def test_the_urls_scheme_alone_decides_about_tls(
    tmp_path: Path, url: str, fields: dict[str, bool], tls: bool, port: int
) -> None:
    """Whatever files there are."""
    mount(tmp_path, "big", "sk")
    (tmp_path / "big" / "ca.crt").write_bytes(Authority.make().pem)
    big = external_fallback("big", url, **fields)
    credentials = UpstreamCredentials(tmp_path)
    credentials.want([big])
    found = Reach(Providers(credentials)).of(big, Replica(url, "external"), "chat")

    assert not isinstance(found, Missing)
    assert (found.origin.tls is not None, found.origin.port) == (tls, port)


def test_what_a_policy_no_longer_names_is_forgotten(tmp_path: Path) -> None:
    """Edits over months leave no keys and no origins behind; what stays keeps its connections."""
    providers = Providers(UpstreamCredentials(tmp_path))
    reach = Reach(providers)
    stays, goes = external_fallback("stays", "http://a/v1"), external_fallback("goes", "http://a/v1")

    def load(*targets: Target) -> list[Origin]:
        """Origins of the targets of a snapshot."""
        providers.want(a_snapshot(*targets))
        found = [reach.of(target, Replica("", "external"), "chat") for target in targets]
        return [each.origin for each in found if isinstance(each, Reached)]

    first, again = load(stays, goes), [*load(stays), *load(stays, goes)]

    assert again[0] is again[1] is first[0]
    assert again[2] is not first[1]
