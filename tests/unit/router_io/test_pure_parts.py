"""The parts of the router's I/O that decide, without any."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import expert

from flotilla_api.control import Problem, ProblemKind
from flotilla_api.snapshot import TimePrice, TokenPrice
from flotilla_router import control, registry
from flotilla_router.cost import call_cost_usd, dollars
from flotilla_router.credentials import ApiKeys, bearer_token
from flotilla_router.incoming import Incoming
from flotilla_router.openai import Usage
from flotilla_router.registry import Replica, TargetState, ejection_seconds, hold_seconds, pick
from flotilla_router.settings import RouterSettings, SettingsError
from flotilla_router.tries import Tries
from flotilla_router.upstream import Failure

A_PROBLEM = Problem(ProblemKind.CREDENTIAL, "big", "x" * 10_000)


def a_replica(*, in_flight: int = 0) -> Replica:
    replica = Replica("10.0.0.1:8000", "pod")
    replica.in_flight = in_flight
    return replica


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
def test_pick_never_takes_the_busiest_of_two(loads: list[int], draw: float) -> None:
    """Whatever is drawn, the chosen one is no busier than some other one."""
    replicas = [a_replica(in_flight=load) for load in loads]
    chosen = pick(replicas, draw)

    others = [replica.in_flight for replica in replicas if replica is not chosen]
    assert not others or chosen.in_flight <= max(others)


def test_pick_reaches_every_pair_alike() -> None:
    """Over an even grid of draws each ordered pair comes up equally often, so each replica does."""
    replicas = [a_replica() for _ in range(5)]
    chosen = [pick(replicas, step / 2000) for step in range(2000)]

    assert {chosen.count(replica) for replica in replicas} == {400}


@pytest.mark.parametrize(
    ("failures", "refused", "seconds"),
    [
        pytest.param(1, False, 0, id="one failure is an accident"),
        pytest.param(2, False, 0, id="two may be"),
        pytest.param(3, False, 1, id="three are not"),
        pytest.param(4, False, 2, id="more wait longer"),
        pytest.param(50, False, 30, id="but not for ever"),
        pytest.param(1, True, 1, id="a refused connection counts at once"),
        pytest.param(3, True, 4, id="and doubles"),
        pytest.param(50, True, 30, id="up to the bound"),
    ],
)
def test_ejection_grows_with_failures_in_a_row(failures: int, refused: bool, seconds: float) -> None:
    """The table of `ejection_seconds`."""
    assert ejection_seconds(failures, refused=refused) == seconds


@given(st.integers(1, 100), st.booleans())
def test_ejection_is_monotone_and_bounded(failures: int, refused: bool) -> None:
    """Another failure never shortens it."""
    now, then = ejection_seconds(failures, refused=refused), ejection_seconds(failures + 1, refused=refused)

    assert now <= then <= registry.LONGEST_EJECTION_SECONDS


@pytest.mark.parametrize(("asked", "held"), [(None, 0), (0.0, 0), (7.0, 7), (86400.0, 60)])
def test_retry_after_is_bounded(asked: float | None, held: float) -> None:
    """No server can take itself out for a day."""
    assert hold_seconds(asked) == held


def test_an_answer_ends_a_row_of_failures() -> None:
    """Failures count in a row; an answer, also one that asks for a pause, ends it."""
    replica = a_replica()
    for _ in range(2):
        replica.failed(100)
    replica.succeeded()
    replica.failed(100)
    replica.overloaded(100, 5)

    assert (replica.failures, replica.open_at) == (0, 105)


def test_candidates_are_healthy_and_untried() -> None:
    """Those that are left out come back only when asked for."""
    well, ill, tried = a_replica(), a_replica(), a_replica()
    ill.open_at = 200
    state = TargetState(expert("maths"), (well, ill, tried), None)

    assert state.candidates(100, [tried]) == [well]
    assert state.candidates(100, healthy=False) == [well, ill, tried]
    assert state.candidates(200, [well, tried]) == [ill]


REFUSED, CUT, SLOW = Failure.REFUSED, Failure.CUT, Failure.CONNECT_TIMEOUT


@pytest.mark.parametrize(
    ("replicas", "failures", "called"),
    [
        pytest.param(0, [], [], id="nobody is there"),
        pytest.param(1, [CUT], [0], id="one that has seen the request is not asked again"),
        pytest.param(3, [CUT, None], [0, 1], id="two may see the request"),
        pytest.param(3, [REFUSED, REFUSED, CUT], [0, 1, 2], id="refused connections are not counted"),
        pytest.param(3, [SLOW, SLOW], [0, 1, "service"], id="connections that take too long are"),
        pytest.param(2, [REFUSED, REFUSED], [0, 1, "service"], id="the Service where nobody could be reached"),
        pytest.param(2, [REFUSED, CUT], [0, 1], id="not where somebody was"),
        pytest.param(1, [REFUSED, CUT], [0, "service"], id="the Service is the last"),
    ],
)
def test_tries_end(replicas: int, failures: list[Failure | None], called: list[int | str]) -> None:
    """Whatever fails, a request ends after a few calls, and never calls the same replica twice."""
    pods, service = [a_replica() for _ in range(replicas)], a_replica()
    tries = Tries(TargetState(expert("maths"), tuple(pods), service))
    asked: list[int | str] = []
    for failure in [*failures, CUT]:
        replica = tries.next(0.0, 0.0)
        if replica is None:
            break
        asked.append("service" if replica is service else pods.index(replica))
        tries.begin(replica)
        tries.failed(failure)

    assert asked == called
    assert tries.next(0.0, 0.0) is None


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_backoff_has_jitter_and_a_bound(failures: int, draw: float) -> None:
    """Routers that lost the control API together do not come back together, nor too late."""
    seconds = control.backoff_seconds(failures, draw)

    assert control.FIRST_BACKOFF_SECONDS / 2 <= seconds <= control.LONGEST_BACKOFF_SECONDS


def test_poll_url_is_bounded() -> None:
    """However much is wrong, the address stays short."""
    url = control.poll_url("https://c", "/p", "sha256:1", ("sha256:2", "e" * 10_000), [A_PROBLEM] * 100)

    assert url.startswith("https://c/p?digest=sha256%3A1&rejected=sha256%3A2&error=ee")
    assert url.count("problem=") == 16
    assert len(url) < 10_000


@pytest.mark.parametrize(
    ("header", "token"),
    [
        pytest.param(b"Bearer abc", b"abc", id="plain"),
        pytest.param(b"bearer  abc ", b"abc", id="another case, more space"),
        pytest.param(b"Basic abc", b"", id="another scheme"),
        pytest.param(b"Bearer", b"", id="nothing"),
        pytest.param(b"", b"", id="no header"),
    ],
)
def test_bearer_token(header: bytes, token: bytes) -> None:
    """Only the Bearer scheme counts, in any case."""
    assert bearer_token(header) == token


def test_an_empty_key_file_is_nobodys_key(tmp_path: Path) -> None:
    """Otherwise an empty bearer token would pass."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bob").write_text("sk")

    keys = ApiKeys(tmp_path)
    assert (keys.client_of(b""), keys.client_of(b"sk"), keys.client_of(b"no")) == (None, "bob", None)


