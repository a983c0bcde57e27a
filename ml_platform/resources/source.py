"""The source door: the company's PostgreSQL, from which models learn; only score tables are ever written in it."""

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import adbc_driver_manager
import dagster as dg
import psycopg
import pyarrow as pa
import sqlalchemy
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ml_platform.modeling.ingestion import Column, Cursor, why_full
from ml_platform.modeling.spec import PostgresTable
from ml_platform.resources.snapshot_reader import IMPORT, SnapshotReader
from ml_platform.resources.unavailable import UnavailableError

# A peer that vanished is noticed within a minute or two instead of never; what the URL says itself goes first.
DIALLING = {"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "tcp_user_timeout": "90000"}
PAGE_BYTES = 8192
# The first PostgreSQL that finds a range of pages without looking at the others.
TID_RANGES = 140_000
# A range is big enough to cost nothing to begin, small enough that the connections finish together.
RANGE_PAGES = 8192
# A packed range is memory on both sides: 2 MiB, and below PostgreSQL's bound of 1 GiB however well rows are compressed.
PACKED_PAGES = 256
# A query may answer with 1,664 columns, and a packed one needs two for each that has NULLs.
PACKED_COLUMNS = 800
# Lost, shutting down, out of connections or out of locks: PostgreSQL's error classes that another try may cure.
PASSING = ("08", "53", "57P", "40")
LOST = re.compile("connection|server closed|shutting down|starting up|could not (send|receive)|time ?out|recovery|SSL")
WHOLE = frozenset({"smallint", "integer", "bigint"})
WHOLE_KEY = re.compile(r"-?[0-9]{1,18}")

Connection = psycopg.Connection[tuple[Any, ...]]


class SourceError(ValueError):
    """The source has not what the spec asks for; the message names the table or column and the remedy."""


class SourceUnavailableError(UnavailableError):
    """The source database cannot be reached or went away; trying again may help."""


@dataclass
class Pull:
    """Rows of one snapshot of one table, ready to be read.

    `cursor` is where the next pull starts. `full_reason` says why all rows are read; None when only those that
    changed since the given cursor are.
    """

    cursor: Cursor
    full_reason: str | None
    schema: pa.Schema
    _reader: SnapshotReader = field(repr=False)
    _changed: list[sql.Composable] = field(repr=False)
    _all: list[sql.Composable] = field(repr=False)
    _by_key: Callable[[str | None], sql.Composable] = field(repr=False)

    def changed(self) -> Iterator[pa.RecordBatch]:
        """The rows that changed since the given cursor, and perhaps a few that did not."""
        return self._reader.read(self._changed)

    def everything(self) -> Iterator[pa.RecordBatch]:
        """All rows, in no particular order."""
        return self._reader.read(self._all)

    def by_key(self, after: str | None = None) -> Iterator[pa.RecordBatch]:
        """All rows by ascending key, as PostgreSQL sorts it; with `after`, those with a greater key than this one."""
        return self._reader.read([self._by_key(after)], is_sorted=True)


class SourceDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The company's PostgreSQL (13 or newer); `url` is `postgresql://user:password@host:port/database`."""

    url: str

    def __repr__(self) -> str:
        """The address without the password."""
        return f"SourceDatabase({self.address})"

    __str__ = __repr__

    @property
    def address(self) -> str:
        """The address without the password, for messages."""
        return _address(self.url)

    def columns(self, table: str) -> list[Column]:
        """The table's columns, in the table's order.

        Raises:
            SourceError: when there is no such table.
            SourceUnavailableError: when the database cannot be reached.
        """
        with self.asking(table), self._pooled() as connection:
            return list(_columns(connection, _find(connection, table).oid))

    def count_changed(self, table: PostgresTable, since: Cursor | None, after: datetime | None, at_most: int) -> int:
        """How many rows, `at_most` at most, were inserted or updated since an ingestion.

        By `changed_at` later than `after`, the ingestion's watermark, where the table has one; else by PostgreSQL's
        transaction ids since its cursor. Without either, or when the table was replaced meanwhile, every row counts.
        """
        with self.asking(table.table), self._pooled() as connection:
            relation = _find(connection, table.table)
            condition: sql.Composable = sql.SQL("true")
            if table.changed_at and after:
                _require(table.table, _columns(connection, relation.oid), {"source.changed_at": table.changed_at})
                condition = sql.SQL("{} > {}").format(sql.Identifier(table.changed_at), after)
            elif since and relation.tracked and _comparable(connection, since, relation):
                condition = _since(since)
            query = sql.SQL("SELECT count(*) FROM (SELECT 1 FROM {} WHERE {} LIMIT {}) changed")
            (count,) = _one(connection, query.format(identifier(table.table), condition, at_most))
            return int(count)

    def rows_of(self, table: PostgresTable, keys: Sequence[str], columns: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """The values of some columns, as they are now, by the keys as given; keys that no row has are left out.

        A key that is no whole number, or one too large, is in no table that is keyed by whole numbers.

        Raises:
            SourceError: when the table or a column is not there.
            SourceUnavailableError: when the database cannot be reached.
        """
        with self.asking(table.table), self._pooled() as connection:
            there = _columns(connection, _find(connection, table.table).oid)
            _require(table.table, there, {f"column {name}": name for name in (table.key, *columns)})
            is_whole = next(c for c in there if c.name == table.key).type in WHOLE
            given = [key for key in keys if WHOLE_KEY.fullmatch(key)] if is_whole else list(keys)
            # Compared in the table's own type, so that its index serves; other types only as text.
            same = sql.SQL("source.{} = given.key::bigint" if is_whole else "source.{}::text = given.key")
            query = sql.SQL(
                "SELECT given.key, {} FROM unnest(%s::text[]) AS given (key) JOIN {} AS source ON {}"
            ).format(
                sql.SQL(", ").join(sql.Identifier("source", name) for name in columns),
                identifier(table.table),
                same.format(sql.Identifier(table.key)),
            )
            return {key: tuple(values) for key, *values in connection.execute(query, (given,))}

    @contextmanager
    def pull(self, table: PostgresTable, since: Cursor | None, columns: Sequence[str] | None = None) -> Iterator[Pull]:
        """One snapshot of the table, open while the block runs.

        Every row whose transaction was not yet visible to the snapshot of `since` is among the changed ones: late
        commits and subtransactions included. `columns` leaves out the others; the key is always read.

        Raises:
            SourceError: a wrong table or column, no permission, NULL or duplicate keys.
            SourceUnavailableError: when the database cannot be reached or goes away meanwhile.
        """
        reader: SnapshotReader | None = None
        with self.asking(table.table):
            try:
                with closing(self.connected()) as connection, _snapshot(connection, table.table) as (server, snapshot):
                    relation = _find(connection, table.table)
                    wanted = _wanted(table, _columns(connection, relation.oid), columns)
                    cursor = _position(connection, server, relation, wanted)
                    _check_key(connection, table, relation)
                    packed = relation.inline and len(wanted) <= PACKED_COLUMNS
                    reader = SnapshotReader(_dialled(self.url), snapshot, wanted, table.key, packed=packed)
                    reason = why_full(since, cursor)
                    step = PACKED_PAGES if packed else RANGE_PAGES
                    every = _ranges(table, relation, None, step)
                    some = [] if reason else _ranges(table, relation, since, step)
                    by_key = functools.partial(_rows_by_key, table)
                    yield Pull(cursor, reason, reader.schema, reader, some, every, by_key)
            except Exception:
                if reader is not None and reader.failure is not None:
                    # The writer saw only that the stream broke; the reader knows why.
                    raise _explained(reader.failure, self.url, table.table) from None
                raise
            finally:
                if reader is not None:
                    reader.close()

    @contextmanager
    def asking(self, table: str) -> Iterator[None]:
        """Turn what the drivers raise into our two errors, without the password."""
        try:
            yield
        except (psycopg.Error, sqlalchemy.exc.DBAPIError, adbc_driver_manager.Error) as error:
            raise _explained(error, self.url, table) from None

    @contextmanager
    def _pooled(self) -> Iterator[Connection]:
        """A connection of this process's pool, in autocommit: for short questions."""
        pooled = _engine(self.url, os.getpid()).raw_connection()
        try:
            yield cast("Connection", pooled.driver_connection)
        finally:
            pooled.close()

    def connected(self) -> Connection:
        """A connection of its own, in autocommit: for transactions that last as long as a load."""
        return psycopg.connect(_dialled(self.url), autocommit=True)


@functools.lru_cache(maxsize=8)
def _engine(url: str, pid: int) -> sqlalchemy.Engine:  # noqa: ARG001 - a forked child must not use its parent's sockets
    # The driver reads the URL itself: SQLAlchemy would refuse one with several hosts.
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(_dialled(url), autocommit=True),
        isolation_level="AUTOCOMMIT",
        pool_size=2,
        max_overflow=8,
        pool_pre_ping=True,
        pool_recycle=600,
    )


def _dialled(url: str) -> str:
    return make_conninfo("", **{**DIALLING, **conninfo_to_dict(url)})


def _address(url: str) -> str:
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{login.partition(':')[0]}{at}{hosts}", parts.path, "", ""))


def _without_password(text: str, url: str) -> str:
    parts = urlsplit(url)
    written = parts.netloc.rpartition("@")[0].partition(":")[2]
    secrets = {url, written, unquote(written), *parse_qs(parts.query).get("password", [])} - {""}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _explained(error: Exception, url: str, table: str) -> SourceError | SourceUnavailableError:
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig else error
    state = getattr(cause, "sqlstate", None) or ""
    said = _without_password(str(cause), url)
    address = _address(url)
    if "authentication failed" in said or state.startswith("28"):
        return SourceError(f"{address} refuses the user or the password: correct ML_PLATFORM_SOURCE_URL ({said})")
    if re.search(r'database ".*" does not exist', said):
        return SourceError(f"{address} does not exist: correct the database in ML_PLATFORM_SOURCE_URL")
    if state == "42501":
        return SourceError(f"table {table}: {said}; have its owner GRANT SELECT on it to {urlsplit(url).username}")
    if state.startswith(PASSING) or IMPORT in said or (not state and _looks_lost(cause, said)):
        return SourceUnavailableError(f"the source database {address} cannot be reached: {said}")
    return SourceError(f"table {table} in {address}: {said}")


def _looks_lost(error: Exception, said: str) -> bool:
    """Without PostgreSQL's code, as from the middle of a stream, only the words tell."""
    return isinstance(error, psycopg.OperationalError | adbc_driver_manager.OperationalError) or bool(LOST.search(said))


def _one(connection: Connection, query: sql.SQL | sql.Composed, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query, values or None).fetchone()
    if row is None:
        msg = "PostgreSQL answered with no row"
        raise SourceError(msg)
    return row


def name_parts(table: str) -> list[str]:
    """The parts of `loans`, `risk.loans` or, with a dot or a quote in a name, `risk."odd.name"`."""
    return [quoted.replace('""', '"') or plain for quoted, plain in re.findall(r'"((?:[^"]|"")+)"|([^."]+)', table)]


def identifier(table: str) -> sql.Identifier:
    """The table's name, quoted; case matters."""
    return sql.Identifier(*name_parts(table))


@dataclass(frozen=True)
class _Relation:
    """What the catalog says about the table.

    `pages` is None where they cannot be read in ranges; `inline` says that they can, and hold every value whole.
    """

    oid: int
    kind: str
    storage: str
    tracked: bool
    pages: int | None
    inline: bool


TREE = sql.SQL("""
WITH RECURSIVE tree AS (
    SELECT %s::oid AS oid UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
)
SELECT md5(string_agg(c.oid || '/' || c.relfilenode, ' ' ORDER BY c.oid)),
       bool_and(c.relkind = 'p' OR c.relkind = 'r' AND coalesce(am.amname, '') = 'heap'),
       count(*),
       pg_relation_size(%s::oid),
       coalesce(sum(pg_relation_size(nullif(c.reltoastrelid, 0))), 0)
FROM tree JOIN pg_class c ON c.oid = tree.oid LEFT JOIN pg_am am ON am.oid = c.relam
""")


TABLES = sql.SQL("""
SELECT CASE WHEN pg_table_is_visible(oid) THEN relname ELSE relnamespace::regnamespace || '.' || relname END
FROM pg_class WHERE relkind::text = ANY(%s)
AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 1
""")
TIMELINE = """
SELECT CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
"""


def _find(connection: Connection, table: str) -> _Relation:
    named = identifier(table).as_string(connection)
    row = connection.execute(
        "SELECT oid, relkind::text FROM pg_class WHERE oid = to_regclass(%s) AND relkind::text = ANY(%s)",
        (named, list("rpvmf")),
    ).fetchone()
    if row is None:
        there = [str(name) for (name,) in connection.execute(TABLES, (list("rpvmf"),))]
        msg = f"there is no table {table} in the source database: correct source.table{_near(table, there)}"
        raise SourceError(msg)
    oid, kind = int(row[0]), str(row[1])
    storage, heap, parts, size, outside = _one(connection, TREE, oid, oid)
    ranged = kind == "r" and parts == 1 and bool(heap) and connection.info.server_version >= TID_RANGES
    pages = int(size) // PAGE_BYTES if ranged else None
    return _Relation(oid, kind, str(storage), bool(heap), pages, inline=ranged and outside == 0)


def _near(wrong: str, there: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, there, n=3) or there[:10]
    return f" (there is {', '.join(close)})" if close else " (it has none that this user may see)"


def _columns(connection: Connection, oid: int) -> tuple[Column, ...]:
    """The columns with their types; a domain counts as what it is made of."""
    rows = connection.execute(
        """
        WITH RECURSIVE base AS (
            SELECT attnum, attname, attnotnull, atttypid AS type FROM pg_attribute
            WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
            UNION ALL
            SELECT attnum, attname, attnotnull, typbasetype FROM base JOIN pg_type t ON t.oid = base.type
            WHERE typtype = 'd'
        )
        SELECT attname, format_type(type, NULL), NOT attnotnull FROM base JOIN pg_type t ON t.oid = base.type
        WHERE typtype <> 'd' ORDER BY attnum
        """,
        (oid,),
    )
    return tuple(Column(str(name), str(type_), bool(nullable)) for name, type_, nullable in rows)


def _require(table: str, there: Sequence[Column], wanted: dict[str, str]) -> None:
    names = [column.name for column in there]
    for where, name in wanted.items():
        if name not in names:
            msg = f"table {table} has no column {name}: correct {where}{_near(name, names)}"
            raise SourceError(msg)


def _wanted(table: PostgresTable, there: Sequence[Column], only: Sequence[str] | None) -> tuple[Column, ...]:
    """The columns to read: all, or those asked for and the key."""
    named = {"source.key": table.key, "source.changed_at": table.changed_at, "source.event_time": table.event_time}
    _require(table.table, there, {where: name for where, name in named.items() if name})
    if only is None:
        return tuple(there)
    _require(table.table, there, {f"column {name}": name for name in only})
    return tuple(column for column in there if column.name in {*only, table.key})


@contextmanager
def _snapshot(connection: Connection, table: str) -> Iterator[tuple[str, str]]:
    """A read-only transaction that sees one moment: the server's identity, and the snapshot's name for others.

    The table is locked against truncation and change first: these would show through a snapshot taken before.
    """
    server = _server(connection)
    relation = _find(connection, table)
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        if relation.kind in "rp":
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(identifier(table)))
        yield server, str(_one(connection, sql.SQL("SELECT pg_export_snapshot()"))[0])
    finally:
        # A connection lost after the last row took nothing away.
        with suppress(psycopg.OperationalError):
            connection.execute("ROLLBACK")


