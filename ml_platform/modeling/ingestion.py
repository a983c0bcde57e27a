"""Ingestion, the pure part: which rows are still missing, and what a load changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import polars as pl
import pyarrow as pa

# Rows compared at once after a full sync; it bounds the memory of the comparison at about 200 MiB.
COMPARED_ROWS = 2_000_000
# PostgreSQL compares transaction ids within half of a circle of 2**32; some room for those that begin meanwhile.
HALF_CIRCLE = 2_000_000_000


class IngestionError(ValueError):
    """Source rows that cannot become a dataset; the message names the table, the column and the remedy."""


class Kind(StrEnum):
    """What a column holds in a dataset, whatever PostgreSQL calls it."""

    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"


ARROW: dict[Kind, pa.DataType] = {
    Kind.INTEGER: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.TEXT: pa.string(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
}
KINDS: dict[str, Kind] = {
    "smallint": Kind.INTEGER,
    "integer": Kind.INTEGER,
    "bigint": Kind.INTEGER,
    "real": Kind.NUMBER,
    "double precision": Kind.NUMBER,
    "numeric": Kind.NUMBER,
    "boolean": Kind.BOOLEAN,
    "date": Kind.DATE,
    "timestamp without time zone": Kind.TIME,
    "timestamp with time zone": Kind.TIME,
}
# Read as they are; PostgreSQL converts every other type in the query.
AS_STORED = frozenset({*KINDS, "text", "character varying"} - {"numeric"})


@dataclass(frozen=True)
class Column:
    """A column of the source: `type` is PostgreSQL's name of it, without length or precision."""

    name: str
    type: str
    nullable: bool = True

    @property
    def kind(self) -> Kind:
        """What it becomes in a dataset: text, unless there is something better."""
        return KINDS.get(self.type, Kind.TEXT)

    def cast(self, *, key: bool) -> str | None:
        """The type PostgreSQL must convert it to before sending; a decimal key becomes text, since float64 rounds."""
        if self.type in AS_STORED:
            return None
        return "float8" if self.kind is Kind.NUMBER and not key else "text"


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far a dataset has followed its table, in PostgreSQL's own terms.

    Every transaction below `xmin` (64 bits, so it never wraps) had ended when the rows were read: whatever a later
    read sees and this one did not carries a transaction id of `xmin` or above, however late it was committed.
    `server` names the cluster and its timeline, `table` the relation, `storage` the files behind it. `tracked` is
    False for views and foreign tables, whose rows carry no transaction id.
    """

    xmin: int
    server: str
    table: int
    storage: str
    tracked: bool
    columns: tuple[Column, ...]

    def dumps(self) -> str:
        """The cursor as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Cursor":
        """The cursor that `dumps` wrote."""
        values = json.loads(text)
        columns = tuple(Column(**column) for column in values.pop("columns"))
        return cls(columns=columns, **values)


def why_full(since: Cursor | None, now: Cursor) -> str | None:
    """Why all rows must be read instead of the changed ones; None when the changed ones are enough."""
    if since is None:
        return "first load"
    reasons = {
        "its rows carry no transaction id (a view, a foreign table or another storage engine)": not now.tracked,
        "the database was restored, failed over or replaced": since.server != now.server,
        "the table was dropped and created again": since.table != now.table,
        "its columns changed": _shape(since) != _shape(now),
        "the table was truncated or rewritten, or its partitions changed": since.storage != now.storage,
        "transaction ids went backwards": now.xmin < since.xmin,
        "the last load is over two billion transactions old": now.xmin - since.xmin >= HALF_CIRCLE,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _shape(cursor: Cursor) -> list[tuple[str, str]]:
    return [(column.name, column.type) for column in cursor.columns]


def schema_changes(before: Sequence[Column], after: Sequence[Column]) -> list[str]:
    """What happened to the columns, one sentence each."""
    old, new = {c.name: c.type for c in before}, {c.name: c.type for c in after}
    return [
        *(f"column {name} ({type_}) was added" for name, type_ in new.items() if name not in old),
        *(f"column {name} ({type_}) was removed" for name, type_ in old.items() if name not in new),
        *(f"column {name} was {old[name]}, is {new[name]}" for name in new if old.get(name, new[name]) != new[name]),
    ]


def arrow_schema(columns: Sequence[Column], key: str) -> pa.Schema:
    """The dataset's schema: every column nullable, so that a relaxed constraint changes nothing."""
    return pa.schema(
        [(c.name, pa.string() if c.name == key and c.cast(key=True) else ARROW[c.kind]) for c in columns],
    )


@dataclass(frozen=True)
class Changes:
    """How many rows a load added, changed and removed."""

    new: int = 0
    updated: int = 0
    deleted: int = 0


def compare(before: pl.LazyFrame, after: pl.LazyFrame, key: str, rows: int) -> Changes:
    """How two versions of a dataset of about `rows` rows differ, by key and content.

    Columns that only one of them has, or that changed their type, are not compared. Works in slices of the keys, so
    memory stays bounded while the table grows.
    """
    old, new = before.collect_schema(), after.collect_schema()
    if old[key] != new[key]:
        before = before.with_columns(pl.col(key).cast(new[key], strict=False))
    shared = [name for name in new if name != key and old.get(name) == new[name]]
    slices = 1 + rows // COMPARED_ROWS
    counted = [_compare_slice(before, after, key, shared, (part, slices)) for part in range(slices)]
    return Changes(
        new=sum(c.new for c in counted),
        updated=sum(c.updated for c in counted),
        deleted=sum(c.deleted for c in counted),
    )


def _compare_slice(
    before: pl.LazyFrame, after: pl.LazyFrame, key: str, shared: list[str], part: tuple[int, int]
) -> Changes:
    def digest(frame: pl.LazyFrame) -> pl.LazyFrame:
        content = pl.struct(shared).hash() if shared else pl.lit(0, dtype=pl.UInt64)
        mine = pl.col(key).hash() % part[1] == part[0]
        return frame.filter(mine).select(pl.col(key).alias("key"), content.alias("content"))

    joined = digest(before).join(digest(after), on="key", how="full", suffix="_new", coalesce=False)
    counted = joined.select(
        new=pl.col("key").is_null().sum(),
        updated=(pl.col("content") != pl.col("content_new")).sum(),
        deleted=pl.col("key_new").is_null().sum(),
    ).collect(engine="streaming")
    return Changes(**counted.row(0, named=True))


def differing(stored: pl.DataFrame, pulled: pl.DataFrame, key: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The pulled rows that the dataset has not at all, and those it has with another content.

    `stored` holds the dataset's rows with the pulled keys, in the same columns.
    """
    new = pulled.join(stored, on=key, how="anti")
    both = pulled.join(stored, on=key, how="inner", suffix=" stored")
    content = [name for name in pulled.columns if name != key]
    moved = pl.any_horizontal([pl.lit(value=False), *(pl.col(c).ne_missing(pl.col(f"{c} stored")) for c in content)])
    return new, both.filter(moved).select(pulled.columns)
