"""Scoring: what a model's predictions are worth on rows it has not seen, overall and per slice."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import metrics

from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task

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
        "log_loss": _log_loss(actual, predicted),
    }


def score_slices(
    actual: Column, predicted: Predictions, slices: Mapping[str, Column], metric: str
) -> dict[str, dict[str, float]]:
    """The metric within each value of each slicing column, for values with enough rows to say something."""
    found: dict[str, dict[str, float]] = {}
    for name, values in slices.items():
        for value in _distinct(values):
            inside = values == value
            if inside.sum() < MIN_SLICE_ROWS:
                continue
            part = Predictions(task=predicted.task, scores=predicted.scores[inside], classes=predicted.classes)
            scores = score(actual[inside], part)
            if metric in scores:
                found[f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"] = {
                    "rows": float(inside.sum()),
                    metric: scores[metric],
                }
    return found


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


def _log_loss(actual: Column, predicted: Predictions) -> float:
    """The mean surprise; a class that the model has never seen surprises it completely."""
    columns = {label: i for i, label in enumerate(predicted.classes)}
    said = [
        row[columns[label]] if label in columns else 0.0 for label, row in zip(actual, predicted.scores, strict=True)
    ]
    return float(-np.log(np.clip(said, np.finfo(float).eps, 1)).mean())


def _regression(actual: Column, predicted: Predictions) -> dict[str, float]:
    return {
        "r2": float(metrics.r2_score(actual, predicted.scores)),
        "rmse": float(metrics.root_mean_squared_error(actual, predicted.scores)),
        "mae": float(metrics.mean_absolute_error(actual, predicted.scores)),
    }
