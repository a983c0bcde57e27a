"""Weighted metrics: what `scoring` measures, of many resamples at once, from how often each row was drawn."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task

BINS = 10
Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""From how often each of n rows is in each of b resamples of n rows, (n, b), to the value of each resample, (b,).

It is NaN where there is no value: an order has none when all rows are of one class.
"""
Measure = Callable[[Column, Predictions], Statistic]
"""From n labels and their predictions to a statistic of these rows."""


def metric(name: str) -> Measure:
    """A promotion metric of any task, by its name in `METRICS`."""
    return {
        "roc_auc": _roc_auc,
        "average_precision": _average_precision,
        "accuracy": _accuracy,
        "log_loss": _log_loss,
        "brier": _brier,
        "f1_macro": _f1_macro,
        "r2": _r2,
        "rmse": _rmse,
        "mae": _mae,
    }[name]


def calibration_error(actual: Column, predicted: Predictions) -> Statistic:
    """How far probabilities are from what happens, as a share: the expected calibration error, mean of the classes.

    In each tenth of the probabilities the mean that was said is compared with the share that was observed.
    """
    binary = predicted.task is Task.BINARY
    said = predicted.scores[:, None] if binary else predicted.scores
    classes = predicted.classes[1:] if binary else predicted.classes
    happened = np.stack([actual == label for label in classes], axis=1)
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    gaps = np.concatenate([(happened - said) * (bins == b) for b in range(BINS)], axis=1)
    return lambda counts: np.abs(gaps.T @ counts).sum(axis=0) / len(actual) / len(classes)


def log_losses(actual: Column, predicted: Predictions) -> Numbers:
    """The surprise of each row; a class that the model has never seen surprises it completely."""
    if predicted.task is Task.BINARY:
        said = np.where(actual == predicted.classes[1], predicted.scores, 1 - predicted.scores)
    else:
        said = ((actual[:, None] == np.asarray(predicted.classes)) * predicted.scores).sum(axis=1)
    losses: Numbers = -np.log(np.clip(said, np.finfo(float).eps, 1))
    return losses


def _mean(losses: Numbers) -> Statistic:
    return lambda counts: losses @ counts / len(losses)


def _log_loss(actual: Column, predicted: Predictions) -> Statistic:
    return _mean(log_losses(actual, predicted))


def _accuracy(actual: Column, predicted: Predictions) -> Statistic:
    return _mean((actual == predicted.labels()).astype(float))


def _brier(actual: Column, predicted: Predictions) -> Statistic:
    return _mean(((actual == predicted.classes[1]) - predicted.scores) ** 2)


def _mae(actual: Column, predicted: Predictions) -> Statistic:
    return _mean(np.abs(actual.astype(float) - predicted.scores))


def _rmse(actual: Column, predicted: Predictions) -> Statistic:
    mean = _mean((actual.astype(float) - predicted.scores) ** 2)
    return lambda counts: np.sqrt(mean(counts))


def _r2(actual: Column, predicted: Predictions) -> Statistic:
    values = actual.astype(float)
    centred, residuals = values - values.mean(), values - predicted.scores
    errors, squares, means = map(_mean, (residuals**2, centred**2, centred))

    def measure(counts: Numbers) -> Numbers:
        variance = squares(counts) - means(counts) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(variance > 0, 1 - errors(counts) / variance, np.nan))

    return measure


def _f1_macro(actual: Column, predicted: Predictions) -> Statistic:
    labels = predicted.labels()
    classes = np.unique(np.concatenate([actual, labels]))
    is_so, said = actual[:, None] == classes, labels[:, None] == classes
    hits, either = (is_so & said).astype(float), is_so.astype(float) + said

    def measure(counts: Numbers) -> Numbers:
        there = either.T @ counts
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nanmean(np.where(there > 0, 2 * (hits.T @ counts) / there, np.nan), axis=0))

    return measure


def _roc_auc(actual: Column, predicted: Predictions) -> Statistic:
    """The share of pairs of a positive and a negative row in which the positive one has the higher score."""
    positive = actual == predicted.classes[1]
    negatives, scores = _descending(~positive, predicted.scores)
    mine = predicted.scores[positive]
    above, level = (np.searchsorted(-scores, -mine, side) for side in ("left", "right"))

    def measure(counts: Numbers) -> Numbers:
        drawn, passed = counts[positive], _so_far(counts[negatives])
        with np.errstate(invalid="ignore", divide="ignore"):
            beaten_by = np.einsum("ib,ib->b", drawn, passed[above] + passed[level]) / 2
            return np.asarray(1 - beaten_by / (drawn.sum(axis=0) * passed[-1]))

    return measure


def _average_precision(actual: Column, predicted: Predictions) -> Statistic:
    """The mean precision among the rows with the score of each positive row or a higher one."""
    positive = actual == predicted.classes[1]
    (hits, hit_scores), (misses, miss_scores) = (_descending(of, predicted.scores) for of in (positive, ~positive))
    hits_until, misses_until = (np.searchsorted(-of, -hit_scores, "right") for of in (hit_scores, miss_scores))

    def measure(counts: Numbers) -> Numbers:
        drawn = counts[hits]
        right, wrong = _so_far(drawn)[hits_until], _so_far(counts[misses])[misses_until]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(right > 0, right / (right + wrong), 0.0)
            return np.asarray(np.einsum("ib,ib->b", drawn, precision) / drawn.sum(axis=0))

    return measure


def _descending(among: NDArray[np.bool_], scores: Numbers) -> tuple[NDArray[np.intp], Numbers]:
    """Some rows in the order of their score, the highest first, and the scores in that order."""
    rows = np.flatnonzero(among)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return rows, scores[rows]


def _so_far(drawn: Numbers) -> Numbers:
    """How often the first 0, 1, 2 ... rows were drawn, (1 + rows, b)."""
    sums = np.zeros((len(drawn) + 1, drawn.shape[1]))
    np.cumsum(drawn, axis=0, out=sums[1:])
    return sums
