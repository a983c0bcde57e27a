"""Splitting: which rows train and which are held out, so that no model is scored on rows it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pandas.util import hash_array

from ml_platform.modeling.spec import ModelSpec

BUCKETS = 10_000


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which rows a model was not trained on: the newest by event time, or a share of the keys.

    Exactly one of `cutoff` (rows after it are held out) and `share` (of the keys, between 0 and 1) is given.
    """

    column: str
    cutoff: datetime | None = None
    share: float | None = None


def choose(spec: ModelSpec, rows: pl.DataFrame) -> Split:
    """The split for a model that is about to be trained on `rows`."""
    share = spec.promotion.holdout
    time = spec.source.event_time
    if time is None:
        return Split(column=spec.source.key, share=share)
    cutoff = rows[time].quantile(1 - share, interpolation="nearest")
    if not isinstance(cutoff, datetime):
        msg = f"model {spec.name!r}: event time {time!r} is missing in every row; remove event_time from the spec"
        raise ValueError(msg)  # noqa: TRY004 - the value is missing, not of a wrong type
    return Split(column=time, cutoff=cutoff)


def held_out(rows: pl.DataFrame, splits: Sequence[Split]) -> NDArray[np.bool_]:
    """True for the rows that every one of the models held out: the only ones they can be compared on."""
    masks = [_held_out(rows[split.column], split) for split in splits]
    return np.asarray(np.logical_and.reduce(masks))


def _held_out(values: pl.Series, split: Split) -> NDArray[np.bool_]:
    if split.cutoff is not None:
        return (values > split.cutoff).fill_null(value=False).to_numpy()
    text = values.cast(pl.String).to_numpy().astype(object)
    buckets = hash_array(text, categorize=False) % BUCKETS
    return np.asarray(buckets < round((split.share or 0.0) * BUCKETS))
