"""What looks like personal data or a secret does not reach a redacted log."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_router.redaction import redact, redact_halves


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        pytest.param("What is the capital of France?", "What is the capital of France?", id="plain words stay"),
        pytest.param("Pay 1,204.50 EUR by 2026-11-24", "Pay #,###.## EUR by ####-##-##", id="digits"),
        pytest.param("٣ apples, ४ pears", "# apples, # pears", id="digits of other scripts"),
        pytest.param("write to Ada.Love+1@mail.example.com!", "write to <email>!", id="e-mail"),
        pytest.param("schreib an jürgen@büro.example", "schreib an <email>", id="e-mail with umlauts"),
        pytest.param("root@localhost", "<email>", id="e-mail without a domain"),
        pytest.param("see https://a.example/u?id=7#x (now)", "see <url> (now)", id="url"),
        pytest.param("see HTTPS://A.EXAMPLE/U", "see <url>", id="url in capitals"),
        pytest.param("at www.example.com/me", "at <url>", id="url without a scheme"),
        pytest.param("postgres://ada:pw@db/x", "<url>", id="url with a password"),
        pytest.param("-https://alice.example.com/bob", "<url>", id="url of a tight bullet"),
        pytest.param("1.https://u:pw@h.io/bob", "<url>", id="url of a tight number"),
        pytest.param("2.www.example.com/me", "#.<url>", id="such a url without a scheme"),
        pytest.param("key sk-proj-AbCdEfGhIjKlMnOp done", "key <token> done", id="api key"),
        pytest.param("a" * 19, "a" * 19, id="19 letters are a word"),
        pytest.param("a" * 20, "<token>", id="20 letters are a token"),
        pytest.param("零一二三四五六七八九" * 3, "零一二三四五六七八九" * 3, id="a script without spaces is no token"),
        pytest.param("", "", id="empty"),
    ],
)
def test_redaction_masks_what_looks_private(text: str, redacted: str) -> None:
    """As the table of the module says."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    ("first", "last", "redacted"),
    [
        pytest.param("mail ada@exam", "ple.com now", "mail  now", id="a parted e-mail"),
        pytest.param("token: 0123456789", "abcdef0123 ok", "token:  ok", id="a parted token"),
        pytest.param("零一二", "三四五", "零一二三四五", id="a script without spaces stays"),
        pytest.param("联系ada@exam", "ple.com。", "联系。", id="a parted e-mail after such a script"),
    ],
)
def test_redaction_leaves_out_what_a_cut_has_parted(first: str, last: str, redacted: str) -> None:
    """Half an address is no longer one that a pattern knows."""
    assert redact_halves(first, last) == redacted


@given(st.text())
def test_redacted_text_holds_no_digit(text: str) -> None:
    """Of no script."""
    assert not re.search(r"\d", redact(text))


@given(st.text())
def test_redaction_of_redacted_text_changes_nothing(text: str) -> None:
    """It can be applied to its own result."""
    once = redact(text)

    assert redact(once) == once


@pytest.mark.parametrize("piece", ["a", "a.", "a@", "@", "1", "://", "a://", "www.", "-", "\u0661", "é"])
def test_redaction_takes_time_in_proportion(piece: str) -> None:
    """A pattern that tries each place anew would take minutes for this, and the test would run into its timeout."""
    redact(piece * 300_000)
    redact_halves(piece * 300_000 + " ", " ")
