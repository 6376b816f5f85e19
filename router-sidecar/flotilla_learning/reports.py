"""Figures as aligned lines of text. PURE."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """The rows with aligned columns, the first `left` to the left, others to the right; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "   ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def dollars(usd: float | None) -> str:
    """With four significant digits; a question mark: not known."""
    if usd is None:
        return "?"
    return f"{'-' if usd < 0 else ''}${abs(usd):.4g}"


def one_line(text: str, width: int) -> str:
    """A text that may have many lines, or steer a terminal, on one line of at most `width` characters."""
    flat = "".join(each if each.isprintable() else " " for each in text[: 4 * width])
    flat = " ".join(flat.split())
    return flat if len(flat) <= width and len(text) <= 4 * width else f"{flat[: width - 3]}..."
