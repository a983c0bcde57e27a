"""The timeline: drawn of whatever was decided, also where nothing ever answered."""

from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.timeline import draw

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize("versions", [0, 1, 3])
def test_each_version_that_answered_is_a_bar(versions: int) -> None:
    """A model whose first challengers all lost has none."""
    days = [NOW - timedelta(days=day) for day in range(versions)]
    lost = Entry(key="gate", at=NOW, model="m", kind=Kind.GATE, outcome=Outcome.LOST, reason="misses the floor")
    lives = [
        Entry(key=str(at), at=at, model="m", kind=Kind.PROMOTION, outcome=Outcome.LIVE, reason="won", version=str(n))
        for n, at in enumerate(days, 1)
    ]

    (axes,) = draw("m", [lost, *lives], NOW).axes

    assert [label.get_text() for label in axes.get_yticklabels()] == ["answers", "gate"]
    assert len(axes.patches) == versions
