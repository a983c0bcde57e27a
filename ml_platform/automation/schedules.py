"""Schedules: the weekly refresh, the full sync, the daily looks and the scores of each model, by its spec."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.assets.room import FULL_SYNC, MODEL, TRIGGER, key
from ml_platform.automation.governing import fingerprints, govern, is_under_way
from ml_platform.automation.jobs import DRIFT, PERFORMANCE, REFRESH, SCORE, SYNC
from ml_platform.modeling.governor import Cause, Wish
from ml_platform.modeling.spec import ModelSpec


def schedules_of(spec: ModelSpec, status: dg.DefaultScheduleStatus) -> list[dg.ScheduleDefinition]:
    """The schedules of one model."""
    watched = spec.monitoring
    made = [
        _weekly(spec, status),
        _schedule(spec, "drift_report", watched.cron, DRIFT, [key(spec, "drift_report")], status),
        _schedule(
            spec,
            "realised_performance",
            watched.outcomes_cron,
            PERFORMANCE,
            [key(spec, "realised_performance")],
            status,
        ),
    ]
    if spec.source.full_sync_cron:
        raw = [dg.AssetKey([spec.name, "raw_data"])]
        made.append(_schedule(spec, "full_sync", spec.source.full_sync_cron, SYNC, raw, status))
    if spec.scoring:
        made.append(_schedule(spec, "scores", spec.scoring.cron, SCORE, [dg.AssetKey([spec.name, "scores"])], status))
    return made


def _weekly(spec: ModelSpec, status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Wishes for a refresh."""

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        doors = context.resources
        data, trained = fingerprints(context.instance, spec, doors.source)
        wish = Wish(
            key=context.scheduled_execution_time.isoformat(),
            cause=Cause.SCHEDULE,
            reason="the weekly refresh is due",
            data=data,
            trained=trained,
            under_way=is_under_way(context.instance, spec),
        )
        return govern(spec, wish, "schedule weekly_refresh", doors.ledger, doors.clock)

    return dg.ScheduleDefinition(
        name=f"{spec.name}_weekly_refresh",
        job_name=REFRESH,
        cron_schedule=spec.retrain.cron,
        execution_fn=request,
        required_resource_keys={"source", "ledger", "clock"},
        default_status=status,
        description=f"weekly refresh of {spec.name}",
    )


def _schedule(
    spec: ModelSpec,
    what: str,
    cron: str,
    job: str,
    keys: Sequence[dg.AssetKey],
    status: dg.DefaultScheduleStatus,
) -> dg.ScheduleDefinition:
    tags = {MODEL: spec.name, TRIGGER: f"schedule {what}"} | ({FULL_SYNC: "yes"} if job == SYNC else {})

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        due = context.scheduled_execution_time.isoformat()
        return dg.RunRequest(run_key=due, asset_selection=list(keys), tags=tags)

    return dg.ScheduleDefinition(
        name=f"{spec.name}_{what}",
        job_name=job,
        cron_schedule=cron,
        execution_fn=request,
        default_status=status,
        description=f"{what.replace('_', ' ')} of {spec.name}",
    )
