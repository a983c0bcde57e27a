"""Realised performance: a broken promise is seen, a kept one is not doubted, too little says nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ml_platform.modeling.performance import (
    Outcomes,
    Promise,
    Realised,
    State,
    by_slice,
    judge,
    predictions_of,
    realised,
)
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import METRICS, Direction, Task

SEED = 1
NUMBERS = st.floats(-100, 100)


def scored(rows: int, signal: float, rng: np.random.Generator) -> tuple[np.ndarray, Predictions]:
    """Labels and the probabilities of a model that knows so much about them."""
    actual = (rng.random(rows) < 0.4).astype(int)
    scores = 1 / (1 + np.exp(-rng.normal(size=rows) - signal * actual))
    return actual, Predictions(task=Task.BINARY, scores=scores, classes=(0, 1))


def test_a_kept_promise_is_seldom_doubted_and_a_broken_one_is_seen() -> None:
    """Promise and outcome are measured on different rows of one population, each with its own noise."""
    states: dict[float, list[State]] = {1.0: [], 0.2: []}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        promised = realised("roc_auc", *scored(400, 1.0, rng), SEED)
        assert promised is not None
        promise = Promise(value=promised.value, rows=400, tolerance=0.0)
        for signal, found in states.items():
            outcome = realised("roc_auc", *scored(400, signal, rng), SEED)
            found.append(judge(outcome, promise, Direction.UP, 100)[0])

    assert states[1.0].count(State.DEGRADED) <= 3
    assert states[0.2].count(State.DEGRADED) >= 45


def test_the_interval_holds_the_truth() -> None:
    """In about 99 of 100 cases: here the area under the curve of two normal distributions one apart."""
    truth = 0.7602
    inside = 0
    for seed in range(100):
        found = realised("roc_auc", *scored(300, 1.0, np.random.default_rng(seed)), SEED)
        assert found is not None
        inside += found.low <= truth <= found.high

    assert inside >= 95


@pytest.mark.parametrize(("direction", "worse"), [(Direction.UP, -1), (Direction.DOWN, 1)])
@settings(deadline=None)
@given(
    value=NUMBERS, width=st.floats(0.001, 10), promised=NUMBERS, tolerance=st.floats(0, 10), rows=st.integers(1, 500)
)
def test_only_what_is_beyond_doubt_and_tolerance_is_degraded(
    direction: Direction, worse: int, value: float, width: float, promised: float, tolerance: float, rows: int
) -> None:
    """In the direction that is bad; too few outcomes say nothing; and without a promise nothing is broken."""
    found = Realised(rows=rows, value=value, low=value - width, high=value + width)
    promise = Promise(value=promised, rows=1000, tolerance=tolerance)

    state, reason = judge(found, promise, direction, 100)

    if rows < 100:
        assert (state, "100 are needed" in reason) == (State.NOT_ENOUGH_LABELS, True)
    elif state is State.DEGRADED:
        assert worse * (value - promised) > tolerance + width
    else:
        assert state is State.OK
        assert worse * (value - promised) <= tolerance + width * np.sqrt(1 + rows / 1000) + 1e-9
    assert judge(found, None, direction, 1)[0] is State.NO_PROMISE
    assert judge(None, promise, direction, 1)[0] is State.NOT_ENOUGH_LABELS


@pytest.mark.parametrize("task", list(Task))
def test_every_promotion_metric_has_a_realised_value(task: Task) -> None:
    """With an interval around it; the same seed gives the same interval."""
    rng = np.random.default_rng(2)
    answers: dict[Task, list[dict[str, object]]] = {
        Task.BINARY: [{"label": 1, "probability": p} for p in rng.random(200)],
        Task.MULTICLASS: [
            {"label": "a", "probabilities": dict(zip("abc", row, strict=True))} for row in rng.dirichlet([1] * 3, 200)
        ],
        Task.REGRESSION: [{"value": v} for v in rng.random(200)],
    }
    classes = {Task.BINARY: (0, 1), Task.MULTICLASS: ("a", "b", "c"), Task.REGRESSION: ()}[task]
    actual = rng.random(200) if task is Task.REGRESSION else rng.choice(np.array(classes), 200)
    predicted = predictions_of(answers[task], task, classes)

    for name in METRICS[task]:
        found = realised(name, actual, predicted, SEED)
        assert found is not None
        assert found.low < found.value < found.high
        assert found == realised(name, actual, predicted, SEED)


def test_a_metric_without_a_value_is_none_and_slices_need_rows() -> None:
    """An order of one class has none; a slice of a few rows says nothing."""
    rng = np.random.default_rng(3)
    actual, predicted = scored(300, 1.0, rng)
    sizes = np.array(["large"] * 250 + ["small"] * 40 + ["tiny"] * 10, dtype=object)
    actual[sizes == "small"] = 0
    outcomes = Outcomes(actual=actual, predicted=predicted, slices={"size": sizes})

    found = by_slice("roc_auc", outcomes, SEED)

    assert list(found) == ["size=large"]
    assert found["size=large"].value == pytest.approx(roc_auc_score(actual[:250], predicted.scores[:250]))
    assert realised("roc_auc", np.zeros(300, dtype=int), predicted, SEED) is None
    assert realised("roc_auc", np.zeros(0, dtype=int), predictions_of([], Task.BINARY, (0, 1)), SEED) is None
