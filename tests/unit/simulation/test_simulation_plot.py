"""A replay as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from flotilla_simulation.plot import draw
from flotilla_simulation.policies import Keda, Static
from flotilla_simulation.replay import Series, replay
from unit.simulation.simulated import a_scenario, poisson


@pytest.fixture(scope="module")
def curves() -> dict[str, Series]:
    """Two policies on the same load."""
    scenario = a_scenario(poisson(4.0, 1800.0))
    return {
        "keda": replay(scenario, Keda(1.2, scenario.bounds)).series,
        "static 3": replay(scenario, Static(3, scenario.bounds)).series,
    }


def test_svg_shows_demand_replicas_and_losses_of_each_policy(tmp_path: Path, curves: dict[str, Series]) -> None:
    """As text that can be found, and the same bytes each time."""
    for name in ("one.svg", "again.svg"):
        draw(tmp_path / name, "a day", curves)
    picture = (tmp_path / "one.svg").read_text()

    for text in ("a day", "requests/s", "ready replicas", "lost or late/s", "keda", "static 3"):
        assert f">{text}</text>" in picture
    assert picture == (tmp_path / "again.svg").read_text()
    assert len(picture) < 150_000


def test_suffix_says_what_is_written(tmp_path: Path, curves: dict[str, Series]) -> None:
    """PNG by its first bytes."""
    draw(tmp_path / "day.png", "a day", curves)

    assert (tmp_path / "day.png").read_bytes().startswith(b"\x89PNG")
