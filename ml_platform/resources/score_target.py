"""Score targets: where answers are written in the company's database; made, checked and locked before anything runs.

A target `NAME` is three tables: `NAME` with the newest answer to every row, `NAME_rejected` with the rows that break
the model's schema and why, and `NAME_runs` with one row per scoring.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ml_platform.resources.source import Connection, SourceDatabase, name_parts

REJECTED, RUNS = "_rejected", "_runs"
# PostgreSQL cuts longer names off without an error, and two of the three tables could become one.
LONGEST_NAME = 63 - len(REJECTED)
LOCK_PATIENCE = "10s"
STAMP = {"model_version": "integer NOT NULL", "scored_at": "timestamp with time zone NOT NULL"}
FAULT = {"field": "text NOT NULL", "rule": "text NOT NULL", "value": "text"}
RUN = {
    "run": "bigint NOT NULL GENERATED ALWAYS AS IDENTITY",
    "model": "text NOT NULL",
    "model_version": "integer NOT NULL",
    "bundle": "text NOT NULL",
    "source": "text NOT NULL",
    "files": "text NOT NULL",
    "began_at": "timestamp with time zone NOT NULL",
    "progressed_at": "timestamp with time zone NOT NULL",
    "finished_at": "timestamp with time zone",
    "up_to": "text",
    "rows_scored": "bigint NOT NULL",
    "rows_rejected": "bigint NOT NULL",
}
ANOTHER = "name another table with --to (scoring.into in the spec)"
DESCRIBE = """
SELECT c.oid, nspname, relname, relkind::text, greatest(reltuples, 0)::bigint, pg_relation_filenode(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = to_regclass(%s)
"""
COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) || CASE WHEN attcollation = typcollation THEN ''
    ELSE ' COLLATE ' || attcollation::regcollation END
FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
PRIMARY_KEY = """
SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
WHERE indrelid = %s AND indisprimary
"""


class ScoreError(ValueError):
    """A scoring that cannot be done as asked; the message names the table, the column or the right, and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table or view as the catalog describes it, with the exact types of its columns.

    `rows` is what PostgreSQL's statistics say, 0 when they say nothing. `files` changes when the table is rewritten.
    """

    oid: int
    name: str
    kind: str
    rows: int
    files: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """The names of the three tables; the files behind the answers, and the types of their columns."""

    answers: sql.Identifier
    rejected: sql.Identifier
    runs: sql.Identifier
    files: str
    types: Mapping[str, str]


@contextmanager
def writing(source: SourceDatabase, into: str) -> Iterator[None]:
    """Turn what PostgreSQL says about a write into words with the remedy."""
    with source.asking(into):
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            msg = (
                f"{source.address} does not let its user write {into} ({error.diag.message_primary}): GRANT CREATE ON "
                f"SCHEMA, or SELECT, INSERT, UPDATE, DELETE on {into}, {into}{REJECTED} and {into}{RUNS} where they "
                f"are there already; or {ANOTHER}"
            )
            raise ScoreError(msg) from None
        except psycopg.errors.ReadOnlySqlTransaction:
            msg = f"{source.address} can only be read: name the primary server in ML_PLATFORM_SOURCE_URL"
            raise ScoreError(msg) from None
        except psycopg.errors.InvalidSchemaName as error:
            msg = f"{into}: {error.diag.message_primary}; CREATE SCHEMA first, or {ANOTHER}"
            raise ScoreError(msg) from None


def described(connection: Connection, table: str) -> Relation | None:
    """A table or view by its name, if there is one."""
    found = connection.execute(DESCRIBE, (_quoted(name_parts(table)),)).fetchone()
    if found is None:
        return None
    oid, schema, name, kind, rows, files = found
    columns = connection.execute(COLUMNS, (oid,)).fetchall()
    return Relation(
        oid=oid,
        name=_written([schema, name]),
        kind=kind,
        rows=rows,
        files=str(files),
        columns={str(column): str(type_) for column, type_ in columns},
    )


def prepared(connection: Connection, read: Relation, key: str, into: str, answer: Mapping[str, str]) -> Target:
    """The target's tables are there, empty or as an earlier scoring left them, and locked until the connection ends.

    Args:
        connection: in autocommit.
        read: the table that is scored.
        key: the column that identifies its rows.
        into: the target's name.
        answer: the columns of an answer with their types.

    Raises:
        ScoreError: when they are not, and cannot be.
    """
    names = _names(into)
    for name in names.values():
        there = described(connection, name)
        if there and there.oid == read.oid:
            msg = f"{read.name} cannot be read and written at once: {into} would take its place; {ANOTHER}"
            raise ScoreError(msg)
    if taken := {key} & {*answer, *STAMP, *FAULT}:
        msg = f"the key {taken.pop()} is called as a column of the answers: rename it in a view, and score that"
        raise ScoreError(msg)
    _lock(connection, into)
    key_column = {key: f"{read.columns[key]} NOT NULL"}
    stated = {column: f"{type_} NOT NULL" for column, type_ in answer.items()}
    with connection.transaction():
        answers = _ensure(connection, names[""], key_column | stated | STAMP, primary_key=key)
        _ensure(connection, names[REJECTED], key_column | FAULT | STAMP, index=key)
        _ensure(connection, names[RUNS], RUN, primary_key="run")
    quoted = [sql.Identifier(*name_parts(name)) for name in names.values()]
    return Target(quoted[0], quoted[1], quoted[2], answers.files, answers.columns)


def beside(into: str, suffix: str) -> str:
    """The name of a table beside the target."""
    *schema, name = name_parts(into)
    return _written([*schema, name + suffix])


def _names(into: str) -> dict[str, str]:
    parts = name_parts(into)
    if not 1 <= len(parts) <= 2 or len(parts[-1].encode()) > LONGEST_NAME:  # noqa: PLR2004 - schema and name
        msg = f"{into!r} cannot be a target: write TABLE or SCHEMA.TABLE, with at most {LONGEST_NAME} bytes of table"
        raise ScoreError(msg)
    return {suffix: beside(into, suffix) for suffix in ("", REJECTED, RUNS)}


def _lock(connection: Connection, into: str) -> None:
    """Nobody else scores into the target; a scoring that was killed lets go a moment later."""
    there = described(connection, into)
    schema = connection.execute("SELECT current_schema()").fetchone()
    name = there.name if there else _written([str((schema or [""])[0]), *name_parts(into)][-2:])
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_PATIENCE))
            connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"ml_platform scores {name}",))
    except psycopg.errors.LockNotAvailable:
        msg = f"another scoring is writing {into}: wait until it has ended, and try again"
        raise ScoreError(msg) from None


def _ensure(
    connection: Connection, table: str, columns: Mapping[str, str], *, primary_key: str = "", index: str = ""
) -> Relation:
    """A table with these columns is there, made if it was not."""
    there = described(connection, table)
    if there is None:
        _create(connection, table, columns, primary_key, index)
        there = described(connection, table)
    wanted = {column: re.sub(r" NOT NULL.*", "", type_) for column, type_ in columns.items()}
    if there is None or there.kind not in "rp" or there.columns != wanted:
        has, needs = (_listed(c) for c in (there.columns if there else {}, wanted))
        msg = f"{table} is there already, with other columns ({has}, not {needs}): drop or rename it, or {ANOTHER}"
        raise ScoreError(msg)
    keys = [str(column) for (column,) in connection.execute(PRIMARY_KEY, (there.oid,))]
    if primary_key and keys != [primary_key]:
        msg = f"{table} is there already, without {primary_key} as its primary key: add that, or {ANOTHER}"
        raise ScoreError(msg)
    return there


def _create(connection: Connection, table: str, columns: Mapping[str, str], primary_key: str, index: str) -> None:
    name = sql.Identifier(*name_parts(table))
    # The types are PostgreSQL's own words for them, or ours.
    parts = [sql.Identifier(column) + sql.SQL(f" {type_}") for column, type_ in columns.items()]
    if primary_key:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(sql.Identifier(primary_key)))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(parts)))
    if index:
        connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(name, sql.Identifier(index)))


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{column} {type_}" for column, type_ in columns.items())


def _quoted(parts: Sequence[str]) -> str:
    return ".".join('"{}"'.format(part.replace('"', '""')) for part in parts)


def _written(parts: Sequence[str]) -> str:
    """A name as people write it: quoted only where it must be."""
    return ".".join(part if re.fullmatch(r"\w+", part) else _quoted([part]) for part in parts)
