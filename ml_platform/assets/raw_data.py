"""Room 1, raw_data: the source table as a versioned table, kept up to date by pulling what changed."""

from datetime import datetime

import dagster as dg
import polars as pl

from ml_platform.assets.room import FULL_SYNC, PREVIEW_ROWS, as_of, first_rows, patiently, room
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.clock import Clock
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ingest import Ingested, ingest
from ml_platform.resources.products import Pulled, RawData
from ml_platform.resources.source import SourceDatabase

CURSOR, WATERMARK = "cursor", "watermark"


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""
    table = f"{spec.name}/raw_data"

    @room(
        spec,
        f"Rows of `{spec.source.table}` as PostgreSQL has them: every pull takes what changed since the last one and "
        "upserts it by key into a versioned Delta table. Rows deleted at the source are found by the full sync.",
        kinds=("postgres", "deltalake"),
        freshness=dg.FreshnessPolicy.time_window(fail_window=spec.quality.max_source_age),
    )
    def raw_data(
        context: dg.AssetExecutionContext, source: SourceDatabase, datasets: DatasetStore, clock: Clock
    ) -> dg.MaterializeResult[RawData]:
        moment = as_of(context)
        if moment:
            _refuse_what_is_not_past(spec, moment, clock.now())
            return _past(datasets, table, moment)
        with patiently(context):
            pulled = ingest(source, datasets, spec.source, table, full=FULL_SYNC in context.run.tags)
        counts = (pulled.rows_new, pulled.rows_updated, pulled.rows_deleted, pulled.rows_total)
        context.log.info("%d new, %d updated, %d deleted, %d in all", *counts)
        so_far = Pulled(cursor=pulled.cursor.dumps(), watermark=pulled.watermark)
        product = RawData(table=pulled.table, as_of=None, pulled=so_far)
        preview = datasets.scan(table, pulled.table.version).head(PREVIEW_ROWS).collect()
        return dg.MaterializeResult(value=product, metadata=_metadata(pulled, preview))

    return raw_data


def _refuse_what_is_not_past(spec: ModelSpec, moment: datetime, now: datetime) -> None:
    """Only a moment before now can be gone back to, and only by a time that the rows have."""
    if moment > now:
        msg = f"{moment:%Y-%m-%d} is not past yet: --as-of takes a past day"
        raise dg.Failure(msg, allow_retries=False)
    if not (spec.source.event_time or spec.source.changed_at):
        msg = f"the rows of {spec.source.table} have no time: name event_time or changed_at in the spec for --as-of"
        raise dg.Failure(msg, allow_retries=False)


def _past(datasets: DatasetStore, table: str, moment: datetime) -> dg.MaterializeResult[RawData]:
    """The table as it stands; the next room cuts it at the moment asked for."""
    latest = datasets.latest(table)
    if latest is None:
        msg = f"{table} is empty; run a refresh without --as-of first"
        raise dg.Failure(msg, allow_retries=False)
    product = RawData(table=latest, as_of=moment)
    return dg.MaterializeResult(value=product, metadata={"as_of": moment.isoformat(), "table_version": latest.version})


def _metadata(pulled: Ingested, preview: pl.DataFrame) -> dict[str, dg.MetadataValue]:
    columns = [dg.TableColumn(name, kind) for name, kind in pulled.columns]
    changes = "\n".join(f"- {change}" for change in pulled.schema_changes) or "none"
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(pulled.rows_total),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns)),
        "rows_new": dg.MetadataValue.int(pulled.rows_new),
        "rows_updated": dg.MetadataValue.int(pulled.rows_updated),
        "rows_deleted": dg.MetadataValue.int(pulled.rows_deleted),
        "table_version": dg.MetadataValue.int(pulled.table.version),
        "full_sync": dg.MetadataValue.text(pulled.full_reason or ("asked for" if pulled.full else "no")),
        "schema_changes": dg.MetadataValue.md(changes),
        "preview": first_rows(preview),
        CURSOR: dg.MetadataValue.text(pulled.cursor.dumps()),
    }
    if pulled.watermark:
        metadata[WATERMARK] = dg.MetadataValue.timestamp(pulled.watermark)
    return metadata
