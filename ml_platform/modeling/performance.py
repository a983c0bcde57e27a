"""Performance: what outcomes say of the predictions they belong to, held against what was promised at promotion."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from math import isfinite, sqrt

import msgspec
import numpy as np

from ml_platform.modeling.bootstrap import draws, effective_rows, ends
from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Direction, Task
from ml_platform.modeling.weighted_metrics import metric

CONFIDENCE = 0.99
MIN_SLICE_ROWS = 30


class State(StrEnum):
    """What outcomes tell."""

    OK = "ok"
    DEGRADED = "degraded"
    NOT_ENOUGH_LABELS = "not_enough_labels"
    NO_KEYS = "no_keys"
    """Requests did not say whose rows they were, so no outcome can be found for them."""
    NO_PROMISE = "no_promise"
    """The metric had no value when the version was trained, so there is nothing to hold outcomes against."""
    NO_CHAMPION = "no_champion"


class Realised(msgspec.Struct, frozen=True, kw_only=True):
    """The metric on so many rows, and between what the truth lies with 99 % confidence."""

    rows: int
    value: float
    low: float
    high: float


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate saw when the version was let go live: the metric, on so many rows, and how much may be missing."""

    value: float
    rows: int
    tolerance: float


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about the predictions made from `start` to `end`, with the evidence."""

    state: State
    reason: str
    metric: str
    start: datetime
    end: datetime
    predictions: int = 0
    labelled: int = 0
    realised: Realised | None = None
    promise: Promise | None = None
    slices: dict[str, Realised] = {}


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions with a known outcome: n labels, their predictions, and the columns (n,) to slice by."""

    actual: Column
    predicted: Predictions
    slices: Mapping[str, Column]


def realised(name: str, actual: Column, predicted: Predictions, seed: int) -> Realised | None:
    """A metric with its bootstrap interval; None where it has no value, as an order of one class has none.

    Args:
        name: the metric, by its name in `METRICS`.
        actual: n labels.
        predicted: the predictions of the same rows.
        seed: decides the resamples.
    """
    rows = len(actual)
    if not rows:
        return None
    measure, rng = metric(name)(actual, predicted), np.random.default_rng(seed)
    value = float(measure(np.ones((rows, 1)))[0])
    if not isfinite(value):
        return None
    drawn = np.concatenate([measure(counts) for counts in draws(rows, rng)])
    low, high = ends(drawn, CONFIDENCE, effective_rows(actual, predicted.task))
    return Realised(rows=rows, value=value, low=float(low), high=float(high))


def by_slice(name: str, outcomes: Outcomes, seed: int) -> dict[str, Realised]:
    """The metric within each value of each slicing column that enough rows have."""
    found = {}
    for column, values in outcomes.slices.items():
        for value in sorted({v for v in values.tolist() if v is not None and v == v}):  # noqa: PLR0124 - NaN is not itself
            inside = values == value
            if inside.sum() < MIN_SLICE_ROWS:
                continue
            predicted = outcomes.predicted
            measured = realised(name, outcomes.actual[inside], predicted.at(inside), seed)
            if measured:
                found[f"{column}={value:g}" if isinstance(value, float) else f"{column}={value}"] = measured
    return found


def judge(found: Realised | None, promise: Promise | None, direction: Direction, least: int) -> tuple[State, str]:
    """Whether a promise is kept, and why.

    The promise was measured on some rows too, so the interval is widened by what these leave open. Degraded is only
    what lies wholly beyond the tolerance.

    Args:
        found: what was realised.
        promise: what was promised.
        direction: which way the metric improves.
        least: how many outcomes it takes to say anything.
    """
    if found is None or found.rows < least:
        known = found.rows if found else 0
        return State.NOT_ENOUGH_LABELS, f"{known} outcomes are known that say something, and {least} are needed"
    if promise is None:
        return State.NO_PROMISE, "the metric had no value at the promotion: its holdout had one class only"
    wider = sqrt(1 + found.rows / max(promise.rows, 1))
    is_score = direction is Direction.UP
    best = found.value + (found.high - found.value if is_score else found.low - found.value) * wider
    bar = promise.value + (-promise.tolerance if is_score else promise.tolerance)
    is_worse = best < bar if is_score else best > bar
    said = (
        f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f}) on {found.rows:,} rows, "
        f"promised {promise.value:.4f} within {promise.tolerance:.4f}"
    )
    return (State.DEGRADED, f"beyond doubt worse than promised: {said}") if is_worse else (State.OK, said)


def predictions_of(answers: list[dict[str, object]], task: Task, classes: tuple[object, ...]) -> Predictions:
    """Answers of a model as the prediction log has them."""
    if task is Task.REGRESSION:
        scores = np.array([answer["value"] for answer in answers], dtype=np.float64)
    elif task is Task.BINARY:
        scores = np.array([answer["probability"] for answer in answers], dtype=np.float64)
    else:
        rows = [answer["probabilities"] for answer in answers]
        scores = np.array([[row[str(c)] for c in classes] for row in rows], dtype=np.float64)  # type: ignore[index]
    return Predictions(task=task, scores=scores, classes=classes)
