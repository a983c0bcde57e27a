"""The inside of the source door: one PostgreSQL snapshot read as Arrow batches over several connections at once."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ml_platform.modeling.ingestion import Column, arrow_schema
from ml_platform.resources.packed import Packing

# While the server computes one answer, another is on its way and a third is decoded.
CONNECTIONS = 3
# Batches waiting for the writer; with about 8 MiB at most each, they bound the memory whatever the table's size.
WAITING = 4
BATCH_BYTES = 8 * 2**20
PATIENCE_SECONDS = 0.2
IMPORT = "SET TRANSACTION SNAPSHOT"

Batches = Generator[pa.RecordBatch, None, None]
Reader = Callable[[Iterator[sql.Composable]], Batches]


class SnapshotReader:
    """Reads ranges (`FROM ... WHERE ...`) that together hold the rows of one snapshot.

    PostgreSQL serves a query with one process, so the ranges are spread over connections that share the snapshot.
    """

    def __init__(self, url: str, snapshot: str, columns: Sequence[Column], key: str, *, packed: bool) -> None:
        """Remember what to read; nothing is opened yet.

        Args:
            url: the database, password included.
            snapshot: the name PostgreSQL gave the exported snapshot; its transaction must stay open meanwhile.
            columns: what to read of each row.
            key: the column that is not rounded.
            packed: whether a range is small enough to be packed by the server; else it arrives row by row.
        """
        self.schema = arrow_schema(columns, key)
        # Arrow's text is UTF-8, whatever the database keeps or the URL asks for.
        self._url = make_conninfo(url, client_encoding="UTF8")
        self._snapshot = snapshot
        self._columns = columns
        self._key = key
        self._packed = packed
        self._readings: list[_Reading] = []

    def read(self, ranges: Sequence[sql.Composable], *, is_sorted: bool = False) -> Iterator[pa.RecordBatch]:
        """The rows of all ranges, read while they are consumed: as the one range sorts them, or in no order."""
        reading = _Reading(self._by_column if self._packed and not is_sorted else self._by_row, ranges)
        self._readings.append(reading)
        return reading.batches()

    def close(self) -> None:
        """The connections end after the batch they are at."""
        for reading in self._readings:
            reading.stop.set()

    @property
    def failure(self) -> Exception | None:
        """What a connection stumbled over, when one did."""
        return next((reading.failure for reading in self._readings if reading.failure), None)

    def _by_column(self, ranges: Iterator[sql.Composable]) -> Batches:
        """A connection's share of the ranges, each in one batch."""
        packing = Packing(self._columns, self._key, self.schema)
        gaps: set[str] = set()
        with closing(psycopg.connect(self._url)) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                connection.execute(sql.SQL(IMPORT + " {}").format(self._snapshot))
            except psycopg.Error as error:
                msg = f"{IMPORT}: {error}"
                raise psycopg.OperationalError(msg) from error
            for rows in ranges:
                yield packing.read(connection, rows, gaps)

    def _by_row(self, ranges: Iterator[sql.Composable]) -> Batches:
        """A connection's share of the ranges, as ADBC decodes them.

        Each has a connection of its own: some versions of the driver end the process when they are given a query on a
        connection that was cut, while a cut within an answer is an error like any other.
        """
        names = sql.SQL(", ").join(_selected(column, self._key) for column in self._columns)
        for rows in ranges:
            with closing(adbc.connect(self._url)) as connection, closing(connection.cursor()) as cursor:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute(f"{IMPORT} '{self._snapshot}'")
                cursor.execute(sql.SQL("SELECT {} {}").format(names, rows).as_string())
                for batch in cursor.fetch_record_batch():
                    yield batch.cast(self.schema)


def _selected(column: Column, key: str) -> sql.Composable:
    name = sql.Identifier(column.name)
    cast = column.cast(key=column.name == key)
    return sql.SQL("{}::{} AS {}").format(name, sql.SQL(cast), name) if cast else name


class _Reading:
    """One pass over some ranges: threads put batches into a short queue, the consumer takes them out."""

    def __init__(self, reader: Reader, ranges: Sequence[sql.Composable]) -> None:
        self._reader = reader
        self._connections = min(CONNECTIONS, len(ranges))
        self._pending = iter(ranges)
        self._lock = threading.Lock()
        self._waiting: queue.Queue[pa.RecordBatch | None] = queue.Queue(WAITING)
        self.stop = threading.Event()
        self.failure: Exception | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self._connections)]
        for worker in workers:
            worker.start()
        try:
            working = len(workers)
            while working:
                batch = self._waiting.get()
                if self.failure:
                    raise self.failure
                if batch is None:
                    working -= 1
                else:
                    yield batch
        finally:
            self.stop.set()
            for worker in workers:
                worker.join()

    def _work(self) -> None:
        try:
            with closing(self._reader(self._ranges())) as batches:
                for batch in batches:
                    self._put(batch)
                    if self.stop.is_set():
                        return
        except Exception as error:  # noqa: BLE001 - it is raised again where the batches are consumed
            self.failure = self.failure or error
        finally:
            self._put(None)

    def _ranges(self) -> Iterator[sql.Composable]:
        """A connection's share: whatever the others have not begun."""
        while (rows := self._next()) is not None:
            yield rows

    def _next(self) -> sql.Composable | None:
        with self._lock:
            return None if self.stop.is_set() else next(self._pending, None)

    def _put(self, batch: pa.RecordBatch | None) -> None:
        """Hand a batch over, unless the consumer has gone."""
        while not self.stop.is_set():
            try:
                self._waiting.put(batch, timeout=PATIENCE_SECONDS)
            except queue.Full:
                continue
            return
