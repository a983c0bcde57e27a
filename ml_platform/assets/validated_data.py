"""Room 2, validated_data: the rows that keep the model's schema; the others are kept aside with the reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import dagster as dg
import polars as pl

from ml_platform.assets.room import columns_of, room
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.training import ModelCode
from ml_platform.modeling.validation import FAILURES, SchemaMismatchError, Validated, validate
from ml_platform.resources.clock import Clock
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.products import RawData, ValidatedData

MOST_FAILURES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What validation came to, over all batches."""

    good: pl.DataFrame
    bad: pl.DataFrame
    failures: pl.DataFrame

    @property
    def quarantine_share(self) -> float:
        """Share of rows set aside."""
        return len(self.bad) / max(len(self.good) + len(self.bad), 1)


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""
    table, quarantine = f"{spec.name}/validated_data", f"{spec.name}/quarantine"

    @room(
        spec,
        "Rows that keep the pandera schema of the model. Bad rows go to the quarantine table with column, rule and "
        "value. Nothing is trained when the schema, the volume, the age or the quarantine share is wrong.",
        kinds=("pandera", "deltalake"),
        after="raw_data",
        checks={
            "schema": "Columns and types are the schema's",
            "volume": "There are enough rows to train on",
            "source_freshness": "The source still changes",
            "quarantine_share": "Few rows are bad",
        },
    )
    def validated_data(
        context: dg.AssetExecutionContext, raw_data: RawData, datasets: DatasetStore, clock: Clock
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[ValidatedData]]:
        code = ModelCode.of(spec)
        try:
            outcome = _validate(spec, code, raw_data, datasets)
        except SchemaMismatchError as error:
            yield dg.AssetCheckResult(check_name="schema", passed=False, metadata={"reason": str(error)})
            raise dg.Failure(str(error), allow_retries=False) from error
        good = datasets.overwrite(table, outcome.good)
        datasets.overwrite(quarantine, _with_reasons(outcome))
        if len(outcome.bad):
            context.log.warning("%d rows set aside in %s", len(outcome.bad), quarantine)
        yield dg.MaterializeResult(
            value=ValidatedData(table=good, as_of=raw_data.as_of, pulled=raw_data.pulled),
            metadata=_metadata(spec.source.key, outcome, good.version, quarantine),
            check_results=_checks(spec, outcome, raw_data, clock.now()),
        )

    return validated_data


def _validate(spec: ModelSpec, code: ModelCode, raw: RawData, datasets: DatasetStore) -> Outcome:
    """Validate the table batch by batch."""
    done: list[Validated] = []
    first_row = 0
    for batch in datasets.batches(raw.table.name, raw.table.version):
        rows = _until(spec, batch, raw.as_of)
        done.append(validate(rows, code.schema, first_row=first_row))
        first_row += len(rows)
    if not done:
        msg = f"{raw.table.name} has no rows"
        raise SchemaMismatchError(msg)
    return Outcome(
        good=pl.concat([v.good for v in done]),
        bad=pl.concat([v.bad for v in done]),
        failures=pl.concat([v.failures for v in done]),
    )


def _until(spec: ModelSpec, rows: pl.DataFrame, moment: datetime | None) -> pl.DataFrame:
    """The rows that were there at a past moment, by event time or else by when they last changed."""
    column = spec.source.event_time or spec.source.changed_at
    if moment is None or column is None:
        return rows
    return rows.filter(pl.col(column) <= moment)


def _with_reasons(outcome: Outcome) -> pl.DataFrame:
    """The bad rows, each with the list of what is wrong with it."""
    reasons = (
        outcome.failures.group_by("row", maintain_order=True)
        .agg(pl.struct("column", "rule", "value").alias("failures"))
        .sort("row")
    )
    return outcome.bad.with_columns(reasons["failures"])


def _checks(spec: ModelSpec, outcome: Outcome, raw: RawData, now: datetime) -> list[dg.AssetCheckResult]:
    rows, share = len(outcome.good), outcome.quarantine_share
    watermark = raw.pulled.watermark if raw.pulled else None
    age = now - watermark if watermark else None
    quality = spec.quality
    return [
        dg.AssetCheckResult(check_name="schema", passed=True),
        dg.AssetCheckResult(
            check_name="volume", passed=rows >= quality.min_rows, metadata={"rows": rows, "at_least": quality.min_rows}
        ),
        dg.AssetCheckResult(
            check_name="source_freshness",
            passed=age is None or age <= quality.max_source_age,
            metadata={
                "age_hours": age.total_seconds() / 3600 if age else 0.0,
                "at_most_hours": quality.max_source_age.total_seconds() / 3600,
                "newest_change": watermark.isoformat() if watermark else "not known",
            },
        ),
        dg.AssetCheckResult(
            check_name="quarantine_share",
            passed=share <= quality.max_quarantine_share,
            metadata={"share": share, "at_most": quality.max_quarantine_share, "rows": len(outcome.bad)},
        ),
    ]


def _metadata(key: str, outcome: Outcome, version: int, quarantine: str) -> dict[str, dg.MetadataValue]:
    keys = pl.DataFrame({"row": outcome.failures["row"].unique().sort(), "key": outcome.bad[key].cast(pl.String)})
    shown = outcome.failures.head(MOST_FAILURES_SHOWN).join(keys, on="row", maintain_order="left")
    columns = ["key", *(name for name in FAILURES if name != "row")]
    schema = dg.TableSchema([dg.TableColumn(name) for name in columns])
    return {
        "dagster/row_count": dg.MetadataValue.int(len(outcome.good)),
        "dagster/column_schema": columns_of(outcome.good),
        "rows_quarantined": dg.MetadataValue.int(len(outcome.bad)),
        "quarantine_share": dg.MetadataValue.float(outcome.quarantine_share),
        "quarantine": dg.MetadataValue.table([dg.TableRecord(row) for row in shown[columns].to_dicts()], schema),
        "quarantine_table": dg.MetadataValue.text(quarantine),
        "table_version": dg.MetadataValue.int(version),
    }
