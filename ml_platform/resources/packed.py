"""The fast wire of the source door: PostgreSQL packs a range of rows into one string of bytes per column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
from psycopg import sql

from ml_platform.modeling.ingestion import Column, Kind

Connection = psycopg.Connection[tuple[Any, ...]]

# By the type that is sent: PostgreSQL's function that gives a value's bytes, and NumPy's name for them.
FIXED = {
    "smallint": ("int2send", ">i2"),
    "integer": ("int4send", ">i4"),
    "bigint": ("int8send", ">i8"),
    "real": ("float4send", ">f4"),
    "float8": ("float8send", ">f8"),
    "double precision": ("float8send", ">f8"),
    "boolean": ("boolsend", "?"),
    "date": ("date_send", ">i4"),
    "timestamp without time zone": ("timestamp_send", ">i8"),
    "timestamp with time zone": ("timestamptz_send", ">i8"),
}
# What the bytes become, and how far PostgreSQL's calendar, which begins with 2000, is behind Arrow's.
NATIVE = {
    Kind.INTEGER: ("i8", 0),
    Kind.NUMBER: ("f8", 0),
    Kind.BOOLEAN: ("?", 0),
    Kind.DATE: ("i4", 10_957),
    Kind.TIME: ("i8", 946_684_800_000_000),
}
# The only byte that no text in PostgreSQL holds.
SEPARATOR = b"\0"


@dataclass(frozen=True)
class Packing:
    """How the rows of one table travel, a column at a time.

    The aggregates of one query see the rows in one order, so what they gather fits together. They leave NULLs out:
    a column that has too few values is added to `gaps` and asked for again, from then on with a flag for every row.
    """

    columns: Sequence[Column]
    key: str
    schema: pa.Schema

    def read(self, connection: Connection, rows: sql.Composable, gaps: set[str]) -> pa.RecordBatch:
        """The rows of `FROM ... WHERE ...`, which must be few enough for memory, the server's included."""
        flagged = [column.name for column in self.columns if column.name in gaps]
        wanted = [sql.SQL("count(*)"), *(self._packed(column) for column in self.columns), *map(_flag, flagged)]
        query = sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(wanted), rows)
        count, *strings = connection.cursor(binary=True).execute(query).fetchall()[0]
        columns = [self._unpacked(column, raw) for column, raw in zip(self.columns, strings, strict=False)]
        flags = (np.frombuffer(raw or b"", np.bool_) for raw in strings[len(columns) :])
        missing = dict(zip(flagged, flags, strict=True))
        arrays = [
            _spread(array, missing[field.name]) if field.name in missing else array
            for array, field in zip(columns, self.schema, strict=True)
        ]
        short = {field.name for array, field in zip(arrays, self.schema, strict=True) if len(array) != count}
        if short:
            gaps |= short
            return self.read(connection, rows, gaps)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _sent(self, column: Column) -> str:
        return column.cast(key=column.name == self.key) or column.type

    def _packed(self, column: Column) -> sql.Composable:
        name, sent = sql.Identifier(column.name), self._sent(column)
        if sent in FIXED:
            return sql.SQL("string_agg({}({}::{}), '')").format(sql.SQL(FIXED[sent][0]), name, sql.SQL(sent))
        return sql.SQL("string_agg(textsend({}::text), {})").format(name, SEPARATOR)

    def _unpacked(self, column: Column, raw: bytes | None) -> pa.Array:
        """The values that are there."""
        sent = self._sent(column)
        if sent not in FIXED:
            return _texts(raw)
        native, behind = NATIVE[column.kind]
        values = np.frombuffer(raw or b"", FIXED[sent][1]).astype(native)
        return pa.array(values + behind if behind else values).cast(self.schema.field(column.name).type)


def _texts(raw: bytes | None) -> pa.Array:
    if raw is None:
        return pa.array([], pa.string())
    ends = np.flatnonzero(np.frombuffer(raw, np.uint8) == 0)
    data = raw.replace(SEPARATOR, b"")
    offsets = np.concatenate([[0], ends - np.arange(len(ends)), [len(data)]]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _flag(name: str) -> sql.Composable:
    """One byte for every row: whether the value is missing."""
    return sql.SQL("string_agg(CASE WHEN {} IS NULL THEN {} ELSE {} END, '')").format(
        sql.Identifier(name), b"\1", b"\0"
    )


def _spread(values: pa.Array, missing: npt.NDArray[np.bool_]) -> pa.Array:
    """The values in their places, NULL between them."""
    return values.take(pa.array(np.cumsum(~missing) - 1, mask=missing))
