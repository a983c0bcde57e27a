"""The source table as a careful colleague first looks at it: its columns, key and size, and a sample of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import psycopg
import pyarrow as pa
from psycopg import sql

from ml_platform.modeling.ingestion import KINDS, Column, Kind, arrow_schema
from ml_platform.resources.source import Connection, SourceDatabase, SourceError
from ml_platform.resources.unavailable import UnavailableError

SAMPLE_ROWS = 20_000
TEXTS = frozenset({"text", "character varying", "character", "bpchar", "citext", "name", "uuid"})


class ScaffoldError(ValueError):
    """Why no folder was written; the message is one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class SourceColumn:
    """A column of the source with the values of the sample, in the type it will have in a dataset.

    `usable` is False for types that hold no single number, text or time, such as json.
    """

    name: str
    type: str
    kind: Kind
    usable: bool
    nullable: bool
    comment: str
    values: pl.Series

    @property
    def known(self) -> pl.Series:
        """The values that are not missing."""
        values = self.values.fill_nan(None) if self.values.dtype.is_float() else self.values
        return values.drop_nulls()

    @property
    def distinct(self) -> list[object]:
        """The different values, in order."""
        return self.known.unique().sort().to_list()

    @property
    def missing(self) -> float:
        """Share of rows without a value."""
        return 1 - len(self.known) / len(self.values)


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table of the source: the columns hold a sample of its `rows`, and `key` is its primary key, if it has one."""

    name: str
    rows: int
    key: str | None
    columns: tuple[SourceColumn, ...]

    @property
    def sample(self) -> pl.DataFrame:
        """The sampled rows."""
        return pl.DataFrame([column.values for column in self.columns])

    @property
    def is_whole(self) -> bool:
        """Whether the sample is all there is."""
        return len(self.columns[0].values) == self.rows


def read_table(url: str, table: str, key: str | None) -> SourceTable:
    """Look at a table. `key` is the column chosen to identify rows; without one the primary key does.

    Raises:
        ScaffoldError: when there is no such table, it is empty, or the database does not answer.
    """
    if '"' in table:
        msg = f"--from {table}: names with quotes are not supported; give a view with a plain name"
        raise ScaffoldError(msg)
    try:
        columns = SourceDatabase(url=url).columns(table)
        with psycopg.connect(url, connect_timeout=10) as connection:
            return _read(connection, table, columns, key)
    except (SourceError, UnavailableError) as error:
        raise ScaffoldError(str(error).replace("source.table", "--from")) from None
    except psycopg.errors.InsufficientPrivilege as error:
        msg = f"table {table}: {error.diag.message_primary}; have its owner GRANT SELECT on it to this user"
        raise ScaffoldError(msg) from None
    except psycopg.Error as error:
        msg = f"table {table}: {' '.join(str(error).split())}; correct the rows or give a view without them"
        raise ScaffoldError(msg) from None


def _read(connection: Connection, table: str, columns: Sequence[Column], key: str | None) -> SourceTable:
    named = sql.Identifier(*table.split("."))
    facts = _facts(connection, named)
    primary = next((name for name, (_, _, is_key) in facts.items() if is_key), None)
    rows = _count(connection, named)
    if rows == 0:
        msg = f"table {table} has no rows to learn from: load some first, then run new-model again"
        raise ScaffoldError(msg)
    sample = _sample(connection, named, columns, key or primary or "", rows)
    return SourceTable(
        name=table,
        rows=rows,
        key=primary,
        columns=tuple(
            SourceColumn(
                name=column.name,
                type=column.type,
                kind=column.kind,
                usable=column.type in TEXTS or column.type in KINDS or is_enum,
                nullable=column.nullable,
                comment=" ".join(comment.split()),
                values=sample[column.name],
            )
            for column in columns
            for is_enum, comment, _ in [facts[column.name]]
        ),
    )


def _facts(connection: Connection, table: sql.Identifier) -> dict[str, tuple[bool, str, bool]]:
    """Of each column: whether it is an enumeration, its comment, and whether it alone is the primary key."""
    rows = connection.execute(
        """
        SELECT attname, typtype = 'e', coalesce(col_description(attrelid, attnum), ''), EXISTS (
            SELECT 1 FROM pg_index WHERE indrelid = attrelid AND indisprimary AND indnkeyatts = 1 AND indkey[0] = attnum
        )
        FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
        """,
        (table.as_string(connection),),
    )
    return {str(name): (bool(is_enum), str(comment), bool(is_key)) for name, is_enum, comment, is_key in rows}


def _count(connection: Connection, table: sql.Identifier) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    return int(str(row[0])) if row else 0


def _sample(
    connection: Connection, table: sql.Identifier, columns: Sequence[Column], key: str, rows: int
) -> pl.DataFrame:
    """All rows, or about `SAMPLE_ROWS` of them from everywhere in the table."""
    names = [sql.Identifier(column.name) for column in columns]
    casts = [column.cast(key=column.name == key) for column in columns]
    selected = [
        sql.SQL("{}::{}").format(name, sql.SQL(cast)) if cast else name for name, cast in zip(names, casts, strict=True)
    ]
    query = sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
        sql.SQL(", ").join(selected),
        table,
        sql.SQL("random() < {}").format(1.1 * SAMPLE_ROWS / rows) if rows > SAMPLE_ROWS else sql.SQL("true"),
        max(SAMPLE_ROWS, 1),
    )
    connection.execute("SELECT setseed(0.5)")
    found = connection.execute(query).fetchall()
    schema = arrow_schema(columns, key)
    arrays = [pa.array([row[i] for row in found], kind.type) for i, kind in enumerate(schema)]
    frame = pl.from_arrow(pa.Table.from_arrays(arrays, schema=schema))
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