def id_of(given_id: bytes) -> str:
    incoming = Incoming()
    incoming.headers = {b"x-request-id": given_id}
    return incoming.request_id


@pytest.mark.parametrize(
    "given_id", [pytest.param(b"", id="none"), pytest.param(b"a b", id="space"), pytest.param(b"x" * 200, id="long")]
)
def test_a_harmful_request_id_is_replaced(given_id: bytes) -> None:
    """Ids go into headers and logs, so only harmless ones are taken over."""
    assert given_id.decode() != id_of(given_id)
    assert len(id_of(given_id)) == 16
    assert id_of(b"req-1/2") == "req-1/2"


def test_a_request_has_one_id() -> None:
    """Also after its headers are forgotten."""
    incoming = Incoming()
    first = incoming.request_id
    incoming.release()

    assert incoming.request_id == first


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "0"), (0.00006, "0.00006"), (1.5, "1.5"), (2e-9, "0.000000002"), (120.0, "120")]
)
def test_dollars_have_no_exponent(amount: float, text: str) -> None:
    """A header that a spreadsheet can read."""
    assert dollars(amount) == text


TOKENS = TokenPrice(inputPerMillionUSD=2.5, outputPerMillionUSD=10)
TIME = TimePrice(perSecondUSD=0.5)
USED = Usage(1_000_000, 100_000)


