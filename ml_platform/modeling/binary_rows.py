"""Binary rows: PostgreSQL's binary COPY format for columns of fixed width, so that no number becomes text."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import polars as pl

FIXED = {
    "smallint": ">i2",
    "integer": ">i4",
    "bigint": ">i8",
    "double precision": ">f8",
    "boolean": ">i1",
    "timestamp with time zone": ">i8",
}
"""How values of a type are sent; a time is counted in microseconds."""
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"


def can_encode(types: Mapping[str, str]) -> bool:
    """Whether all columns have a fixed width."""
    return all(type_ in FIXED for type_ in types.values())


def encode(rows: pl.DataFrame, types: Mapping[str, str]) -> bytes:
    """The rows, without missing values, as `COPY ... (FORMAT binary)` takes them.

    Args:
        rows: the columns of `types` in their order.
        types: PostgreSQL's type of each column, all of fixed width.
    """
    layout: list[tuple[str, str]] = [("columns", ">i2")]
    for name, type_ in types.items():
        layout += [(f"bytes of {name}", ">i4"), (f"value of {name}", FIXED[type_])]
    sent = np.empty(len(rows), dtype=np.dtype(layout))
    sent["columns"] = len(types)
    for name, type_ in types.items():
        sent[f"bytes of {name}"] = np.dtype(FIXED[type_]).itemsize
        sent[f"value of {name}"] = _counted(rows[name]).to_numpy()
    return HEADER + sent.tobytes() + END


def _counted(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.Datetime):
        return (values.cast(pl.Datetime("us", "UTC")) - EPOCH).dt.total_microseconds()
    return values
