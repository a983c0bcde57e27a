"""Digests: once a week a few lines about every model, for those who do not look at the page."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import dagster as dg

from ml_platform.modeling.digest import digest
from ml_platform.modeling.spec import ModelSpec

DIGEST = "weekly_digest"
MONDAY_MORNING = "0 7 * * 1"
WEEK = timedelta(days=7)


def digest_job(models: Sequence[ModelSpec], doors: Mapping[str, dg.ResourceDefinition]) -> dg.JobDefinition:
    """Writes the digest to the run's log and sends it to whoever listens; on demand too.

    Args:
        models: the catalogue.
        doors: the resources by name.
    """
    names = sorted(spec.name for spec in models)

    @dg.op(name=f"send_{DIGEST}", required_resource_keys={"store", "ledger", "clock", "alerts"})
    def write(context: dg.OpExecutionContext) -> str:
        here = context.resources
        now = here.clock.now()
        parts = []
        for name in names:
            served = here.ledger.served(name, now)
            answered = sum(here.store.traffic(name, now, WEEK, 1))
            parts.append(digest(name, answered, here.ledger.since(name, now - WEEK), served and served.version))
        text = "\n".join(parts)
        context.log.info(text)
        for service in here.alerts.channel.send(f"ml_platform: the week until {now:%Y-%m-%d}", text):
            context.log.warning("%s did not take the digest", service)
        return text

    @dg.job(
        name=DIGEST,
        description="The week of every model: traffic, drift, realised against promised, decisions",
        resource_defs=dict(doors),
    )
    def job() -> None:
        write()

    return job


def digest_schedule(status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """Monday morning."""
    return dg.ScheduleDefinition(
        name=DIGEST, job_name=DIGEST, cron_schedule=MONDAY_MORNING, default_status=status, description="Monday morning"
    )
