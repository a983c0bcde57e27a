"""The door to score tables: answers, rejected rows and progress, committed together, a range of keys at a time.

A scoring goes by ascending key. Whatever the target held for a range of keys is replaced in one transaction, so that
changed, rejected and deleted rows need no cases of their own, and a scoring that is killed loses one range at most.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from psycopg import sql
from psycopg.rows import dict_row

from ml_platform.modeling import binary_rows
from ml_platform.modeling.answers import Answers
from ml_platform.resources.score_target import ANOTHER, ScoreError, Target, described, prepared, writing
from ml_platform.resources.source import Connection, SourceDatabase


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a scoring is about; an interrupted one is continued only by the same.

    `source` is the table's full name. `files` names the files behind it and behind the target: they change when either
    is emptied, rewritten or replaced.
    """

    model: str
    model_version: int
    bundle: str
    source: str
    files: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a scoring is: every row up to the key `up_to` is done; None where none is."""

    run: int
    up_to: str | None
    rows_scored: int
    rows_rejected: int

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return self.rows_scored + self.rows_rejected


class ScoreTables:
    """The tables of one target, for one scoring at a time; `opened` gives them."""

    def __init__(self, connection: Connection, source: SourceDatabase, into: str, key: str, target: Target) -> None:
        """Keep what is needed to write; `connection` holds the target's lock and is in autocommit."""
        self._connection = connection
        self._source = source
        self._into = into
        self._key = sql.Identifier(key)
        self._target = target

    @property
    def files(self) -> str:
        """The files behind the answers."""
        return self._target.files

    def begin(self, work: Work, now: datetime, *, continue_within: timedelta, anew: bool) -> Progress:
        """The scoring is on the list, or was found there, unfinished and fresh enough to be continued.

        Raises:
            ScoreError: when the target holds the answers of another model or to another table.
        """
        with writing(self._source, self._into):
            last = self._last_run()
            if last and (last["model"], last["source"]) != (work.model, work.source):
                msg = f"{self._into} holds the answers of {last['model']} to {last['source']}: drop it, or {ANOTHER}"
                raise ScoreError(msg)
            if last and not anew and _is_open(last, work, now - continue_within):
                return Progress(**{name: last[name] for name in ("run", "up_to", "rows_scored", "rows_rejected")})
            values = asdict(work) | {"began_at": now, "progressed_at": now, "rows_scored": 0, "rows_rejected": 0}
            insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING run").format(
                self._target.runs,
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(", ").join(map(sql.Literal, values.values())),
            )
            ((run,),) = self._connection.execute(insert).fetchall()
            return Progress(run=run, up_to=None, rows_scored=0, rows_rejected=0)

    def write(self, before: Progress, answers: Answers, version: int, scored_at: datetime, now: datetime) -> Progress:
        """The answers stand in place of all earlier ones up to their last key, and the scoring is that far."""
        after = replace(
            before,
            up_to=answers.last,
            rows_scored=before.rows_scored + len(answers.scored),
            rows_rejected=before.rows_rejected + answers.rows_rejected,
        )
        stamp = [pl.lit(version).alias("model_version"), pl.lit(scored_at).alias("scored_at")]
        with writing(self._source, self._into), self._connection.transaction():
            self._forget(before.up_to, answers.last)
            self._copy(self._target.answers, answers.scored.with_columns(stamp), self._target.types)
            self._copy(self._target.rejected, answers.rejected.with_columns(stamp))
            self._note(after.run, asdict(after) | {"progressed_at": now})
        return after

    def finish(self, progress: Progress, now: datetime) -> None:
        """The scoring is finished, and nothing is left of rows beyond its last one."""
        with writing(self._source, self._into), self._connection.transaction():
            self._forget(progress.up_to, None)
            self._note(progress.run, {"finished_at": now})

    def sample(self, column: str, of_rows: int, most: int) -> list[Any]:
        """All values of an answer's column, or about `most` of them from pages that PostgreSQL picks."""
        share = min(100.0, 100.0 * most / max(of_rows, 1))
        query = sql.SQL("SELECT {} FROM {} TABLESAMPLE SYSTEM ({})")
        with writing(self._source, self._into):
            rows = self._connection.execute(query.format(sql.Identifier(column), self._target.answers, share))
            return [value for (value,) in rows]

    def _last_run(self) -> dict[str, Any] | None:
        query = sql.SQL("SELECT * FROM {} ORDER BY run DESC LIMIT 1").format(self._target.runs)
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query).fetchone()

    def _forget(self, low: str | None, high: str | None) -> None:
        """No answer or rejection is left of keys above `low` and up to `high`; None is without end."""
        bounds = [sql.SQL("{} > {}").format(self._key, low)] if low is not None else []
        bounds += [sql.SQL("{} <= {}").format(self._key, high)] if high is not None else []
        where = sql.SQL(" AND ").join(bounds) if bounds else sql.SQL("true")
        for table in (self._target.answers, self._target.rejected):
            self._connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table, where))

    def _copy(self, table: sql.Identifier, rows: pl.DataFrame, types: Mapping[str, str] | None = None) -> None:
        """Add the rows: in PostgreSQL's binary format if the types are given and allow it, which halves its work."""
        if rows.is_empty():
            return
        is_binary = types is not None and binary_rows.can_encode(types)
        data = binary_rows.encode(rows, types) if types and is_binary else rows.write_csv(include_header=False)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
            table,
            sql.SQL(", ").join(map(sql.Identifier, rows.columns)),
            sql.SQL("binary" if is_binary else "csv"),
        )
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(data)

    def _note(self, run: int, values: Mapping[str, object]) -> None:
        noted = [
            sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items() if name != "run"
        ]
        update = sql.SQL("UPDATE {} SET {} WHERE run = {}")
        self._connection.execute(update.format(self._target.runs, sql.SQL(", ").join(noted), run))


@contextmanager
def opened(
    source: SourceDatabase, table: str, key: str, into: str, answer: Mapping[str, str]
) -> Iterator[tuple[ScoreTables, str, int]]:
    """The target's tables, made where they are missing, and locked; the full name of the source and about its rows.

    Args:
        source: the company's database.
        table: what is scored; it has the column `key`.
        key: what identifies its rows.
        into: the target.
        answer: the columns of an answer with their types.

    Raises:
        ScoreError: when the target cannot be written, is another scoring's, or is something else.
    """
    with source.asking(into), closing(source.connected()) as connection:
        with writing(source, into):
            read = described(connection, table)
            if read is None:
                msg = f"table {table} has just gone away"
                raise ScoreError(msg)
            target = prepared(connection, read, key, into, answer)
        yield ScoreTables(connection, source, into, key, target), read.name, read.rows


def _is_open(run: Mapping[str, Any], work: Work, not_before: datetime) -> bool:
    """Whether this is an unfinished scoring of the same work, and fresh enough."""
    same = all(run[name] == value for name, value in asdict(work).items())
    return same and run["finished_at"] is None and run["progressed_at"] >= not_before
