"""Splitting and leakage: who may be judged on what."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.modeling import leakage
from ml_platform.modeling.spec import ModelSpec, PostgresTable, PromotionPolicy, Task
from ml_platform.modeling.splitting import Split, choose, held_out

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _spec(event_time: str | None = None, holdout: float = 0.25) -> ModelSpec:
    return ModelSpec(
        name="small",
        owner="team:tests",
        purpose="Tests.",
        source=PostgresTable("rows", key="id", event_time=event_time),
        label="label",
        task=Task.BINARY,
        promotion=PromotionPolicy(metric="roc_auc", floor=0.6, holdout=holdout),
    )


def _rows(ids: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "at": [NOW + timedelta(hours=i) for i in ids]})


@given(ids=st.lists(st.integers(-(2**62), 2**62), min_size=1, unique=True), more=st.lists(st.integers()))
def test_by_key_a_row_keeps_its_side_whatever_comes_later(ids: list[int], more: list[int]) -> None:
    """The key alone decides; a number and its text are the same key."""
    split = choose(_spec(), pl.DataFrame({"id": ids}))
    later = ids + [i for i in more if abs(i) < 2**62]

    alone = held_out(pl.DataFrame({"id": ids}), [split])
    among = held_out(pl.DataFrame({"id": later}), [split])
    as_text = held_out(pl.DataFrame({"id": [str(i) for i in ids]}), [split])

    np.testing.assert_array_equal(among[: len(ids)], alone)
    np.testing.assert_array_equal(as_text, alone)


def test_by_key_the_share_is_about_what_was_asked_for() -> None:
    """A quarter of 20,000 keys."""
    share = held_out(pl.DataFrame({"id": range(20_000)}), [Split(column="id", share=0.25)]).mean()

    assert 0.24 < share < 0.26


def test_by_time_the_newest_rows_are_held_out() -> None:
    """Everything after the cutoff, nothing before it."""
    rows = _rows(list(range(100)))
    split = choose(_spec(event_time="at", holdout=0.2), rows)

    held = held_out(rows, [split])

    assert rows.filter(held)["id"].to_list() == list(range(80, 100))


@given(first=st.integers(20, 200), more=st.integers(0, 200))
def test_the_champion_is_never_judged_on_rows_it_was_trained_on(first: int, more: int) -> None:
    """Whatever arrives later, the rows that all contenders held out exclude both training sets."""
    spec = _spec(event_time="at")
    old, new = _rows(list(range(first))), _rows(list(range(first + more)))
    champion, challenger = choose(spec, old), choose(spec, new)

    judged = set(new.filter(held_out(new, [challenger, champion]))["id"])

    trained_champion = set(old.filter(~held_out(old, [champion]))["id"])
    trained_challenger = set(new.filter(~held_out(new, [challenger]))["id"])
    assert judged & (trained_champion | trained_challenger) == set()


def test_a_feature_that_knows_the_answer_is_found() -> None:
    """A copy of the label is almost certain, noise is not, for each task."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500).astype(float)
    text = np.array([f"class {int(v)}" for v in label], dtype=object)
    features = {"copy": label * 3 + 1, "noise": rng.normal(size=500), "text": text}

    for task in Task:
        found = leakage.strengths(features, label, task)
        assert {name for name, strength in found.items() if strength >= leakage.ALMOST_CERTAIN} == {"copy", "text"}
