"""Parsers of the scalars with units."""

from __future__ import annotations

import pytest

from crdcases.rules import RULES
from flotilla_api.meta import parse_bytes, parse_duration_seconds, parse_weight_count

DURATIONS = RULES["must be a whole number with a unit, at most 24h, such as 500ms, 15s, 5m or 2h"]
SIZES = RULES['must be a whole number of bytes above zero and at most 1Gi, quoted, such as "65536", 64Ki or 8Mi']
WEIGHTS = RULES["must be a count of weights above zero, such as 500M, 1.5B or 1T"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("1ms", 0.001), ("500ms", 0.5), ("15s", 15), ("5m", 300), ("24h", 86400)]
)
def test_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    """The unit decides; milliseconds are exact."""
    assert parse_duration_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64Ki", 65536), ("8Mi", 8 * 1024**2), ("1Gi", 1024**3)])
def test_size_is_read_in_bytes(text: str, size: int) -> None:
    """Units are binary; no unit means bytes."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "weights"), [("500M", 500_000_000), ("1.5B", 1_500_000_000), ("0.494B", 494_000_000), ("1T", 10**12)]
)
def test_weight_count_is_read_exactly(text: str, weights: int) -> None:
    """Decimals are not rounded through binary floating point."""
    assert parse_weight_count(text) == weights


@pytest.mark.parametrize("text", DURATIONS.accepts)
def test_duration_parser_reads_what_the_server_accepts(text: str) -> None:
    """No accepted duration can fail in the operator."""
    assert parse_duration_seconds(text) >= 0


@pytest.mark.parametrize("text", [*SIZES.accepts, SIZES.longest])
def test_size_parser_reads_what_the_server_accepts(text: str) -> None:
    """No accepted size can fail in the operator, and all are within 1Gi."""
    assert 0 < parse_bytes(text) <= 1024**3


@pytest.mark.parametrize("text", [*WEIGHTS.accepts, WEIGHTS.longest])
def test_weight_parser_reads_what_the_server_accepts(text: str) -> None:
    """No accepted count can fail in the operator."""
    assert parse_weight_count(text) > 0


@pytest.mark.parametrize("text", ["", "15", "1.5s", "-1s", "1d", "15 s", "s", "1m30s"])
def test_duration_parser_names_what_it_cannot_read(text: str) -> None:
    """The message shows the text and what is expected."""
    with pytest.raises(ValueError, match="is not a duration such as 500ms"):
        parse_duration_seconds(text)


@pytest.mark.parametrize("text", ["", "8MB", "8M", "1.5Mi", "-1", "Ki"])
def test_size_parser_names_what_it_cannot_read(text: str) -> None:
    """The message shows the text and what is expected."""
    with pytest.raises(ValueError, match="is not a size such as 65536"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "1.5", "1.5b", "B", "1.B", "1K"])
def test_weight_parser_names_what_it_cannot_read(text: str) -> None:
    """The message shows the text and what is expected."""
    with pytest.raises(ValueError, match="is not a count of weights such as 500M"):
        parse_weight_count(text)
