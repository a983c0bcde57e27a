"""Calibration: how far chance alone takes rows of the same population from the reference, at a window's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log, log10
from typing import Any

import numpy as np
from scipy.special import betainc, betaincinv, gammaincc
from scipy.stats import betabinom

from ml_platform.modeling.columns import Numbers
from ml_platform.modeling.drift.profile import Floats, Profile
from ml_platform.modeling.drift.statistics import Measure, Statistic, distances, never_seen

RESAMPLES = 4000
BATCH = 250
TAIL = 0.1
"""The share of resamples that the tail is fitted to, since the rate wanted is rarer than any of them."""
MOST_SURPRISE = 300.0
SIZES = 1.1
"""Window sizes are rounded to powers of it."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What chance does to the statistics (j,) of one profile: each is about `scale` times a chi-square of `freedom`.

    The surprise of a statistic is how many digits its p-value has after the point (-log10). The scale itself was
    learned from so many independent `blocks`, which makes a little more likely whatever is unlikely.
    """

    scale: Numbers
    freedom: Numbers
    blocks: int

    def surprise_of_resampled(self, distance: Numbers) -> Numbers:
        """Of resampled statistics (..., j): the scale was learned from their like."""
        return _surprise(gammaincc(self.freedom / 2, distance / self.scale / 2))

    def surprise(self, distance: Numbers) -> Numbers:
        """Of statistics (j,) of other rows."""
        others = self.blocks - 1
        return _surprise(betainc(others / 2, self.freedom / 2, others / (others + distance / self.scale)))

    def distance(self, surprise: float) -> Numbers:
        """The statistics (j,) that have this surprise."""
        others = self.blocks - 1
        return np.asarray(self.scale * others * (1 / betaincinv(others / 2, self.freedom / 2, 10**-surprise) - 1))


def _surprise(p: Numbers) -> Numbers:
    return np.asarray(-np.log10(np.maximum(p, 10**-MOST_SURPRISE)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds for windows of about `rows` rows: of any statistic, a surprise over `surprise` is an alarm."""

    rate: float
    rows: int
    surprise: float
    thresholds: tuple[Threshold, ...]


def calibrated(profiles: Sequence[Profile], rows: int, rate: float) -> Calibration:
    """Thresholds at which a share `rate` of undrifted windows of `rows` rows has any alarm at all.

    References and windows are drawn from the reference, both, since the reference is a sample too. Of each pair the
    greatest surprise counts: so the rate holds for all statistics together, whatever they have to do with each other.
    """
    size = max(2, round(SIZES ** round(log(max(rows, 2), SIZES))))
    return _calibrated(_Key(tuple(profiles)), size, rate)


class _Key:
    """Profiles as what they decide, for the cache."""

    def __init__(self, profiles: tuple[Profile, ...]) -> None:
        self.profiles = profiles
        self.digests = tuple(profile.digest for profile in profiles)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.digests == other.digests

    def __hash__(self) -> int:
        return hash(self.digests)


