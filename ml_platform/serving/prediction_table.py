"""The prediction table: PostgreSQL's `predictions`, one partition a day; a request that is there is not added again."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
import psycopg
from psycopg import sql

TABLE = """
create table predictions (
    request_id text not null,
    row smallint not null,
    at timestamptz not null,
    model text not null,
    version text not null,
    colour text not null,
    key text,
    inputs jsonb not null,
    output jsonb not null,
    latency_ms real not null,
    primary key (request_id, row, at)
) partition by range (at);
create index on predictions (model, at);
"""
FOUND = """
select t.relkind::text, array(
    select p.relname::text from pg_inherits i join pg_class p on p.oid = i.inhrelid where i.inhparent = t.oid
) from pg_class t where t.oid = to_regclass('predictions')
"""
# Each request looks its own id up: a plan that reads whole partitions would become slower with every row.
SESSION = """
set timezone to 'UTC';
set statement_timeout to '60s';
set lock_timeout to '5s';
set synchronous_commit to on;
set enable_hashjoin to off;
set enable_mergejoin to off;
create temporary table stage (
    request_id text, row smallint, at_us bigint, model text, version text, colour text, key text,
    inputs jsonb, output jsonb, latency_us bigint
) on commit delete rows;
"""
LOCK = "select pg_advisory_xact_lock(hashtext('predictions'))"
COPY = "copy stage from stdin"
# The bounds leave all but three or four partitions alone.
MOVE = """
insert into predictions
select s.request_id, s.row, s.at, s.model, s.version, s.colour, s.key, s.inputs, s.output, s.latency_us / 1000.0
from (
    select distinct on (request_id, row) *, timestamptz 'epoch' + at_us * interval '1 microsecond' as at
    from stage order by request_id, row, at_us
) s
where not exists (
    select from predictions p
    where p.request_id = s.request_id and p.row = s.row
    and p.at between s.at - interval '1 day' and s.at + interval '1 day'
    and p.at between %s and %s
)
on conflict do nothing
"""
CONNECTION: dict[str, Any] = {
    "application_name": "ml_platform shipper",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
KEPT = "predictions_unpartitioned"
PARTITION = re.compile(r"predictions_(\d{8})")
DAY_US = 86_400_000_000
LAST_US = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 10**6
# Data exceptions, integrity violations, and limits such as that of an index entry: trying again would not help.
REFUSALS = ("22", "23", "54")
NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LOG = logging.getLogger(__name__)


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One row of the table; `inputs` and `output` are JSON."""

    request_id: str
    row: int
    at_us: int
    model: str
    version: str
    colour: str
    key: str | None
    inputs: bytes
    output: bytes
    latency_us: int


@dataclass(frozen=True)
class Refused:
    """A row that PostgreSQL does not take, and why."""

    prediction: Prediction
    reason: str


