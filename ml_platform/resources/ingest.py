"""Ingestion: what changed in the source goes into the dataset, rows and cursor in one commit."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa

from ml_platform.modeling.ingestion import Changes, Cursor, compare, differing, schema_changes
from ml_platform.modeling.spec import PostgresTable
from ml_platform.resources.datasets import DatasetStore, TableVersion
from ml_platform.resources.source import Pull, SourceDatabase

CURSOR = "ingestion_cursor"
ASKED_FOR = "asked for"
# More changed rows than this are not gathered in memory: reading everything is then the cheaper way.
GATHERED_ROWS = 500_000
SAY_EVERY_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What one ingestion did.

    `watermark` is the newest `changed_at` in the dataset, for people and for the new-data sensor; `cursor` is how far
    this ingestion looked, also when it found nothing to commit. `full_reason` says why all rows were read,
    `schema_changes` what happened to the columns since the last commit. `columns` are names and PostgreSQL types.
    """

    table: TableVersion
    rows_new: int
    rows_updated: int
    rows_deleted: int
    rows_total: int
    watermark: datetime | None
    cursor: Cursor
    full: bool
    full_reason: str | None
    schema_changes: list[str]
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class _Load:
    table: TableVersion
    changes: Changes
    full_reason: str | None


def say_in_log(rows: int) -> None:
    """Progress in the log."""
    log.info("read %s rows so far", f"{rows:,}")


def ingest(
    source: SourceDatabase,
    datasets: DatasetStore,
    spec_source: PostgresTable,
    name: str,
    *,
    full: bool,
    say: Callable[[int], None] = say_in_log,
) -> Ingested:
    """Bring the dataset `name` up to date with the source table, in one atomic commit; none when nothing changed.

    Args:
        source: the database.
        datasets: where the dataset is, or will be.
        spec_source: the table, its key and its times.
        name: the dataset, `MODEL/table`.
        full: read every row, which also finds the deleted ones.
        say: told every few seconds how many rows have been read.

    Raises:
        SourceError: a wrong table or column, no permission, NULL or duplicate keys.
        SourceUnavailableError: when the database cannot be reached or goes away meanwhile.
    """
    before = datasets.latest(name)
    cursor = _stored_cursor(datasets, before)
    with source.pull(spec_source, cursor) as pull:
        reason = pull.full_reason or (ASKED_FOR if full else None)
        load = None if reason or before is None else _upsert(pull, datasets, before, spec_source.key, say)
        if load is None:
            load = _replace(pull, datasets, name, spec_source.key, reason or "most rows changed", before, say)
    return Ingested(
        table=load.table,
        rows_new=load.changes.new,
        rows_updated=load.changes.updated,
        rows_deleted=load.changes.deleted,
        rows_total=load.table.rows,
        watermark=_watermark(datasets, load.table, spec_source.changed_at),
        cursor=pull.cursor,
        full=load.full_reason is not None,
        full_reason=load.full_reason,
        schema_changes=schema_changes(cursor.columns, pull.cursor.columns) if cursor else [],
        columns=[(column.name, column.type) for column in pull.cursor.columns],
    )


def _stored_cursor(datasets: DatasetStore, version: TableVersion | None) -> Cursor | None:
    text = datasets.metadata(version.name, version.version).get(CURSOR) if version else None
    return Cursor.loads(text) if text else None


def _upsert(
    pull: Pull, datasets: DatasetStore, before: TableVersion, key: str, say: Callable[[int], None]
) -> _Load | None:
    """The changed rows are in the dataset; None when they are too many to gather."""
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in _saying(pull.changed(), say):
        rows += batch.num_rows
        if rows > GATHERED_ROWS:
            return None
        gathered.append(batch)
    pulled = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(gathered, pull.schema)))
    known = pl.col(key).is_in(pulled[key].implode())
    stored = datasets.scan(before.name, before.version).filter(known).collect(engine="streaming")
    new, updated = differing(stored.select(pulled.columns), pulled, key)
    changes = Changes(new=new.height, updated=updated.height)
    if changes == Changes():
        return _Load(before, changes, None)
    after = datasets.upsert(before, new, updated, key, {CURSOR: pull.cursor.dumps()})
    return _Load(after, changes, None)


def _replace(
    pull: Pull,
    datasets: DatasetStore,
    name: str,
    key: str,
    reason: str,
    before: TableVersion | None,
    say: Callable[[int], None],
) -> _Load:
    """The dataset holds the snapshot's rows and no others; memory is bounded by the batch."""
    reader = pa.RecordBatchReader.from_batches(pull.schema, _saying(pull.everything(), say))
    after = datasets.overwrite(name, reader, {CURSOR: pull.cursor.dumps()})
    if before is None:
        return _Load(after, Changes(new=after.rows), reason)
    old, new = datasets.scan(name, before.version), datasets.scan(name, after.version)
    return _Load(after, compare(old, new, key, max(before.rows, after.rows)), reason)


def _saying(batches: Iterator[pa.RecordBatch], say: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    rows, said = 0, time.monotonic()
    for batch in batches:
        rows += batch.num_rows
        if time.monotonic() - said >= SAY_EVERY_SECONDS:
            say(rows)
            said = time.monotonic()
        yield batch


def _watermark(datasets: DatasetStore, table: TableVersion, changed_at: str | None) -> datetime | None:
    if changed_at is None:
        return None
    newest = datasets.scan(table.name, table.version).select(pl.col(changed_at).max()).collect().item()
    return newest if isinstance(newest, datetime) else None