@pytest.mark.parametrize(
    ("price", "usage", "sent", "refused", "usd"),
    [
        pytest.param(TOKENS, USED, True, False, 3.5, id="input and output have their own price"),
        pytest.param(TOKENS, None, True, False, None, id="unknown tokens cost nobody knows what, never nothing"),
        pytest.param(None, USED, True, False, None, id="an unknown price likewise"),
        pytest.param(TOKENS, None, True, True, 0.0, id="a refusal is free"),
        pytest.param(None, None, True, True, 0.0, id="also one of unknown price"),
        pytest.param(TOKENS, None, False, False, 0.0, id="what was never sent is free"),
        pytest.param(TIME, None, True, False, 2.0, id="time needs no tokens"),
        pytest.param(TIME, None, True, True, 2.0, id="a refusal takes time, too"),
        pytest.param(TIME, None, False, False, 0.0, id="what was never sent took none"),
    ],
)
def test_a_call_has_a_cost_or_an_unknown_one(
    price: TokenPrice | TimePrice | None, usage: Usage | None, sent: bool, refused: bool, usd: float | None
) -> None:
    """The table of `call_cost_usd`."""
    assert call_cost_usd(price, usage, seconds=4, sent=sent, refused=refused) == usd


# Settings

REQUIRED = {"FLOTILLA_NAMESPACE": "agents", "FLOTILLA_POLICY": "helpdesk"}


def test_settings_have_defaults_for_all_but_the_policy() -> None:
    """In a pod the operator only says which policy it is."""
    settings = RouterSettings.from_environment(REQUIRED | {"OTHER": "x"})

    assert (settings.data_port, settings.admin_port, settings.control_url) == (8080, 9090, None)
    assert (settings.role, settings.snapshot_dir) == ("Gateway", Path("/etc/flotilla/snapshot"))


def test_settings_are_read_by_their_names() -> None:
    """Each field is FLOTILLA_ and its name."""
    settings = RouterSettings.from_environment(
        REQUIRED
        | {
            "FLOTILLA_DATA_HOST": "127.0.0.1",
            "FLOTILLA_DATA_PORT": "8443",
            "FLOTILLA_CONTROL_URL": "https://control:9443/",
            "FLOTILLA_API_KEYS_DIR": "/keys",
            "FLOTILLA_DRAIN_SECONDS": "2.5",
            "FLOTILLA_ROLE": "Sidecar",
            "FLOTILLA_GATEWAY_TOKEN_DIR": "/tokens",
        }
    )

    assert (settings.data_host, settings.data_port) == ("127.0.0.1", 8443)
    assert (settings.control_url, settings.api_keys_dir) == ("https://control:9443", Path("/keys"))
    assert (settings.role, settings.gateway_token_dir) == ("Sidecar", Path("/tokens"))
    assert settings.drain_seconds == 2.5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLOTILLA_POLICY", ""),
        ("FLOTILLA_ROLE", "sidecar"),
        ("FLOTILLA_DATA_PORT", "http"),
        ("FLOTILLA_DATA_PORT", "70000"),
        ("FLOTILLA_DRAIN_SECONDS", "-1"),
        ("FLOTILLA_SETTLE_SECONDS", "soon"),
        ("FLOTILLA_BODY_SECONDS", "nan"),
        ("FLOTILLA_CONTROL_URL", "control:9443"),
    ],
)
def test_a_bad_setting_names_its_variable(variable: str, value: str) -> None:
    """Whoever reads the message knows what to change."""
    with pytest.raises(SettingsError, match=variable):
        RouterSettings.from_environment(REQUIRED | {variable: value})
