"""The bootstrap: how sure a difference between two models is, by drawing the rows they were judged on again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task
from ml_platform.modeling.weighted_metrics import Measure, Numbers

RESAMPLES = 2_000
MAX_ROWS, MAX_RARE_ROWS = 10_000, 200_000
"""Rows that are drawn from; where there are more, a sample of them tells how far the difference of all may be off.

It is larger, up to the second number, where fewer than `LEAST_OF_RARER` of the rarer class would be in it.
"""
LEAST_OF_RARER = 100
AT_ONCE = 500_000
"""Numbers in a table of draws, so that it stays in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """By how much one model is better: the estimate, and between what the truth lies at the confidence asked for."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """The three numbers."""
        return f"{self.estimate:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def paired(
    measure: Measure,
    actual: Column,
    challenger: Predictions,
    champion: Predictions,
    *,
    sign: float,
    confidence: float,
    seed: int,
    most_rows: int = MAX_ROWS,
) -> Interval:
    """By how much the challenger is better than the champion, both on the same resampled rows.

    Args:
        measure: what is compared.
        actual: n known labels.
        challenger: its predictions of these rows.
        champion: its predictions of these rows.
        sign: 1 where more is better, -1 where less is.
        confidence: of the interval; what is left is shared between its two ends.
        seed: decides the resamples.
        most_rows: rows to draw from.

    Returns:
        The percentile interval; NaN in it where the metric has no value.
    """
    rng = np.random.default_rng(seed)
    whole = _gain(measure, actual, challenger, champion, sign)
    picked = np.sort(rng.permutation(len(actual))[: _sample_size(actual, challenger.task, most_rows)])
    drawn_from = actual[picked], challenger.at(picked), champion.at(picked)
    better, than = (measure(drawn_from[0], predicted) for predicted in drawn_from[1:])
    gains = sign * np.concatenate([better(counts) - than(counts) for counts in draws(len(picked), rng)])
    far = ends(gains, confidence, effective_rows(drawn_from[0], challenger.task)) - _gain(measure, *drawn_from, sign)
    low, high = whole + far * np.sqrt(len(picked) / len(actual))
    return Interval(estimate=whole, low=float(low), high=float(high))


def ends(drawn: Numbers, confidence: float, rows: int) -> Numbers:
    """The two ends of the percentile interval of resampled values.

    Resamples of few rows vary less than samples would. So the ends lie as much farther out as those of Student's t do
    (Hesterberg 2015, What teachers should know about the bootstrap, 5.3).

    Args:
        drawn: the values; NaN is left out.
        confidence: of the interval.
        rows: the `effective_rows` that were drawn from.
    """
    n = max(rows, 2)
    doubt = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1)))
    return np.asarray(np.nanquantile(drawn, [doubt, 1 - doubt]))


def value(measure: Measure, actual: Column, predicted: Predictions) -> float:
    """The metric of all rows; NaN where it has no value."""
    return float(measure(actual, predicted)(np.ones((len(actual), 1)))[0])


def effective_rows(actual: Column, task: Task) -> int:
    """How many rows a comparison rests on: for a binary model those of the rarer class."""
    if task is not Task.BINARY:
        return len(actual)
    counts = np.unique(actual, return_counts=True)[1]
    return int(counts.min()) if len(counts) > 1 else 0


def _gain(measure: Measure, actual: Column, challenger: Predictions, champion: Predictions, sign: float) -> float:
    return sign * (value(measure, actual, challenger) - value(measure, actual, champion))


def _sample_size(actual: Column, task: Task, most: int) -> int:
    """How many rows to draw from."""
    rarer = max(1, effective_rows(actual, task))
    return min(len(actual), max(most, min(LEAST_OF_RARER * len(actual) // rarer, MAX_RARE_ROWS)))


def draws(n: int, rng: np.random.Generator) -> Iterator[Numbers]:
    """How often each of n rows is in each resample, (n, b), some resamples at a time."""
    at_once = max(1, AT_ONCE // n)
    for first in range(0, RESAMPLES, at_once):
        b = min(at_once, RESAMPLES - first)
        drawn = rng.integers(0, n, (n, b), dtype=np.int32) * b + np.arange(b, dtype=np.int32)
        yield np.bincount(drawn.ravel(), minlength=n * b).reshape(n, b).astype(np.float64)
