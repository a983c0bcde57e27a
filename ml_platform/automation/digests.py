"""Digests: once a week a few lines about every model, for those who do not look at the page."""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from ml_platform.modeling.digest import digest
from ml_platform.modeling.spec import ModelSpec

DIGEST = "weekly_digest"
MONDAY_MORNING = "0 7 * * 1"
WEEK = timedelta(days=7)


def digest_job(models: Sequence[ModelSpec]) -> dg.JobDefinition:
    """Writes the digest to the run's log and sends it to whoever listens; on demand too."""
    names = sorted(spec.name for spec in models)

    @dg.op(name=f"send_{DIGEST}", required_resource_keys={"store", "ledger", "clock", "alerts"})
    def write(context: dg.OpExecutionContext) -> str:
        doors = context.resources
        now = doors.clock.now()
        parts = []
        for name in names:
            served = doors.ledger.served(name, now)
            answered = sum(doors.store.traffic(name, now, WEEK, 1))
            parts.append(digest(name, answered, doors.ledger.since(name, now - WEEK), served and served.version))
        text = "\n".join(parts)
        context.log.info(text)
        for service in doors.alerts.channel.send(f"ml_platform: the week until {now:%Y-%m-%d}", text):
            context.log.warning("%s did not take the digest", service)
        return text

    @dg.job(name=DIGEST, description="The week of every model: traffic, drift, realised against promised, decisions")
    def job() -> None:
        write()

    return job


def digest_schedule(status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Monday morning."""
    return dg.ScheduleDefinition(
        name=DIGEST, job_name=DIGEST, cron_schedule=MONDAY_MORNING, default_status=status, description="Monday morning"
    )
