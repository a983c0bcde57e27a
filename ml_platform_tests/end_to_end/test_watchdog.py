"""A daemon that hangs is noticed from outside it, by one command."""

import json

import psutil
import pytest

from ml_platform.local.vitals import Finding, Patience, look
from ml_platform_tests.end_to_end.running import Up, until

pytestmark = pytest.mark.timeout(1200)

QUICKEST = "sensor mlflow_endings"
LATE = Patience(heartbeat=3600, sensor=0, sensor_intervals=2, schedule=3600)
"""The quickest sensor is missed after 20 seconds, since nobody wants to wait until the daemon is."""


def test_everything_ticks(up: Up) -> None:
    """The command says how much it looked at, and the exit code is for cron."""
    said = up.type("check")

    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("everything ticks: ")
    assert int(said.stdout.split()[2]) > 20, said.stdout


def test_a_daemon_that_hangs_is_noticed_until_it_goes_on(up: Up) -> None:
    """Stopped, not ended: nobody would restart it."""
    until("the sensor ticks", lambda: not _missed(up))

    daemon = _daemon(up)
    daemon.suspend()
    try:
        finding = until("the sensor is missed", lambda: _missed(up))
        (silent,) = look(up.page, Patience(heartbeat=1)).findings
    finally:
        daemon.resume()

    assert "has not ticked well since" in finding.words
    assert "Dagster's daemon gave its last sign of life at" in silent.words
    until("the sensor ticks again", lambda: not _missed(up))


def _missed(up: Up) -> Finding | None:
    """The finding about the quickest sensor."""
    return next((finding for finding in look(up.page, LATE).findings if finding.about == QUICKEST), None)


def _daemon(up: Up) -> psutil.Process:
    """The process of Dagster's daemon."""
    processes = json.loads((up.state / "processes.json").read_text(encoding="utf-8"))
    return psutil.Process(next(one["pid"] for one in processes if one["name"] == "dagster daemon"))
