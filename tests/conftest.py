"""What every suite shares; modules that only a cluster needs are imported when one is asked for."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from stack.flotilla import Stack

settings.register_profile("flotilla", deadline=None)  # how long an example takes says more of the machine than of us
settings.load_profile("flotilla")

LONGEST_FIRST = ("chaos", "e2e", "cluster", "golden")
"""Suites whose files take minutes; a worker that begins one of these last keeps all others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow suites come first, in an order that is otherwise left as it is."""
    root = Path(__file__).parent
    places = {suite: place for place, suite in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(root).parts[0], len(places)))


@pytest.fixture(scope="session")
def stack() -> Generator[Stack]:
    """Flotilla as a user installs it, on a cluster of this worker's own: two GPU pools, the chart, a provider.

    Engines answer at once and are always sure; what a test wants otherwise it says in `engine.env` or as a fault.
    """
    from e2e.world import running_world

    with running_world() as running:
        yield running
