"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Prices = Annotated[
    Path | None, typer.Option(metavar="FILE", help="LLMRouter's table of models, for what an answer costs.")
]
Without = Annotated[
    Path | None, typer.Option(metavar="FILE", help="RouteLLM's list of contaminated prompts, which are left out.")
]
Examples = Annotated[int, typer.Option(metavar="N", min=0, help="Prompts that are shown of each move.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of the bootstrap.")]
Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="How it is written: table or json.")]
