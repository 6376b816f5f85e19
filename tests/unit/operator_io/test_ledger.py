"""What the scaler keeps of what it has learned of one Expert."""

from __future__ import annotations

import pytest

from flotilla_operator.ledger import Ledger, Moment
from flotilla_operator.reconcile.scaled import ScaledExpert
from flotilla_operator.scaling.fleet import History
from flotilla_operator.scaling.signals import Known
from flotilla_operator.scaling.types import TUNING, Batching, BatchLine, BatchTick, State

NOW = 1_000_000.0
LINE = BatchLine(0.5, 1.0, variance=0.1, covariance=0.2, ticks=1000)
LEARNED = Batching(2.0, 0.6, BatchTick(4.0, 2.0, 0.6), LINE)


@pytest.mark.parametrize(
    ("learned", "line"),
    [pytest.param(LEARNED, LINE, id="before a gap"), pytest.param(None, None, id="nothing, after a restart")],
)
def test_how_an_engine_slows_down_is_not_forgotten_for_what_others_remember(
    learned: Batching | None, line: BatchLine | None
) -> None:
    """A remembered mean says nothing of it; the mean itself is newer than what was seen here."""
    ledger = Ledger(ScaledExpert({"metadata": {"name": "invoice", "namespace": "agents"}}), State(batching=learned))

    ledger.backfill(History(NOW, 15.0, (1.0,) * 240, Known(3.0)), Moment(NOW, NOW), TUNING)

    assert ledger.state.batching == Batching(3.0, line=line)
