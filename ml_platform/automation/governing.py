"""Governing: every automatic wish to retrain goes through here, and comes out as a run or as the reason against it."""

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg
import msgspec
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES

from ml_platform.assets.raw_data import CURSOR, WATERMARK
from ml_platform.assets.room import MODEL, TRIGGER, key
from ml_platform.assets.trained_model import SOURCE_CODE
from ml_platform.automation.jobs import REFRESH, refresh_keys
from ml_platform.modeling import governor, source_code
from ml_platform.modeling.decisions import Outcome
from ml_platform.modeling.governor import Wish
from ml_platform.modeling.ingestion import Cursor
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.products import PRODUCT, Pulled, TrainedModel
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.unavailable import UnavailableError

LOOK_BACK = 20


def govern(
    spec: ModelSpec, wish: Wish, trigger: str, ledger: DecisionLedger, clock: Clock
) -> dg.RunRequest | dg.SkipReason:
    """A refresh if the governor grants the wish, and in the ledger either way.

    Args:
        spec: the model.
        wish: why it should be refreshed.
        trigger: the same in a word or two, for the run's tag.
        ledger: where it is decided.
        clock: the time.

    Raises:
        UnavailableError: when the ledger cannot be reached: nothing is decided then.
    """
    now = clock.now()
    entry = ledger.decide(spec.name, lambda history: governor.decide(spec.name, spec.retrain, history, wish, now))
    if entry.outcome is not Outcome.STARTED:
        return dg.SkipReason(f"refused: {entry.reason}")
    tags = {MODEL: spec.name, TRIGGER: trigger}
    return dg.RunRequest(run_key=entry.key, job_name=REFRESH, asset_selection=refresh_keys(spec), tags=tags)


def is_under_way(instance: dg.DagsterInstance, spec: ModelSpec) -> bool:
    """Whether a refresh of the model runs or waits, one that was clicked in the asset graph included."""
    runs, trained = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)), key(spec, "trained_model")
    return any(trained in run.asset_selection if run.asset_selection else run.job_name == REFRESH for run in runs)


def newest_pull(instance: dg.DagsterInstance, spec: ModelSpec) -> dg.EventLogRecord | None:
    """The newest materialization of `raw_data` that pulled from the source."""
    pulls = instance.fetch_materializations(key(spec, "raw_data"), limit=LOOK_BACK).records
    return next((record for record in pulls if CURSOR in metadata_of(record)), None)


def learned(instance: dg.DagsterInstance, spec: ModelSpec) -> tuple[int, Pulled] | None:
    """How far the newest training knows the source, and its number in the event log.

    A pull that nothing was trained on has not been learned from: its run may have failed, or was of that room alone.
    Where nothing was trained yet, the newest pull counts; None where there is none.
    """
    for limit in (1, LOOK_BACK):  # The newest tells nearly always, and each comes with all its pictures.
        for record in instance.fetch_materializations(key(spec, "trained_model"), limit=limit).records:
            product = metadata_of(record).get(PRODUCT)
            pulled = msgspec.convert(product.value, TrainedModel).pulled if product else None
            if pulled:
                return record.storage_id, pulled
    return pulled_last(instance, spec)


def pulled_last(instance: dg.DagsterInstance, spec: ModelSpec) -> tuple[int, Pulled] | None:
    """How far the source was read last, and the pull's number in the event log."""
    newest = newest_pull(instance, spec)
    if newest is None:
        return None
    metadata = metadata_of(newest)
    return newest.storage_id, Pulled(cursor=str(metadata[CURSOR].value), watermark=moment(metadata.get(WATERMARK)))


def newest_attempt(instance: dg.DagsterInstance, spec: ModelSpec) -> tuple[str, bool]:
    """The newest refresh of the model that has ended, and whether a room of it failed: then rows or code are wrong.

    One that was killed has no room that failed.
    """
    wanted = dg.RunsFilter(job_name=REFRESH, tags={MODEL: spec.name}, statuses=FINISHED_STATUSES)
    newest = next((run.run_id for run in instance.get_runs(wanted, limit=1)), None)
    return newest or "none", bool(newest and instance.get_run_stats(newest).steps_failed)


def fingerprints(
    instance: dg.DagsterInstance, spec: ModelSpec, source: SourceDatabase
) -> tuple[str | None, str | None]:
    """What would be trained now, and what was trained last: equal when neither rows nor code have changed since."""
    pulled = newest_pull(instance, spec)
    trainings = instance.fetch_materializations(key(spec, "trained_model"), limit=1).records
    if pulled is None or not trainings:
        return None, None
    cursor = metadata_of(pulled)[CURSOR].value
    now = None if _has_changed(spec, pulled, source) else f"{cursor} {source_code.fingerprint(spec)}"
    training = metadata_of(trainings[0])
    on_that_pull = trainings[0].storage_id > pulled.storage_id and SOURCE_CODE in training
    return now, f"{cursor} {training[SOURCE_CODE].value}" if on_that_pull else None


def _has_changed(spec: ModelSpec, pulled: dg.EventLogRecord, source: SourceDatabase) -> bool:
    """Whether a row is new or changed at the source; if it cannot be asked, the refresh itself will find out."""
    pull = metadata_of(pulled)
    since, after = Cursor.loads(str(pull[CURSOR].value)), moment(pull.get(WATERMARK))
    try:
        return source.count_changed(spec.source, since, after, at_most=1) > 0
    except UnavailableError:
        return True


def metadata_of(record: dg.EventLogRecord) -> Mapping[str, dg.MetadataValue]:
    """What a materialization says about itself."""
    return record.asset_materialization.metadata if record.asset_materialization else {}


def moment(watermark: object) -> datetime | None:
    """The time in a materialization's metadata, if it is one."""
    return datetime.fromtimestamp(watermark.value, UTC) if isinstance(watermark, dg.TimestampMetadataValue) else None
