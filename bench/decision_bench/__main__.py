"""Prints what a decision costs with each embedder and scorer."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .decisions import PROMPT_CHARACTERS, ROUNDS, measure, prompts


def main() -> None:
    """The table, on standard output."""
    table = Table(title=f"A decision about {PROMPT_CHARACTERS} characters of prose, {len(prompts()) * ROUNDS} of them")
    table.add_column("")
    for heading in ("p50, us", "p99, us", "decisions / s at p50"):
        table.add_column(heading, justify="right")
    for name, timing in measure().items():
        rate = 1e6 / timing.p50_us
        table.add_row(name.replace("_", " "), f"{timing.p50_us:.1f}", f"{timing.p99_us:.1f}", f"{rate:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
