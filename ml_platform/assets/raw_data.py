"""Room 1, raw_data: the source table as a versioned table, kept up to date by pulling what changed."""

from datetime import datetime

import dagster as dg
import polars as pl

from ml_platform.assets.room import FULL_SYNC, PREVIEW_ROWS, as_of, first_rows, patiently, room
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ingest import Ingested, ingest
from ml_platform.resources.products import RawData
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
        context: dg.AssetExecutionContext, source: SourceDatabase, datasets: DatasetStore
    ) -> dg.MaterializeResult[RawData]:
        moment = as_of(context)
        if moment:
            return _past(datasets, table, moment)
        with patiently(context):
            pulled = ingest(source, datasets, spec.source, table, full=FULL_SYNC in context.run.tags)
        counts = (pulled.rows_new, pulled.rows_updated, pulled.rows_deleted, pulled.rows_total)
        context.log.info("%d new, %d updated, %d deleted, %d in all", *counts)
        product = RawData(table=pulled.table, watermark=pulled.watermark, as_of=None)
        preview = datasets.scan(table, pulled.table.version).head(PREVIEW_ROWS).collect()
        return dg.MaterializeResult(value=product, metadata=_metadata(pulled, preview))

    return raw_data


def _past(datasets: DatasetStore, table: str, moment: datetime) -> dg.MaterializeResult[RawData]:
    """The table as it stands; the next room cuts it at the moment asked for."""
    latest = datasets.latest(table)
    if latest is None:
        msg = f"{table} is empty; run a refresh without --as-of first"
        raise dg.Failure(msg, allow_retries=False)
    product = RawData(table=latest, watermark=None, as_of=moment)
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
        CURSOR: dg.MetadataValue.text(pulled.cursor.dumps()),
        "preview": first_rows(preview),
    }
    if pulled.watermark:
        metadata[WATERMARK] = dg.MetadataValue.timestamp(pulled.watermark)
    return metadata
