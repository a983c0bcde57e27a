"""What an earlier platform left in Dagster's storage when it was killed, or when the power went."""

from collections.abc import Iterator

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from ml_platform.local.launcher import Worker

UNDER_WAY = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def fail_dead_runs(instance: DagsterInstance, *, end_living: bool) -> Iterator[str]:
    """Runs that nobody executes any more are over, so that they hold no slot; queued runs keep their place.

    With `end_living` the worker processes that outlived the platform are ended first: their databases were gone for a
    while, and a new run of the same model must not meet them.

    Yields:
        The id of each run that was settled.
    """
    for run in instance.get_runs(filters=RunsFilter(statuses=UNDER_WAY)):
        worker = Worker.of(run)
        if worker and worker.is_alive():
            if not end_living:
                continue
            worker.kill()
        if worker or end_living:
            _settle(instance, run)
            yield run.run_id


def _settle(instance: DagsterInstance, run: DagsterRun) -> None:
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The run was being terminated when the platform stopped.")
    else:
        instance.report_run_failed(
            run, "The platform stopped while the run was under way; nothing executes it any more."
        )
