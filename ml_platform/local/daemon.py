"""Dagster's daemon on one machine: settles what an earlier platform left behind, and warms up the run launcher."""

import sys

import click

from ml_platform.local.processes import PlatformError

FRESH = "--fresh"


def main() -> None:
    """Run the daemon. With `--fresh` no run of an earlier platform survives; without, runs go on while it restarts."""
    from dagster import DagsterInstance  # noqa: PLC0415 - each forked run imports this module, but nothing from here
    from dagster._daemon.cli import run_command  # noqa: PLC0415 - as above

    from ml_platform.local.launcher import ForkRunLauncher  # noqa: PLC0415 - as above
    from ml_platform.local.leftovers import fail_dead_runs  # noqa: PLC0415 - as above

    arguments = [argument for argument in sys.argv[1:] if argument != FRESH]
    with DagsterInstance.get() as instance:
        for run_id in fail_dead_runs(instance, end_living=FRESH in sys.argv):
            click.echo(f"Run {run_id} of an earlier platform was under way when that ended: it has been settled.")
        launcher = instance.run_launcher
        if not instance.run_monitoring_enabled:
            msg = "run_monitoring is off in dagster.yaml: a run whose process dies would hold its model for ever"
            raise PlatformError(msg)
        if isinstance(launcher, ForkRunLauncher):
            launcher.warm_up()
        run_command.main(args=arguments, prog_name="dagster-daemon run")


if __name__ == "__main__":
    main()
