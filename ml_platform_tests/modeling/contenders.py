"""Contenders: labels and predictions drawn so that two models err together, as two trainings on the same table do."""

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task


def labels(task: Task, n: int, rng: np.random.Generator) -> Column:
    """At least two of each class."""
    if task is Task.REGRESSION:
        return np.asarray(rng.normal(size=n) * 5)
    classes = 2 if task is Task.BINARY else 3
    return rng.permutation(np.arange(n) % classes if n < 60 else rng.integers(0, classes, n))


def predictions(
    task: Task, actual: Column, noise: float, rng: np.random.Generator, luck: NDArray[np.float64] | None = None
) -> Predictions:
    """Predictions of a model, the better the less noise; `luck` is what several models get wrong together."""
    truth, n = actual.astype(float), len(actual)
    shared = np.zeros(n) if luck is None else luck
    if task is Task.REGRESSION:
        return Predictions(task=task, scores=truth + shared + noise * rng.normal(size=n))
    if task is Task.BINARY:
        logit = (2 * truth - 1) + shared + noise * rng.normal(size=n)
        return Predictions(task=task, scores=(1 / (1 + np.exp(-logit))).round(2), classes=(0, 1))
    raw = np.exp(np.eye(3)[actual.astype(int)] + noise * rng.normal(size=(n, 3)))
    return Predictions(task=task, scores=raw / raw.sum(axis=1, keepdims=True), classes=(0, 1, 2))
