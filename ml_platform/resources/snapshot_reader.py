"""The inside of the source door: one PostgreSQL snapshot read as Arrow batches over several connections at once."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

CONNECTIONS = 2
# Batches waiting for the writer; with about 8 MiB each, they bound the memory whatever the table's size.
WAITING = 4
BATCH_BYTES = 8 * 2**20
PATIENCE_SECONDS = 0.2


class SnapshotReader:
    """Reads queries whose answers together are the rows of one snapshot.

    PostgreSQL serves a query with one process and ADBC decodes it with one thread, so ranges of the table are spread
    over connections that share the snapshot.
    """

    def __init__(self, url: str, snapshot: str, schema: pa.Schema) -> None:
        """Remember what to read; nothing is opened yet.

        Args:
            url: the database, password included.
            snapshot: the name PostgreSQL gave the exported snapshot; its transaction must stay open meanwhile.
            schema: what every batch is cast to.
        """
        self._url = url
        self._snapshot = snapshot
        self._schema = schema
        self._readings: list[_Reading] = []

    def read(self, queries: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of all queries, in no particular order; read while they are consumed."""
        reading = _Reading(self._url, self._snapshot, self._schema, queries)
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


class _Reading:
    """One pass over some queries: threads put batches into a short queue, the consumer takes them out."""

    def __init__(self, url: str, snapshot: str, schema: pa.Schema, queries: Sequence[str]) -> None:
        self._url = url
        self._snapshot = snapshot
        self._schema = schema
        self._connections = min(CONNECTIONS, len(queries))
        self._pending = iter(queries)
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
            while (query := self._next()) is not None:
                self._read(query)
        except Exception as error:  # noqa: BLE001 - it is raised again where the batches are consumed
            self.failure = self.failure or error
        finally:
            self._put(None)

    def _read(self, query: str) -> None:
        """Hand over the rows of one query.

        Each has a connection of its own: some versions of the driver end the process when they are given a query on a
        connection that was cut, while a cut within an answer is an error like any other.
        """
        with closing(adbc.connect(self._url)) as connection, closing(connection.cursor()) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
            cursor.execute(query)
            for batch in cursor.fetch_record_batch():
                self._put(batch.cast(self._schema))
                if self.stop.is_set():
                    return

    def _next(self) -> str | None:
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
