"""The program: what its exit codes mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = {"click", "kubernetes", "rich", "typer", "yaml"}
"""What the operator's and the router's images do without."""
_SIMULATION = {"cronsim", "matplotlib", "numba", "numpy"}
"""What `flotilla simulate` needs."""
_LEARNING = {"matplotlib", "msgspec", "numpy", "sklearn"}
"""What the commands of learning need."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 refused or bad input, 2 wrong usage or an incomplete installation.

    Raises:
        SystemExit: always.
    """
    try:
        from .commands import run  # noqa: PLC0415 - what it imports may not be installed

        run(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA | _SIMULATION | _LEARNING:
            raise
        learning = missing in _LEARNING and "simulate" not in (arguments or sys.argv[1:])[:1]
        extras = "cli" if missing in _EXTRA else "cli,train" if learning else "cli,simulate"
        sys.stderr.write(f"error: {missing} is missing: pip install 'flotilla-operator[{extras}]'\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
