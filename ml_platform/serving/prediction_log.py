"""The prediction log: every answered prediction goes to PostgreSQL, in batches, off the hot path."""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg

TABLE = """
create table if not exists predictions (
    request_id uuid not null,
    row smallint not null,
    at timestamptz not null,
    model text not null,
    version text not null,
    colour text not null,
    key text,
    inputs jsonb not null,
    output jsonb not null,
    latency_ms real not null,
    primary key (request_id, row)
);
create index if not exists predictions_model_at on predictions (model, at);
"""
STAGE = "create temporary table stage (like predictions) on commit drop"
COPY = "copy stage from stdin"
MOVE = "insert into predictions select * from stage on conflict do nothing"
BATCH, WAIT_S, KEPT = 5_000, 0.25, 100_000
RETRY_S = 2.0
LOG = logging.getLogger(__name__)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """One answered request of n rows."""

    request_id: UUID
    at: datetime
    model: str
    version: str
    colour: str
    keys: Sequence[str | None]
    rows: Sequence[dict[str, Any]]
    answers: Sequence[dict[str, Any]]
    latency_ms: float


class PredictionLog:
    """Writes in the background; while the database is away requests wait in memory, and those too many are counted."""

    def __init__(self, url: str) -> None:
        """Start the writer; an unreachable database is tried again for ever."""
        self._url = url
        self._waiting: queue.Queue[Answered | None] = queue.Queue(KEPT)
        self._thread = threading.Thread(target=self._write_for_ever, name="prediction-log", daemon=True)
        self.dropped = 0
        self._thread.start()

    def add(self, answered: Answered) -> None:
        """Hand over a request; never waits."""
        try:
            self._waiting.put_nowait(answered)
        except queue.Full:
            self.dropped += len(answered.rows)

    def close(self, seconds: float = 5.0) -> None:
        """Write what is waiting, for at most some seconds."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _write_for_ever(self) -> None:
        closing = False
        batch: list[Answered] = []
        while not closing or batch:
            if not batch:
                batch, closing = self._next_batch()
            try:
                if batch:
                    self._write(batch)
                batch = []
            except psycopg.Error as error:
                LOG.warning("prediction log: database not reachable (%s), will try again", type(error).__name__)
                if closing:
                    self.dropped += sum(len(a.rows) for a in batch)
                    return
                time.sleep(RETRY_S)

    def _next_batch(self) -> tuple[list[Answered], bool]:
        """The requests of the next quarter of a second, and whether the log is closing."""
        batch: list[Answered] = []
        until = None
        while len(batch) < BATCH:
            try:
                item = self._waiting.get(timeout=None if until is None else max(until - time.monotonic(), 0.001))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
            until = until or time.monotonic() + WAIT_S
        return batch, False

    def _write(self, batch: list[Answered]) -> None:
        with psycopg.connect(self._url, connect_timeout=5) as connection, connection.cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(hashtext('predictions'))")
            cursor.execute(TABLE)
            cursor.execute(STAGE)
            with cursor.copy(COPY) as copy:
                for answered in batch:
                    for i, row in enumerate(answered.rows):
                        copy.write_row(_record(answered, i, row))
            cursor.execute(MOVE)


def _record(answered: Answered, i: int, row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        answered.request_id,
        i,
        answered.at,
        answered.model,
        answered.version,
        answered.colour,
        answered.keys[i] if answered.keys else None,
        msgspec.json.encode(row).decode(),
        msgspec.json.encode(answered.answers[i]).decode(),
        answered.latency_ms,
    )
