"""Sensors: new rows, drift and degraded outcomes start a refresh; MLflow runs get the ending of their Dagster runs."""

import dagster as dg

from ml_platform.assets.drift_report import DRIFTED
from ml_platform.assets.realised_performance import DEGRADED
from ml_platform.assets.room import key
from ml_platform.automation.governing import (
    fingerprints,
    govern,
    is_under_way,
    learned,
    metadata_of,
    newest_attempt,
    pulled_last,
)
from ml_platform.automation.jobs import REFRESH
from ml_platform.automation.ticks import ThriftySensor
from ml_platform.modeling.governor import Cause, Wish
from ml_platform.modeling.ingestion import Cursor
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.products import Pulled
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.resources.unavailable import UnavailableError

LOOK_EVERY_S = 30
SETTLE_EVERY_S = 10


def new_data_sensor(spec: ModelSpec, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Wishes for a refresh when enough rows are new or changed since the last training.

    It wishes once: again when as many have come since the last pull, or when the refresh that pulled them was killed.
    One that failed in a room would only fail again.
    """

    def new_data(
        context: dg.SensorEvaluationContext, source: SourceDatabase, ledger: DecisionLedger, clock: Clock
    ) -> dg.RunRequest | dg.SkipReason:
        known = learned(context.instance, spec)
        if known is None:
            return dg.SkipReason("never pulled; the first refresh is a person's or the schedule's")
        number, pulled = known
        try:
            rows = _changed(spec, source, pulled)
            if rows < spec.retrain.new_rows:
                return dg.SkipReason(f"{rows} of {spec.retrain.new_rows} rows are new or changed")
            last = pulled_last(context.instance, spec)
            if last and _changed(spec, source, last[1]) >= spec.retrain.new_rows:
                after = f"after pull {last[0]}"
            else:
                attempt, failed = newest_attempt(context.instance, spec)
                if failed:
                    return dg.SkipReason(f"the refresh {attempt} pulled them and failed: see why, then start another")
                after = f"after event {number} and run {attempt}"
            said = f"new data: {rows} rows or more"
            wish = Wish(
                key=after,
                cause=Cause.NEW_DATA,
                reason=said,
                under_way=is_under_way(context.instance, spec),
            )
            return govern(spec, wish, said, ledger, clock)
        except UnavailableError as error:
            return dg.SkipReason(str(error))

    return ThriftySensor(
        name=f"{spec.name}_new_data",
        evaluation_fn=new_data,
        job_name=REFRESH,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description=f"Refreshes {spec.name} when {spec.retrain.new_rows} rows of its table are new or changed",
    )


def _changed(spec: ModelSpec, source: SourceDatabase, since: Pulled) -> int:
    """Rows that are new or changed since, counted as far as the spec's threshold."""
    return source.count_changed(spec.source, Cursor.loads(since.cursor), since.watermark, spec.retrain.new_rows)


def drift_sensor(spec: ModelSpec, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Wishes for a refresh when the newest drift report says that the requests drifted."""
    return _report_sensor(spec, "drift_report", DRIFTED, Cause.DRIFT, status)


def degraded_sensor(spec: ModelSpec, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Wishes for a refresh when the newest outcomes say that the champion is worse than promised."""
    return _report_sensor(spec, "realised_performance", DEGRADED, Cause.DEGRADED, status)


def _report_sensor(
    spec: ModelSpec, room: str, alarm: str, cause: Cause, status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    """Wishes for a refresh when the newest materialization of a room says yes to `alarm` in its metadata."""
    said = room.replace("_", " ")

    def look(
        context: dg.SensorEvaluationContext, source: SourceDatabase, ledger: DecisionLedger, clock: Clock
    ) -> dg.RunRequest | dg.SkipReason:
        reports = context.instance.fetch_materializations(key(spec, room), limit=1).records
        if not reports:
            return dg.SkipReason(f"no {said} yet")
        if not metadata_of(reports[0])[alarm].value:
            return dg.SkipReason(f"the newest {said} is not {alarm}")
        data, trained = fingerprints(context.instance, spec, source)
        wish = Wish(
            key=f"report {reports[0].storage_id}",
            cause=cause,
            reason=f"the newest {said} is {alarm}",
            data=data,
            trained=trained,
            under_way=is_under_way(context.instance, spec),
        )
        try:
            return govern(spec, wish, cause.value, ledger, clock)
        except UnavailableError as error:
            return dg.SkipReason(str(error))

    return ThriftySensor(
        name=f"{spec.name}_{cause}",
        evaluation_fn=look,
        job_name=REFRESH,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description=f"Refreshes {spec.name} when its newest {said} is {alarm}",
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
