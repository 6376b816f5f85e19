"""What every suite shares; modules that only a cluster needs are imported when one is asked for."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stack.flotilla import Stack


@pytest.fixture(scope="session")
def stack() -> Generator[Stack]:
    """Flotilla as a user installs it, on a cluster of this worker's own: two GPU pools, the chart, a provider.

    Engines answer at once and are always sure; what a test wants otherwise it says in `engine.env` or as a fault.
    """
    from e2e.world import running_world

    with running_world() as running:
        yield running