class PredictionTable:
    """The table behind one connection, which is made when it is needed and again after an error."""

    def __init__(self, url: str) -> None:
        """Nothing is connected yet."""
        self._url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def insert(self, predictions: Sequence[Prediction]) -> tuple[int, list[Refused]]:
        """Every row is committed, was there before, or is refused for good.

        Returns:
            How many rows are new, and the refused ones.

        Raises:
            psycopg.Error: when the database is away or cannot do it now. What is committed stays, and the same rows
                can be given again.
        """
        if not predictions:
            return 0, []
        try:
            return self._insert(predictions), []
        except OverflowError:
            reason = "its time is before 1970 or after 9998"
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith(REFUSALS):
                self.close()
                raise
            reason = error.diag.message_primary or type(error).__name__
        if len(predictions) == 1:
            return 0, [Refused(predictions[0], reason)]
        # Halves of halves: the others go through, and who is refused is found among thousands in a dozen steps.
        middle = len(predictions) // 2
        first, second = self.insert(predictions[:middle]), self.insert(predictions[middle:])
        return first[0] + second[0], first[1] + second[1]

    def drop_older(self, days: int) -> list[str]:
        """The names of the partitions that were dropped: those of days before the last `days` ones.

        Raises:
            psycopg.Error: when the database is away, or somebody reads the table for too long.
        """
        dropped = []
        try:
            connection = self._connected()
            (today,) = connection.execute("select current_date").fetchone() or (date.max,)
            _, partitions = connection.execute(FOUND).fetchone() or ("", [])
            for name in sorted(partitions):
                day = _day_of(name)
                if day and day < today - timedelta(days=days):
                    with connection.transaction():
                        connection.execute(LOCK)
                        connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(name)))
                    dropped.append(name)
        except psycopg.Error:
            self.close()
            raise
        return dropped

    def close(self) -> None:
        """No connection is open."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            # Unprepared statements are planned for the days at hand.
            connection = psycopg.connect(self._url, autocommit=True, prepare_threshold=None, **CONNECTION)
            self._connection = connection
            connection.execute(SESSION)
        return self._connection

    def _insert(self, predictions: Sequence[Prediction]) -> int:
        days = {_day(prediction.at_us) for prediction in predictions}
        connection = self._connected()
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(LOCK)
            _make(connection, days)
            with cursor.copy(COPY) as copy:
                copy.write(b"".join(map(_line, predictions)))
            one = timedelta(days=1)
            cursor.execute(MOVE, (min(days) - one, max(days) + 2 * one))
            return cursor.rowcount


def _make(connection: psycopg.Connection[tuple[Any, ...]], days: Iterable[date]) -> None:
    """The table and the partitions of the days are there; a table without partitions was kept under another name."""
    kind, partitions = connection.execute(FOUND).fetchone() or ("", [])
    if kind == "r":
        name = _free_name(connection)
        connection.execute(sql.SQL("alter table predictions rename to {}").format(sql.Identifier(name)))
        LOG.warning("prediction table: the table of an earlier version of the platform is kept as %s", name)
    if kind in ("", "r"):
        connection.execute(TABLE)
    for day in days:
        name = f"predictions_{day:%Y%m%d}"
        if name not in partitions:
            # Made apart and attached: whoever reads the table neither waits for this nor lets it wait.
            partition, bounds = sql.Identifier(name), (sql.Literal(day), sql.Literal(day + timedelta(days=1)))
            connection.execute(sql.SQL("create table {} (like predictions)").format(partition))
            attach = sql.SQL("alter table predictions attach partition {} for values from ({}) to ({})")
            connection.execute(attach.format(partition, *bounds))


def _free_name(connection: psycopg.Connection[tuple[Any, ...]]) -> str:
    name, number = KEPT, 1
    while connection.execute("select to_regclass(%s)", (name,)).fetchone() != (None,):
        number += 1
        name = f"{KEPT}_{number}"
    return name


def _day(at_us: int) -> date:
    """The day in UTC.

    Raises:
        OverflowError: when no clock can have said this.
    """
    if not 0 <= at_us < LAST_US:
        raise OverflowError(at_us)
    return date(1970, 1, 1) + timedelta(days=at_us // DAY_US)


def _day_of(partition: str) -> date | None:
    """The day of a partition that was made here."""
    named = PARTITION.fullmatch(partition)
    return datetime.strptime(named[1], "%Y%m%d").replace(tzinfo=UTC).date() if named else None


def _line(prediction: Prediction) -> bytes:
    """The row as COPY reads it, without the one character that PostgreSQL cannot hold."""
    values = (
        _text(prediction.request_id),
        b"%d" % prediction.row,
        b"%d" % prediction.at_us,
        _name(prediction.model),
        _name(prediction.version),
        _name(prediction.colour),
        b"\\N" if prediction.key is None else _text(prediction.key),
        _json(prediction.inputs),
        _json(prediction.output),
        b"%d" % prediction.latency_us,
    )
    return b"\t".join(values) + b"\n"


@lru_cache
def _name(text: str) -> bytes:
    """A text that stands in many rows."""
    return _text(text)


def _text(text: str) -> bytes:
    return _escaped(text.replace("\0", REPLACEMENT).encode())


def _json(data: bytes) -> bytes:
    if rb"\u0000" in data:
        data = NUL.sub(rb"\1" + REPLACEMENT.encode(), data)
    return _escaped(data)


def _escaped(data: bytes) -> bytes:
    data = data.replace(b"\\", b"\\\\")
    return data.replace(b"\t", b"\\t").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
