"""Splitting, the gate, leakage: who may be judged on what, and what the verdict is."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.modeling import leakage
from ml_platform.modeling.gate import decide
from ml_platform.modeling.spec import ModelSpec, PostgresTable, PromotionPolicy, SpecError, Task
from ml_platform.modeling.splitting import Split, choose, held_out

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _spec(task: Task = Task.BINARY, event_time: str | None = None, **promotion: float) -> ModelSpec:
    metric = {Task.BINARY: "roc_auc", Task.MULTICLASS: "accuracy", Task.REGRESSION: "rmse"}[task]
    return ModelSpec(
        name="small",
        owner="team:tests",
        purpose="Tests.",
        source=PostgresTable("rows", key="id", event_time=event_time),
        label="label",
        task=task,
        promotion=PromotionPolicy(metric=metric, **{"floor": 0.6} | promotion),
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


@pytest.mark.parametrize(
    ("challenger", "champion", "won"),
    [
        (0.7, None, True),
        (0.59, None, False),
        (0.7, 0.65, True),
        (0.7, 0.7, False),
        (0.7, 0.71, False),
        (0.59, 0.5, False),
    ],
)
def test_a_higher_score_wins_a_tie_keeps_the_champion(challenger: float, champion: float | None, won: bool) -> None:
    """The floor holds for everybody."""
    assert decide(_spec(), challenger, champion).won is won


@pytest.mark.parametrize(
    ("challenger", "champion", "won"), [(0.5, None, True), (0.7, None, False), (0.5, 0.55, True), (0.5, 0.45, False)]
)
def test_for_an_error_lower_is_better(challenger: float, champion: float | None, won: bool) -> None:
    """The floor of an error is what it may be at most."""
    assert decide(_spec(Task.REGRESSION), challenger, champion).won is won


def test_the_improvement_asked_for_must_be_exceeded() -> None:
    """0.02 is asked for, 0.01 is not enough."""
    spec = _spec(min_improvement=0.02)

    assert not decide(spec, 0.71, 0.70).won
    assert decide(spec, 0.73, 0.70).won


def test_a_tie_goes_to_the_model_that_logs_as_agreed_now() -> None:
    """Otherwise a column would be logged until a better model comes along; a worse model does not win by it."""
    assert decide(_spec(), 0.7, 0.7, logs_otherwise=True).won
    assert not decide(_spec(), 0.69, 0.7, logs_otherwise=True).won
    assert not decide(_spec(), 0.5, 0.5, logs_otherwise=True).won


def test_the_reason_has_the_numbers() -> None:
    """A person can check the decision from its sentence."""
    assert decide(_spec(), 0.71, 0.7).reason == "roc_auc 0.7100 beats the champion's 0.7000"


def test_a_feature_that_knows_the_answer_is_found() -> None:
    """A copy of the label is almost certain, noise is not, for each task."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500).astype(float)
    text = np.array([f"class {int(v)}" for v in label], dtype=object)
    features = {"copy": label * 3 + 1, "noise": rng.normal(size=500), "text": text}

    for task in Task:
        found = leakage.strengths(features, label, task)
        assert {name for name, strength in found.items() if strength >= leakage.ALMOST_CERTAIN} == {"copy", "text"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Loan Approval"}, "model 'Loan Approval', field name: use lower-case letters"),
        ({"owner": "credit"}, "field owner: write 'team:NAME' or an e-mail"),
        (
            {"promotion": PromotionPolicy(metric="auc", floor=1)},
            "field promotion.metric: for a binary model choose one of",
        ),
        ({"promotion": PromotionPolicy(metric="roc_auc", floor=1, holdout=2)}, "field promotion.holdout"),
    ],
)
def test_a_wrong_spec_names_model_field_and_remedy(change: dict[str, object], message: str) -> None:
    """It fails when it is loaded, not when it runs."""
    sound = {
        "name": "small",
        "owner": "team:tests",
        "purpose": "Tests.",
        "source": PostgresTable("rows", key="id"),
        "label": "label",
        "task": Task.BINARY,
        "promotion": PromotionPolicy(metric="roc_auc", floor=0.6),
    }

    with pytest.raises(SpecError, match=message):
        ModelSpec(**sound | change)  # type: ignore[arg-type]
