"""Sensors: new rows and drift start a refresh; MLflow runs get the ending of their Dagster runs."""

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg

from ml_platform.assets.drift_report import DRIFTED
from ml_platform.assets.raw_data import CURSOR, WATERMARK
from ml_platform.automation.jobs import REFRESH, refresh_keys
from ml_platform.automation.ticks import ThriftySensor
from ml_platform.modeling.ingestion import Cursor
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.resources.unavailable import UnavailableError

TRIGGER = "ml_platform/trigger"
LOOK_EVERY_S = 30
LOOK_BACK = 20
SETTLE_EVERY_S = 10


def new_data_sensor(spec: ModelSpec, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Starts a refresh when enough rows are new or changed since the last pull."""
    raw_data = dg.AssetKey([spec.name, "raw_data"])

    def new_data(context: dg.SensorEvaluationContext, source: SourceDatabase) -> dg.RunRequest | dg.SkipReason:
        pulls = context.instance.fetch_materializations(raw_data, limit=LOOK_BACK).records
        pulled = next((record for record in pulls if CURSOR in _metadata(record)), None)
        if pulled is None:
            return dg.SkipReason("never pulled; the first refresh is a person's or the schedule's")
        metadata = _metadata(pulled)
        since, after = Cursor.loads(str(metadata[CURSOR].value)), _moment(metadata.get(WATERMARK))
        try:
            rows = source.count_changed(spec.source, since, after, spec.retrain.new_rows)
        except UnavailableError as error:
            return dg.SkipReason(str(error))
        if rows < spec.retrain.new_rows:
            return dg.SkipReason(f"{rows} of {spec.retrain.new_rows} rows are new or changed")
        return dg.RunRequest(
            run_key=f"{spec.name} after pull {pulled.storage_id}",
            asset_selection=refresh_keys(spec),
            tags={TRIGGER: f"new data: {rows} rows or more"},
        )

    return ThriftySensor(
        name=f"{spec.name}_new_data",
        evaluation_fn=new_data,
        job_name=REFRESH,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description=f"Refreshes {spec.name} when {spec.retrain.new_rows} rows of its table are new or changed",
    )


def drift_sensor(spec: ModelSpec, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Starts a refresh when the newest drift report says that the requests drifted."""
    report = dg.AssetKey([spec.name, "drift_report"])

    def drifted(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reports = context.instance.fetch_materializations(report, limit=1).records
        if not reports:
            return dg.SkipReason("no drift report yet")
        if not _metadata(reports[0])[DRIFTED].value:
            return dg.SkipReason("the newest drift report shows no drift")
        return dg.RunRequest(
            run_key=f"{spec.name} drift report {reports[0].storage_id}",
            asset_selection=refresh_keys(spec),
            tags={TRIGGER: "drift"},
        )

    return ThriftySensor(
        name=f"{spec.name}_drift",
        evaluation_fn=drifted,
        job_name=REFRESH,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description=f"Refreshes {spec.name} when its served requests drifted from its training data",
    )


def mlflow_sensor(status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Ends MLflow runs as their Dagster runs ended, killed ones included."""

    def mlflow_endings(context: dg.SensorEvaluationContext, tracking: ExperimentTracking) -> dg.SkipReason:
        try:
            settled = tracking.settle(context.instance)
        except UnavailableError as error:
            return dg.SkipReason(str(error))
        return dg.SkipReason(", ".join(f"{run} {status}" for run, status in settled.items()) or "no run to end")

    return ThriftySensor(
        name="mlflow_endings",
        evaluation_fn=mlflow_endings,
        minimum_interval_seconds=SETTLE_EVERY_S,
        default_status=status,
        description="Gives every open MLflow run the ending of its Dagster run: finished, failed or killed",
    )


def _metadata(record: dg.EventLogRecord) -> Mapping[str, dg.MetadataValue]:
    """What a materialization says about itself."""
    return record.asset_materialization.metadata if record.asset_materialization else {}


def _moment(watermark: object) -> datetime | None:
    return datetime.fromtimestamp(watermark.value, UTC) if isinstance(watermark, dg.TimestampMetadataValue) else None
