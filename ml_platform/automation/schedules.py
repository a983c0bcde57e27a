"""Schedules: the weekly refresh, the full sync, the daily look for drift and the scores of each model, by its spec."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.assets.room import FULL_SYNC
from ml_platform.automation.jobs import DRIFT, REFRESH, SCORE, SYNC, refresh_keys
from ml_platform.modeling.spec import ModelSpec


def schedules_of(spec: ModelSpec, status: dg.DefaultScheduleStatus) -> list[dg.ScheduleDefinition]:
    """The schedules of one model."""
    made = [
        _schedule(spec, "weekly_refresh", spec.retrain.cron, REFRESH, refresh_keys(spec), status),
        _schedule(
            spec, "drift_report", spec.monitoring.cron, DRIFT, [dg.AssetKey([spec.name, "drift_report"])], status
        ),
    ]
    if spec.source.full_sync_cron:
        raw = [dg.AssetKey([spec.name, "raw_data"])]
        made.append(_schedule(spec, "full_sync", spec.source.full_sync_cron, SYNC, raw, status))
    if spec.scoring:
        made.append(_schedule(spec, "scores", spec.scoring.cron, SCORE, [dg.AssetKey([spec.name, "scores"])], status))
    return made


def _schedule(
    spec: ModelSpec,
    what: str,
    cron: str,
    job: str,
    keys: Sequence[dg.AssetKey],
    status: dg.DefaultScheduleStatus,
) -> dg.ScheduleDefinition:
    tags = {FULL_SYNC: "yes"} if job == SYNC else {}

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        due = context.scheduled_execution_time.isoformat()
        return dg.RunRequest(
            run_key=due, asset_selection=list(keys), tags={"ml_platform/trigger": f"schedule {what}", **tags}
        )

    return dg.ScheduleDefinition(
        name=f"{spec.name}_{what}",
        job_name=job,
        cron_schedule=cron,
        execution_fn=request,
        default_status=status,
        description=f"{what.replace('_', ' ')} of {spec.name}",
    )
