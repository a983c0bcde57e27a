"""The reference profile: what is kept of the training rows, small whatever their number, to hold later rows against."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import combinations
from math import ceil

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from ml_platform.modeling.columns import Numbers
from ml_platform.modeling.drift.cells import Cells, Codes

MOST_ROWS = 10_000
"""More rows are thinned out; the profile's memory is a byte for each of them and column."""
MOST_PAIRED = 40
"""So many columns are looked at in pairs."""
EVENT_TIME = "ml_platform.event_time"
"""The column of a reference that orders its rows, under a name that no source has."""
SLICE_ROWS = 100_000
NEAR, BLOCK, FEWEST_BLOCKS = 5, 6, 20
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Profile:
    """Columns cut into cells, and the cell of every reference row (n, columns).

    `block` is how many rows in a row are resampled together: 1 where they do not depend on each other, or have no
    event time to be ordered by.
    """

    columns: tuple[Cells, ...]
    codes: Codes
    block: int

    @classmethod
    def of(cls, rows: pl.DataFrame, event_time: str | None = None) -> "Profile":
        """The profile of at least one reference row.

        Args:
            rows: the reference; more than `MOST_ROWS` are thinned out, evenly or, in event time, in runs.
            event_time: a column to order the rows by, which is then not compared.
        """
        if event_time:
            rows = rows.sort(event_time, maintain_order=True).drop(event_time)
        rows = thinned(rows)
        columns = tuple(Cells.of(rows[name]) for name in rows.columns)
        codes = np.column_stack([cells.codes(rows[cells.name]) for cells in columns])
        profile = cls(columns, codes, 1)
        return cls(columns, codes, _block(profile.ranks)) if event_time else profile

    @property
    def rows(self) -> int:
        """How many reference rows there are."""
        return len(self.codes)

    @cached_property
    def counts(self) -> tuple[NDArray[np.int64], ...]:
        """The reference rows in each cell, with those of a missing and of an unseen value, by column."""
        return tuple(np.bincount(self.codes[:, i], minlength=cells.size + 2) for i, cells in enumerate(self.columns))

    @cached_property
    def scores(self) -> tuple[Numbers, ...]:
        """A number for each cell, by column: the rank of its middle as a normal distribution has it; missing is 0."""
        return tuple(_scores(counts[:-2]) for counts in self.counts)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs whose correlation is looked at: of a wide table those of the columns that depend on others most."""
        several = [i for i, cells in enumerate(self.columns) if cells.size > 1]
        if len(several) > MOST_PAIRED:
            ranks = self.ranks[:, several]
            scale = np.maximum(ranks.std(axis=0), 1e-6)
            correlation = np.abs((ranks.T @ ranks) / self.rows / np.outer(scale, scale))
            np.fill_diagonal(correlation, 0)
            several = [several[i] for i in sorted(np.argsort(-correlation.max(axis=0), kind="stable")[:MOST_PAIRED])]
        return tuple(combinations(several, 2))

    @property
    def ranks(self) -> Floats:
        """The score of every reference row (n, columns)."""
        return self.ranks_of(self.codes)

    def ranks_of(self, codes: Codes) -> Floats:
        """The score of every row (n, columns)."""
        ranks = np.empty(codes.shape, dtype=np.float32, order="F")
        for i, scores in enumerate(self.scores):
            ranks[:, i] = scores.astype(np.float32)[codes[:, i]]
        return ranks

    @cached_property
    def digest(self) -> str:
        """A hash of everything that decides."""
        whole = sha256(np.ascontiguousarray(self.codes).tobytes())
        for cells in self.columns:
            known = (cells.name, cells.kind, cells.bounds.tolist(), cells.texts.rows(), self.block)
            whole.update(repr(known).encode())
        return whole.hexdigest()

    @cached_property
    def own_sums(self) -> Numbers:
        """The sums of the reference's own rows."""
        return self._sums(self.codes)

    def sums(self, rows: pl.DataFrame) -> Numbers:
        """What the statistics need of some rows, read a slice at a time: cell counts, and sums of products of scores.

        Returns:
            The counts of all columns one after the other, then the products of all `pairs`.
        """
        total = np.zeros_like(self.own_sums)
        for part in rows.iter_slices(SLICE_ROWS):
            total += self._sums(np.column_stack([cells.codes(part[cells.name]) for cells in self.columns]))
        return total

    def _sums(self, codes: Codes) -> Numbers:
        counts = [np.bincount(codes[:, i], minlength=cells.size + 2) for i, cells in enumerate(self.columns)]
        ranks = self.ranks_of(codes)
        products = (ranks.T @ ranks)[tuple(self.sides)]
        return np.concatenate([*counts, products])

    @property
    def sides(self) -> NDArray[np.intp]:
        """The left and the right columns of the pairs (2, pairs)."""
        return np.array(self.pairs, dtype=np.intp).reshape(-1, 2).T


def thinned(rows: pl.DataFrame) -> pl.DataFrame:
    """At most `MOST_ROWS` rows, in runs from all over, so that neighbours stay neighbours."""
    if len(rows) <= MOST_ROWS:
        return rows
    runs = 50
    starts = np.linspace(0, len(rows) - MOST_ROWS // runs, runs).astype(int)
    return rows[np.concatenate([np.arange(start, start + MOST_ROWS // runs) for start in starts])]


def _scores(counts: NDArray[np.int64]) -> Numbers:
    total = max(int(counts.sum()), 1)
    middle = (np.cumsum(counts) - counts / 2) / total
    scores = ndtri(np.clip(middle, 0.5 / total, 1 - 0.5 / total))
    return np.concatenate([scores, [0.0, 0.0]])


def _block(ranks: Floats) -> int:
    """How many neighbours to resample together: several times as many rows as tell no more than one independent row.

    That number is the integrated autocorrelation time, summed up to five times itself (Sokal's window).
    """
    rows, furthest = len(ranks), len(ranks) // FEWEST_BLOCKS
    if furthest < NEAR:
        return 1
    spectrum = np.abs(np.fft.rfft(ranks - ranks.mean(axis=0), 2 * rows, axis=0)) ** 2
    products = np.fft.irfft(spectrum, axis=0)[: furthest + 1]
    times = 2 * np.cumsum(products / np.maximum(products[0], 1e-9), axis=0) - 1
    is_enough = np.arange(furthest + 1)[:, None] >= NEAR * times
    is_enough[-1] = True
    slowest = float(times[is_enough.argmax(axis=0), np.arange(ranks.shape[1])].max())
    noise = 2 * np.sqrt(NEAR / rows)
    return min(ceil(BLOCK * slowest), furthest) if slowest > 1 + 3 * noise else 1
