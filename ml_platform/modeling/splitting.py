"""Splitting: which rows train and which are held out, so that a row never changes sides while it matters."""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pandas.util import hash_array

BUCKETS = 10_000


def held_out_by_key(keys: pl.Series, share: float) -> NDArray[np.bool_]:
    """True for the rows held out; decided by the key alone, so a row keeps its side for ever.

    Args:
        keys: n keys, whole numbers or text.
        share: share of rows to hold out, between 0 and 1.
    """
    text = keys.cast(pl.String).to_numpy().astype(object)
    return (hash_array(text, categorize=False) % BUCKETS) < round(share * BUCKETS)


def held_out_by_time(times: pl.Series, share: float, not_before: object = None) -> NDArray[np.bool_]:
    """True for the newest rows; never a row older than what an earlier model was already trained on.

    Args:
        times: n event times without nulls.
        share: share of rows to hold out, between 0 and 1.
        not_before: the cutoff of the model in production, if any: the holdout never reaches back beyond it.
    """
    cutoff = times.quantile(1 - share, interpolation="nearest")
    if not_before is not None:
        cutoff = max(cutoff, not_before)  # type: ignore[type-var]
    return (times > cutoff).to_numpy()
