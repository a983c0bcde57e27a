"""Scoring: what a model's predictions are worth on rows it has not seen, overall and per slice."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task
from ml_platform.modeling.weighted_metrics import log_losses

MIN_SLICE_ROWS = 30


def score(actual: Column, predicted: Predictions) -> dict[str, float]:
    """Every metric of the task, by name. A ranking metric of a single class is left out: it has no value."""
    if predicted.task is Task.REGRESSION:
        return _regression(actual, predicted)
    if predicted.task is Task.BINARY:
        return _binary(actual, predicted)
    return {
        "accuracy": float(metrics.accuracy_score(actual, predicted.labels())),
        "f1_macro": float(metrics.f1_score(actual, predicted.labels(), average="macro")),
        "log_loss": float(log_losses(actual, predicted).mean()),
    }


def score_slices(
    actual: Column, predicted: Predictions, slices: Mapping[str, Column], metric: str
) -> dict[str, dict[str, float]]:
    """The metric within each value of each slicing column, for values with enough rows to say something."""
    found: dict[str, dict[str, float]] = {}
    for name, inside in slices_of(slices):
        scores = score(actual[inside], predicted.at(inside)) if inside.sum() >= MIN_SLICE_ROWS else {}
        if metric in scores:
            found[name] = {"rows": float(inside.sum()), metric: scores[metric]}
    return found


def slices_of(columns: Mapping[str, Column]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Each value of each slicing column, as `column=value`, and which rows have it."""
    for name, values in columns.items():
        for value in _distinct(values):
            yield f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}", values == value


def _distinct(values: Column) -> list[Any]:
    present = [v for v in values.tolist() if v is not None and v == v]  # noqa: PLR0124 - NaN is not itself
    return sorted(set(present))


def _binary(actual: Column, predicted: Predictions) -> dict[str, float]:
    positive = actual == predicted.classes[1]
    scores = {
        "accuracy": float(metrics.accuracy_score(positive, predicted.labels() == predicted.classes[1])),
        "log_loss": float(metrics.log_loss(positive, predicted.scores, labels=[False, True])),
        "brier": float(metrics.brier_score_loss(positive, predicted.scores)),
    }
    if 0 < positive.sum() < len(positive):
        scores["roc_auc"] = float(metrics.roc_auc_score(positive, predicted.scores))
        scores["average_precision"] = float(metrics.average_precision_score(positive, predicted.scores))
    return scores


def _regression(actual: Column, predicted: Predictions) -> dict[str, float]:
    return {
        "r2": float(metrics.r2_score(actual, predicted.scores)),
        "rmse": float(metrics.root_mean_squared_error(actual, predicted.scores)),
        "mae": float(metrics.mean_absolute_error(actual, predicted.scores)),
    }
