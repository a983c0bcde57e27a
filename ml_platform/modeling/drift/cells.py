"""Cells: what a column of the training reference is cut into, and into which any later value falls."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.modeling.columns import Kind, Numbers

PARTS = 10
MOST_VALUES = 12
"""Up to so many different numbers count by value; more are cut into tenths of the rows."""
MOST_TEXTS = 30
"""The rarer texts share a cell."""
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Cells:
    """One column, cut into `size` cells; the next two codes are a missing value and one the reference does not have.

    `bounds` are the numbers themselves where `exact`, else the greatest of each cell but the last. `texts` has the cell
    of every text. A time always moves on, so it is only there or missing. `once` counts the values that the reference
    has a single time: a measure of how many it just happens not to have.
    """

    name: str
    kind: Kind
    size: int
    once: int = 0
    exact: bool = False
    bounds: Numbers = field(default_factory=lambda: np.empty(0))
    texts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={"text": pl.String, "cell": pl.UInt8}))

    @classmethod
    def of(cls, column: pl.Series) -> "Cells":
        """The cells of a reference's column."""
        kind = kind_of(column.dtype) or Kind.NUMBER
        if kind is Kind.TIME:
            return cls(column.name, kind, size=1)
        if kind is Kind.NUMBER:
            numbers = _numbers(column)
            values, rows = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
            if len(values) > MOST_VALUES:
                inner = np.arange(1, PARTS) / PARTS
                bounds = np.unique(values[np.searchsorted(rows.cumsum(), inner * rows.sum())])
                return cls(column.name, kind, size=len(bounds) + 1, bounds=bounds)
            return cls(column.name, kind, len(values), int((rows == 1).sum()), exact=True, bounds=values)
        found = column.drop_nulls().cast(pl.String).alias("text").value_counts(name="rows").sort("text")
        found = found.sort("rows", descending=True, maintain_order=True)
        size = min(len(found), MOST_TEXTS)
        cell = pl.int_range(pl.len()).clip(upper_bound=size - 1).cast(pl.UInt8).alias("cell")
        return cls(
            column.name, kind, size, int((found["rows"] == 1).sum()), exact=True, texts=found.select("text", cell)
        )

    @property
    def missing(self) -> int:
        """The code of a missing value."""
        return self.size

    @property
    def unseen(self) -> int:
        """The code of a value that the reference does not have."""
        return self.size + 1

    def label(self, code: int) -> str:
        """What is in a cell, in words."""
        if self.kind is Kind.TEXT:
            texts = self.texts.filter(pl.col("cell") == code)["text"]
            return repr(texts[0]) if len(texts) == 1 else f"the {len(texts)} rarest values"
        if self.exact:
            return f"the value {self.bounds[code]:g}"
        if code == len(self.bounds):
            return f"above {self.bounds[-1]:g}"
        return f"{self.bounds[code - 1]:g} to {self.bounds[code]:g}" if code else f"up to {self.bounds[0]:g}"

    def codes(self, column: pl.Series) -> Codes:
        """The cell of each value (n,); every value of a column of another kind is unseen."""
        kind = kind_of(column.dtype)
        if kind is not self.kind or kind is Kind.TIME:
            there = 0 if self.kind is Kind.TIME else self.unseen
            return np.where(column.is_null().to_numpy(), self.missing, there).astype(np.uint8)
        return self._of_numbers(_numbers(column)) if kind is Kind.NUMBER else self._of_texts(column)

    def _of_numbers(self, numbers: Numbers) -> Codes:
        codes = np.searchsorted(self.bounds, numbers).astype(np.uint8)
        if self.exact:
            there = codes < self.size
            there[there] = self.bounds[codes[there]] == numbers[there]
            codes[~there] = self.unseen
        codes[np.isnan(numbers)] = self.missing
        return codes

    def _of_texts(self, column: pl.Series) -> Codes:
        known = column.cast(pl.String).replace_strict(
            self.texts["text"], self.texts["cell"], default=self.unseen, return_dtype=pl.UInt8
        )
        return known.set(column.is_null(), self.missing).to_numpy().astype(np.uint8)


def kind_of(dtype: pl.DataType) -> Kind | None:
    """What a column holds; None where it holds nothing."""
    if dtype == pl.Null:
        return None
    if dtype.is_numeric() or dtype == pl.Boolean:
        return Kind.NUMBER
    return Kind.TIME if dtype.is_temporal() else Kind.TEXT


def _numbers(column: pl.Series) -> Numbers:
    """Missing is NaN."""
    numbers = column.cast(pl.Float64)
    return (numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy()
