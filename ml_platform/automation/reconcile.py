"""Reconcile: a look at whether traffic, champion alias and ledger agree, and a run for what does not."""

from collections.abc import Sequence

import dagster as dg
import msgspec
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ml_platform.assets.room import MODEL, TRIGGER
from ml_platform.automation.clicks import REPAIR, click_config
from ml_platform.automation.governing import is_under_way
from ml_platform.automation.jobs import REFRESH, release_keys
from ml_platform.automation.ticks import ThriftySensor
from ml_platform.modeling.decisions import PLATFORM
from ml_platform.modeling.reconciling import Diagnosis, Finding
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.resources.traffic import Doors, look
from ml_platform.resources.unavailable import UnavailableError

LOOK_EVERY_S = 30


def reconcile_sensor(
    models: Sequence[ModelSpec],
    jobs: Sequence[dg.JobDefinition | UnresolvedAssetJobDefinition],
    status: dg.DefaultSensorStatus,
) -> dg.SensorDefinition:
    """Repairs what was found twice in a row, so that a promotion under way is left alone.

    Args:
        models: the catalogue.
        jobs: among them the refresh and the repair.
        status: whether it is on.
    """

    def reconcile(
        context: dg.SensorEvaluationContext,
        tracking: ExperimentTracking,
        serving: LocalServing,
        bundles: BundleStore,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.SensorResult | dg.SkipReason:
        before = msgspec.json.decode(context.cursor or "{}", type=dict[str, str])
        doors = Doors(tracking=tracking, serving=serving, bundles=bundles, ledger=ledger)
        try:
            looked = look([spec.name for spec in models], doors)
        except UnavailableError as error:
            return dg.SkipReason(str(error))
        found = {model: d for model, d in looked.items() if d.finding is not Finding.AGREED and d.version}
        twice = [spec for spec in models if spec.name in found and found[spec.name].words == before.get(spec.name)]
        runs = [
            _remedy(spec, found[spec.name], f"{clock.now():%Y-%m-%d %H}")
            for spec in twice
            if not is_under_way(context.instance, spec)
        ]
        words = {model: diagnosis.words for model, diagnosis in found.items()}
        said = "; ".join(f"{model}: {what}" for model, what in words.items())
        return dg.SensorResult(
            run_requests=runs,
            skip_reason=None if runs else dg.SkipReason(said or "traffic, champion alias and ledger agree"),
            cursor=msgspec.json.encode(words).decode(),
        )

    return ThriftySensor(
        name="reconcile",
        evaluation_fn=reconcile,
        jobs=[job for job in jobs if job.name in (REFRESH, REPAIR)],
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description="Repairs traffic, champion alias and ledger that disagree; deploys a winner that never went live",
    )


def _remedy(spec: ModelSpec, found: Diagnosis, hour: str) -> dg.RunRequest:
    """A repair, or for a winner that waits the rooms that take it live; what does not help is tried once an hour."""
    run_key = f"{spec.name} {found.words} {hour}"
    if found.finding is Finding.WINNER_WAITS:
        tags = {MODEL: spec.name, TRIGGER: f"reconcile: {Finding.WINNER_WAITS}"}
        return dg.RunRequest(run_key=run_key, job_name=REFRESH, asset_selection=release_keys(spec), tags=tags)
    config = click_config(REPAIR, model=spec.name, because=found.words, by=PLATFORM)
    return dg.RunRequest(run_key=run_key, job_name=REPAIR, run_config=config, tags={TRIGGER: "reconcile"})
