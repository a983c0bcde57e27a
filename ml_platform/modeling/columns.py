"""Columns: how values look inside the platform, the same for a million training rows and for one request."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
"""Numbers and flags: float64, missing is NaN, true is 1."""
Texts = NDArray[np.object_]
"""Text: object, missing is None."""
Times = NDArray[np.datetime64]
"""Dates and times: datetime64[us] in UTC, missing is NaT."""
Column = Numbers | Texts | Times


class Kind(StrEnum):
    """What a column holds. The schema decides it, never the data at hand."""

    NUMBER = "number"
    TEXT = "text"
    TIME = "time"


DTYPES: dict[Kind, np.dtype[np.generic]] = {
    Kind.NUMBER: np.dtype(np.float64),
    Kind.TEXT: np.dtype(object),
    Kind.TIME: np.dtype("datetime64[us]"),
}


def as_single_precision(values: Numbers) -> Numbers:
    """The numbers rounded to float32, still stored as float64, so that every engine sees the same value."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)