def _server(connection: Connection) -> str:
    """Which cluster this is, on which timeline: a restored or promoted copy is another one."""
    cluster = _tolerant(connection, "SELECT system_identifier FROM pg_control_system()")
    return f"{cluster}/{_tolerant(connection, TIMELINE)}"


def _tolerant(connection: Connection, question: str) -> object:
    try:
        return _one(connection, sql.SQL(question))[0]
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
        return "unknown"


def _position(connection: Connection, server: str, relation: _Relation, columns: tuple[Column, ...]) -> Cursor:
    (xmin,) = _one(connection, sql.SQL("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
    return Cursor(
        xmin=int(xmin),
        server=server,
        table=relation.oid,
        storage=relation.storage,
        tracked=relation.tracked,
        columns=columns,
    )


def _comparable(connection: Connection, since: Cursor, relation: _Relation) -> bool:
    """Whether the table is still the one the cursor belongs to, so that transaction ids mean the same."""
    now = _position(connection, _server(connection), relation, since.columns)
    return why_full(since, now) is None


def _since(cursor: Cursor) -> sql.Composable:
    """Rows written by the cursor's xmin or a later transaction.

    `age` is the distance from the newest transaction id on PostgreSQL's circle of 32-bit ids, so it needs no epoch.
    Rows older than half the circle look young and are read again, which is harmless.
    """
    return sql.SQL("age(xmin) <= (SELECT age({}::xid))").format(str(cursor.xmin % 2**32))


def _check_key(connection: Connection, table: PostgresTable, relation: _Relation) -> None:
    """No row lacks a key and no two share one. Free when the table promises it itself."""
    promised = _one(
        connection,
        sql.SQL("""
        SELECT attnotnull, EXISTS (
            SELECT 1 FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid AND indimmediate
            AND indnkeyatts = 1 AND indkey[0] = attnum AND indpred IS NULL
        ) FROM pg_attribute WHERE attrelid = %s AND attname = %s
        """),
        relation.oid,
        table.key,
    )
    names = {"table": identifier(table.table), "key": sql.Identifier(table.key)}
    checks = (
        ("rows without one", "SELECT count(*) FROM {table} WHERE {key} IS NULL"),
        (
            "values that several rows share",
            "SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1) d",
        ),
    )
    for kept, (fault, query) in zip(promised, checks, strict=True):
        count = 0 if kept else _one(connection, sql.SQL(query).format(**names))[0]
        if count:
            msg = (
                f"table {table.table}, key {table.key}: {count} {fault}; choose another source.key,"
                " or clean the rows and add a primary key"
            )
            raise SourceError(msg)


def _ranges(table: PostgresTable, relation: _Relation, since: Cursor | None, step: int) -> list[sql.Composable]:
    """`FROM ... WHERE ...` for every `step` pages of the table, together all its rows; one when it has no pages."""
    condition = _since(since) if since else sql.SQL("true")
    base = sql.SQL("FROM {} WHERE {}").format(identifier(table.table), condition)
    if not relation.pages:
        return [base]
    starts = range(0, relation.pages, step)
    ranges = [sql.SQL(" AND ctid >= {}::tid").format(f"({start},0)") for start in starts]
    ends: list[sql.Composable] = [sql.SQL(" AND ctid < {}::tid").format(f"({start},0)") for start in starts[1:]]
    ends.append(sql.SQL(""))  # The last range is open: the table may have grown since it was measured.
    return [base + low + high for low, high in zip(ranges, ends, strict=True)]


def _rows_by_key(table: PostgresTable, after: str | None) -> sql.Composable:
    """`FROM ... WHERE ...` for the rows after a key, sorted by it."""
    # The alias keeps the key of the table apart from the column of the answer, which may have been converted to text.
    key = sql.Identifier("source", table.key)
    rest = sql.SQL("{} > {}").format(key, after) if after is not None else sql.SQL("true")
    return sql.SQL("FROM {} AS source WHERE {} ORDER BY {}").format(identifier(table.table), rest, key)