@lru_cache(maxsize=16)
def _calibrated(key: _Key, rows: int, rate: float) -> Calibration:
    rng = np.random.default_rng(int(key.digests[0][:8], 16))
    thresholds, worst = [], np.zeros(RESAMPLES)
    for profile in key.profiles:
        drawn = _resamples(profile, rows, rng)
        blocks = max(profile.rows // min(profile.block, rows), 2)
        thresholds.append(_fitted(drawn, blocks))
        # Of what the reference does not have, chance is known: its p-values are even, or rarer.
        even = -np.log10(rng.uniform(size=(RESAMPLES, len(never_seen(profile)))))
        worst = np.concatenate([worst[:, None], _surprises(drawn, blocks), even], axis=1).max(axis=1)
    return Calibration(rate=rate, rows=rows, surprise=_exceeded(worst, rate), thresholds=tuple(thresholds))


def _exceeded(worst: Numbers, rate: float) -> float:
    """What a share `rate` is greater than; far out, surprises thin out exponentially."""
    if rate >= TAIL:
        return float(np.quantile(worst, 1 - rate))
    start = float(np.quantile(worst, 1 - TAIL))
    return start + float((worst[worst > start] - start).mean()) * log(TAIL / rate)


def _surprises(drawn: Numbers, blocks: int) -> Numbers:
    """Of each resampled statistic (resamples, j), by what the other half of them says of chance.

    To what they were fitted to themselves the thresholds fit too well: the rate would be exceeded by half.
    """
    halves = np.array_split(drawn, 2)
    pairs = zip(halves, reversed(halves), strict=True)
    return np.concatenate([_fitted(other, blocks).surprise_of_resampled(half) for half, other in pairs])


def _fitted(drawn: Numbers, blocks: int) -> Threshold:
    """The chi-squares with the mean and the variance of the resampled statistics (resamples, j)."""
    mean, variance = np.maximum(drawn.mean(axis=0), 1e-9), np.maximum(drawn.var(axis=0), 1e-12)
    return Threshold(scale=variance / mean / 2 * blocks / (blocks - 1), freedom=2 * mean**2 / variance, blocks=blocks)


def _resamples(profile: Profile, rows: int, rng: np.random.Generator) -> Numbers:
    """The statistics (resamples, j) of pairs of a reference and a window, both drawn from the reference."""
    length = min(profile.block, rows)
    blocks = _blocks(profile, length)
    found = []
    for _ in range(RESAMPLES // BATCH):
        reference = _draws(len(blocks), len(blocks), rng) @ blocks
        window = _draws(len(blocks), max(1, round(rows / length)), rng) @ blocks
        found.append(distances(profile, reference.astype(np.float64), window.astype(np.float64)))
    return np.concatenate(found)


def _blocks(profile: Profile, length: int) -> Floats:
    """The sums (blocks, d) of each `length` rows in a row."""
    count = profile.rows // length
    ranks, codes = profile.ranks, profile.codes
    one_hot = [
        codes[:, i, None] == np.arange(cells.size + 2, dtype=np.uint8) for i, cells in enumerate(profile.columns)
    ]
    left, right = profile.sides
    rows = np.concatenate([*one_hot, ranks[:, left] * ranks[:, right]], axis=1, dtype=np.float32)
    return np.asarray(rows[: count * length].reshape(count, length, -1).sum(axis=1))


def _draws(blocks: int, times: int, rng: np.random.Generator) -> Floats:
    """How often each block is drawn (BATCH, blocks), `times` in all, or nearly where that is a lot."""
    if times > 4 * blocks:
        return rng.poisson(times / blocks, (BATCH, blocks)).astype(np.float32)
    drawn = rng.integers(0, blocks, (BATCH, times)) + np.arange(BATCH)[:, None] * blocks
    return np.bincount(drawn.ravel(), minlength=BATCH * blocks).reshape(BATCH, blocks).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """How many of `rows` rows are by chance in a cell where the reference has none; `length` of them go together."""

    rows: int
    length: int
    once: float
    others: float

    def surprise(self, found: int) -> float:
        """Of so many rows or more."""
        if not found:
            return 0.0
        p = float(self._tail.sf(ceil(found / self.length) - 1))
        return min(-log10(max(p, 10**-MOST_SURPRISE)), MOST_SURPRISE)

    def limit(self, surprise: float) -> float:
        """The most rows that are not more surprising."""
        return float(self._tail.isf(10**-surprise)) * self.length

    @property
    def _tail(self) -> Any:
        return betabinom(ceil(self.rows / self.length), self.once + 0.5, self.others + 0.5)


def chance_of_new(profile: Profile, statistic: Statistic, rows: int) -> Chance:
    """By Good and Turing: the reference lacks about as many rows' values as it has values a single time."""
    once = profile.columns[statistic.columns[0]].once if statistic.measure is Measure.NEW_VALUES else 0
    length = min(profile.block, rows)
    return Chance(rows=rows, length=length, once=once / length, others=max(profile.rows - once, 0) / length)
