"""The dataset door: versioned tables that readers see whole or not at all (Delta tables)."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import dagster as dg
import polars as pl
import pyarrow as pa
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import TableNotFoundError

# Old versions stay readable for ever: a registered model is reproduced from its own.
KEEP = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}
HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
# Dictionaries cost four times the rest of the encoding and gain nothing on measurements; LZ4 costs next to nothing.
WRITER = WriterProperties(
    compression="LZ4_RAW",
    max_row_group_size=131_072,
    default_column_properties=ColumnProperties(dictionary_enabled=False),
)
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class TableVersion:
    """One version of a dataset: its name, its Delta version, its number of rows."""

    name: str
    version: int
    rows: int


class DatasetNotFoundError(LookupError):
    """A dataset, or a version of it, that does not exist; the message names it."""


class DatasetStore(dg.ConfigurableResource):  # type: ignore[type-arg]  # dagster's own way of writing it
    """Versioned tables named `MODEL/table` under `root`: a local folder, or an object store's URL.

    Every write is one atomic commit that makes one new version, and may carry `metadata`: what must become true
    together with the rows.
    """

    root: str

    def exists(self, name: str) -> bool:
        """Whether anything was ever written under this name."""
        return DeltaTable.is_deltatable(self._uri(name))

    def latest(self, name: str) -> TableVersion | None:
        """The newest version; None before the first."""
        if not self.exists(name):
            return None
        return self._described(name, self._table(name))

    def at(self, name: str, version: int) -> TableVersion:
        """A version by its number.

        Raises:
            DatasetNotFoundError: when there is no such dataset or version.
        """
        return self._described(name, self._table(name, version))

    def metadata(self, name: str, version: int | None = None) -> dict[str, str]:
        """What the commit of a version (the newest when None) carried."""
        commit = self._table(name, version).history(1)[0]
        return {key: value for key, value in commit.items() if isinstance(value, str)}

    def scan(self, name: str, version: int | None = None) -> pl.LazyFrame:
        """The rows of a version (the newest when None), read when collected, so that columns and rows can be left out.

        Raises:
            DatasetNotFoundError: when there is no such dataset or version.
        """
        table = self._table(name, version)
        schema = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([], pa.schema(table.schema().to_arrow())))).schema
        # Not `pl.scan_delta`: it takes the percent signs of a quoted path, as of a folder with a space, for real ones.
        files = [unquote(uri) if "://" not in uri else uri for uri in table.file_uris()]
        if not files:
            return pl.LazyFrame(schema=schema)
        return pl.scan_parquet(files, schema=schema, missing_columns="insert")

    def read(self, name: str, version: int | None = None) -> pl.DataFrame:
        """All rows of a version (the newest when None), in no particular order."""
        return self.scan(name, version).collect()

    def batches(self, name: str, version: int | None = None, rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
        """All rows of a version in frames of about `rows` rows, so that memory does not grow with the table."""
        yield from self.scan(name, version).collect_batches(chunk_size=rows, maintain_order=False)

    def overwrite(
        self, name: str, data: pl.DataFrame | pa.RecordBatchReader, metadata: Mapping[str, str] | None = None
    ) -> TableVersion:
        """A new version holding exactly these rows, with their schema; a reader is consumed batch by batch."""
        return self._written(name, self._uri(name), _arrow(data), "overwrite", metadata)

    def append(
        self, name: str, data: pl.DataFrame | pa.RecordBatchReader, metadata: Mapping[str, str] | None = None
    ) -> TableVersion:
        """A new version with these rows added; columns that are new to the dataset are empty in the older rows."""
        return self._written(name, self._uri(name), _arrow(data), "append", metadata)

    def upsert(
        self,
        at: TableVersion,
        new: pl.DataFrame,
        updated: pl.DataFrame,
        key: str,
        metadata: Mapping[str, str] | None = None,
    ) -> TableVersion:
        """The version after `at`: with the `new` rows, and with the `updated` ones in place of those with their keys.

        New rows alone are added beside the old ones. An update streams the dataset through: a Delta merge took twice
        as long on ten million rows and over 2 GiB of memory.

        Raises:
            CommitFailedError: when somebody else wrote after `at`; nothing was changed then.
        """
        table = self._table(at.name, at.version)
        if updated.is_empty():
            return self._written(at.name, table, _arrow(new), "append", metadata)
        rows = _arrow(pl.concat([updated, new]))
        # A filter, not a join: in a stream, a join piles up what the writer has not taken yet.
        kept = self.scan(at.name, at.version).filter(~pl.col(key).is_in(updated[key].implode()))
        batches = (
            batch
            for frame in kept.select(updated.columns).collect_batches(chunk_size=BATCH_ROWS, maintain_order=False)
            for batch in _arrow(frame).to_batches()
        )
        merged = pa.RecordBatchReader.from_batches(rows.schema, itertools.chain(batches, rows.to_batches()))
        return self._written(at.name, table, merged, "overwrite", metadata)

    def _written(
        self,
        name: str,
        target: str | DeltaTable,
        data: pa.RecordBatchReader | pa.Table,
        mode: Literal["append", "overwrite"],
        metadata: Mapping[str, str] | None,
    ) -> TableVersion:
        retries = 0 if isinstance(target, DeltaTable) else None
        arguments: dict[str, Any] = {"mode": mode, "schema_mode": "merge" if mode == "append" else "overwrite"}
        write_deltalake(
            target,
            data,
            configuration=KEEP,
            writer_properties=WRITER,
            commit_properties=CommitProperties(custom_metadata=dict(metadata or {}), max_commit_retries=retries),
            post_commithook_properties=HOOKS,
            **arguments,
        )
        return self._described(name, target if isinstance(target, DeltaTable) else self._table(name))

    def _uri(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def _table(self, name: str, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self._uri(name), version=version)
        except TableNotFoundError:
            msg = f"dataset {name} has nothing in it yet: materialise the room that writes it"
            raise DatasetNotFoundError(msg) from None

    @staticmethod
    def _described(name: str, table: DeltaTable) -> TableVersion:
        return TableVersion(name=name, version=table.version(), rows=table.count())


def _arrow(data: pl.DataFrame | pa.RecordBatchReader) -> pa.RecordBatchReader | pa.Table:
    if isinstance(data, pl.DataFrame):
        return data.to_arrow(compat_level=pl.CompatLevel.oldest())
    return data
