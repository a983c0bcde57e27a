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
        self._stop = threading.Event()
        self.failure: Exception | None = None

    def read(self, queries: Sequence[str]) -> pa.RecordBatchReader:
        """The rows of all queries, in no particular order; read while they are consumed."""
        return pa.RecordBatchReader.from_batches(self._schema, self._batches(queries))

    def close(self) -> None:
        """The connections end after the batch they are at."""
        self._stop.set()

    def _batches(self, queries: Sequence[str]) -> Iterator[pa.RecordBatch]:
        waiting: queue.Queue[pa.RecordBatch | None] = queue.Queue(WAITING)
        pending = iter(queries)
        lock = threading.Lock()
        workers = [
            threading.Thread(target=self._work, args=(pending, lock, waiting), name="snapshot reader", daemon=True)
            for _ in range(min(CONNECTIONS, len(queries)))
        ]
        for worker in workers:
            worker.start()
        try:
            working = len(workers)
            while working:
                batch = waiting.get()
                if batch is not None:
                    yield batch
                working -= batch is None
                if self.failure:
                    raise self.failure
        finally:
            self.close()
            for worker in workers:
                worker.join()

    def _work(self, pending: Iterator[str], lock: threading.Lock, waiting: queue.Queue[pa.RecordBatch | None]) -> None:
        try:
            with closing(adbc.connect(self._url)) as connection, closing(connection.cursor()) as cursor:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot}'")
                while (query := self._next(pending, lock)) is not None:
                    cursor.execute(query)
                    for batch in cursor.fetch_record_batch():
                        self._put(waiting, batch.cast(self._schema))
        except Exception as error:  # noqa: BLE001 - it is raised again where the batches are consumed
            self.failure = self.failure or error
        finally:
            self._put(waiting, None)

    def _next(self, pending: Iterator[str], lock: threading.Lock) -> str | None:
        with lock:
            return None if self._stop.is_set() else next(pending, None)

    def _put(self, waiting: queue.Queue[pa.RecordBatch | None], batch: pa.RecordBatch | None) -> None:
        while not self._stop.is_set():
            try:
                waiting.put(batch, timeout=PATIENCE_SECONDS)
            except queue.Full:
                continue
            return
