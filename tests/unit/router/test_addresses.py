"""Addresses of model servers: what is refused here can never raise when a request is under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.addresses import BaseUrl, split_address, split_url


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:8000", "::1", 8000),
        ("svc.ns:1", "svc.ns", 1),
        ("a_b-c.d:65535", "a_b-c.d", 65535),
    ],
)
def test_split_address(address: str, host: str, port: int) -> None:
    """Brackets are only for writing."""
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("here", id="no port"),
        pytest.param(":80", id="no host"),
        pytest.param("a:", id="an empty port"),
        pytest.param("a:0", id="port 0"),
        pytest.param("a:65536", id="a port that is too high"),
        pytest.param("a:08", id="a port with a zero in front"),
        pytest.param("a:\u0661", id="a digit that is not ASCII"),
        pytest.param("a..b:80", id="an empty label"),
        pytest.param(".a:80", id="an empty first label"),
        pytest.param("a.:80", id="an empty last label"),
        pytest.param("a b:80", id="a space"),
        pytest.param("a\r\nb:80", id="a line break"),
        pytest.param("-a:80", id="a label that begins with a hyphen"),
        pytest.param(f"{'a' * 64}:80", id="a label that is too long"),
        pytest.param("user@a:80", id="userinfo"),
        pytest.param("fd00::7:80", id="IPv6 without brackets"),
        pytest.param("[fd00:::7]:80", id="not IPv6"),
        pytest.param("[10.0.0.1]:80", id="IPv4 in brackets"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    """The message shows it."""
    with pytest.raises(ValueError, match=r"."):
        split_address(address)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://api.example.com/v1", BaseUrl(True, "api.example.com", 443, "api.example.com", "/v1")),
        ("http://a", BaseUrl(False, "a", 80, "a", "")),
        ("https://a:8443/x/v1/", BaseUrl(True, "a", 8443, "a:8443", "/x/v1")),
        ("https://[fd00::7]/v1", BaseUrl(True, "fd00::7", 443, "[fd00::7]", "/v1")),
        ("http://[fd00::7]:80", BaseUrl(False, "fd00::7", 80, "[fd00::7]:80", "")),
    ],
)
def test_split_url(text: str, url: BaseUrl) -> None:
    """The port follows from the scheme unless it is there."""
    assert split_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("a/v1", id="no scheme"),
        pytest.param("ftp://a", id="another scheme"),
        pytest.param("https://", id="no host"),
        pytest.param("https:///v1", id="a path only"),
        pytest.param("https://a:", id="an empty port"),
        pytest.param("https://a:65536/v1", id="a port that is too high"),
        pytest.param("https://a..b/v1", id="an empty label"),
        pytest.param("https://a b/v1", id="a space in the host"),
        pytest.param("https://a/v 1", id="a space in the path"),
        pytest.param("https://a/v1\r\nx: y", id="a line break"),
        pytest.param("https://user:word@a/v1", id="userinfo"),
        pytest.param("https://[fd00::7/v1", id="half a bracket"),
        pytest.param("https://[fd00:::7]/v1", id="not IPv6"),
        pytest.param("https://a/v1?b=c", id="a query"),
        pytest.param("https://a/v1#b", id="a fragment"),
        pytest.param("https://b\u00fccher.example/v1", id="a host that is not ASCII"),
    ],
)
def test_what_is_no_base_url_is_refused(text: str) -> None:
    """Before it is part of a request line or of a connection."""
    with pytest.raises(ValueError, match=r"."):
        split_url(text)


@given(st.text(max_size=30), st.sampled_from(["", "http://", "https://", "https://a", "https://a:"]))
def test_only_printable_ascii_gets_into_a_request(rest: str, start: str) -> None:
    """Whatever text a snapshot holds: it is refused, or safe to write into a request's head."""
    try:
        url = split_url(start + rest)
    except ValueError:
        return

    assert (url.authority + url.path).isascii()
    assert (url.authority + url.path).isprintable()
    assert " " not in url.authority + url.path
    assert 0 < url.port < 65536
