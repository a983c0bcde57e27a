"""Statistics: how far rows are from the reference, one number for each way in which a column or a pair can move."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Kind, Numbers
from ml_platform.modeling.drift.profile import Profile

CLOSEST = 0.999
"""A correlation of 1 would be infinitely far from any other."""
SMALLEST = 1e-6
"""A smaller variance is none."""


class Measure(StrEnum):
    """What is measured. All but the last two grow with the square of the distance and with the rows."""

    DIVERGENCE = "divergence"
    """Between the shares of a column's cells; for small changes the population stability index."""
    LEVEL = "level"
    """Between the mean normal scores, in standard deviations."""
    MISSING = "missing"
    """Between the shares of missing values, as a divergence."""
    CORRELATION = "correlation"
    """Between the rank correlations of two columns."""
    NEW_VALUES = "new values"
    """The share of values that the reference does not have."""
    NEW_MISSING = "new missing values"
    """The share of missing values where the reference has none."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What is measured of which column or columns of the profile, by their numbers."""

    measure: Measure
    columns: tuple[int, ...]


def resampled(profile: Profile) -> tuple[Statistic, ...]:
    """The statistics that resampling the reference can tell the thresholds of."""
    found = []
    for i, (cells, counts) in enumerate(zip(profile.columns, profile.counts, strict=True)):
        if cells.size > 1:
            found.append(Statistic(measure=Measure.DIVERGENCE, columns=(i,)))
        if cells.size > 1 and cells.kind is Kind.NUMBER:
            found.append(Statistic(measure=Measure.LEVEL, columns=(i,)))
        if counts[cells.missing]:
            found.append(Statistic(measure=Measure.MISSING, columns=(i,)))
    return (*found, *(Statistic(measure=Measure.CORRELATION, columns=pair) for pair in profile.pairs))


def never_seen(profile: Profile) -> tuple[Statistic, ...]:
    """The statistics of what the reference does not have, so that no resampling can show it."""
    found = []
    for i, (cells, counts) in enumerate(zip(profile.columns, profile.counts, strict=True)):
        if cells.exact and cells.kind is not Kind.TIME:
            found.append(Statistic(measure=Measure.NEW_VALUES, columns=(i,)))
        if not counts[cells.missing]:
            found.append(Statistic(measure=Measure.NEW_MISSING, columns=(i,)))
    return tuple(found)


def distances(profile: Profile, reference: Numbers, window: Numbers) -> Numbers:
    """The statistics of `resampled`, in its order.

    Args:
        profile: what both are cut by.
        reference: sums of reference rows as `Profile.sums` gives them (..., d).
        window: sums of the rows to hold against them (..., d).
    """
    a, b = Moments.of(profile, reference), Moments.of(profile, window)
    found = [_distance(statistic, profile, a, b) for statistic in resampled(profile)]
    return np.stack(found, axis=-1) if found else np.empty((*reference.shape[:-1], 0))


@dataclass(frozen=True)
class Moments:
    """Sums taken apart: rows per cell of each column, mean and variance of its scores, and products of pairs."""

    counts: Sequence[Numbers]
    rows: Numbers
    means: Sequence[Numbers]
    variances: Sequence[Numbers]
    products: dict[tuple[int, int], Numbers]

    @classmethod
    def of(cls, profile: Profile, sums: Numbers) -> "Moments":
        """The parts of sums (..., d)."""
        ends = np.cumsum([cells.size + 2 for cells in profile.columns])
        *counts, products = np.split(sums, ends, axis=-1)
        rows = np.maximum(counts[0].sum(axis=-1), 1)
        means = [c @ scores / rows for c, scores in zip(counts, profile.scores, strict=True)]
        squares = [c @ scores**2 / rows for c, scores in zip(counts, profile.scores, strict=True)]
        return cls(
            counts=counts,
            rows=rows,
            means=means,
            variances=[s - m**2 for s, m in zip(squares, means, strict=True)],
            products={pair: products[..., k] for k, pair in enumerate(profile.pairs)},
        )

    def correlation(self, i: int, j: int) -> Numbers:
        """Of the scores of two columns; 0 where one of them has a single value."""
        covariance = self.products[i, j] / self.rows - self.means[i] * self.means[j]
        scale = np.sqrt(np.maximum(self.variances[i] * self.variances[j], 0))
        found = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > SMALLEST)
        return np.clip(found, -CLOSEST, CLOSEST)


def _distance(statistic: Statistic, profile: Profile, a: Moments, b: Moments) -> Numbers:
    i = statistic.columns[0]
    cells = profile.columns[i]
    if statistic.measure is Measure.CORRELATION:
        change = np.arctanh(b.correlation(*statistic.columns)) - np.arctanh(a.correlation(*statistic.columns))
        return np.asarray(change**2 * effective_rows(a.rows, b.rows))
    if statistic.measure is Measure.LEVEL:
        change = b.means[i] - a.means[i]
        return np.asarray(change**2 * effective_rows(a.rows, b.rows) / _pooled_variance(a, b, i))
    if statistic.measure is Measure.MISSING:
        return divergence(*(_missing_or_not(m.counts[i], cells.missing) for m in (a, b)))
    return divergence(a.counts[i][..., : cells.size], b.counts[i][..., : cells.size])


def _pooled_variance(a: Moments, b: Moments, i: int) -> Numbers:
    """With the window's own, a share that the reference has little of does not look more certain than it is."""
    pooled = (a.rows * a.variances[i] + b.rows * b.variances[i]) / (a.rows + b.rows)
    return np.maximum(pooled, SMALLEST)


def effective_rows(a: Any, b: Any) -> Any:
    """How much two samples of these sizes can tell about each other: half of each, if they are equal."""
    return a * b / np.maximum(a + b, 1)


def divergence(a: NDArray[Any], b: NDArray[Any]) -> Numbers:
    """The likelihood ratio of two lists of counts (..., k): 0 where the shares are the same."""
    pool = a + b
    rows_a, rows_b = a.sum(axis=-1, keepdims=True), b.sum(axis=-1, keepdims=True)
    share = pool / np.maximum(rows_a + rows_b, 1)
    return np.maximum(2 * (_log_ratio(a, share * rows_a) + _log_ratio(b, share * rows_b)), 0)


def _log_ratio(found: NDArray[Any], expected: NDArray[Any]) -> Numbers:
    ratio = np.divide(found, expected, out=np.ones(np.shape(expected)), where=(expected > 0) & (found > 0))
    return np.asarray((found * np.log(ratio)).sum(axis=-1))


def _missing_or_not(counts: Numbers, missing: int) -> Numbers:
    missed = counts[..., missing]
    return np.stack([missed, counts.sum(axis=-1) - missed], axis=-1)
