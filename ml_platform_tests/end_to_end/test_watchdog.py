"""A daemon that hangs is noticed from outside it, by one command."""

import json

import psutil
import pytest

from ml_platform.local.vitals import Patience, look
from ml_platform_tests.end_to_end.running import Up, until

pytestmark = pytest.mark.timeout(1200)

BEAT_SECONDS = 30
LATE = Patience(heartbeat=BEAT_SECONDS + 10, sensor=3600, schedule=3600)
"""Ten seconds after the sign of life that should have come, since nobody wants to wait longer."""


def test_everything_ticks(up: Up) -> None:
    """The command says how much it looked at, and the exit code is for cron."""
    said = up.type("check")

    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("everything ticks: ")
    assert int(said.stdout.split()[2]) > 20, said.stdout


def test_a_daemon_that_hangs_is_noticed_until_it_goes_on(up: Up) -> None:
    """Stopped, not ended: nobody would restart it."""
    daemon = _daemon(up)
    until("every daemon has given a sign of life", lambda: not look(up.page, LATE).findings)

    daemon.suspend()
    try:
        (finding,) = until("the daemon is missed", lambda: look(up.page, LATE).findings, 2 * BEAT_SECONDS + 30)
    finally:
        daemon.resume()

    assert "Dagster's daemon gave its last sign of life at" in finding.words
    assert "restart it" in finding.words
    until("it is heard of again", lambda: not look(up.page, LATE).findings)


def _daemon(up: Up) -> psutil.Process:
    """The process of Dagster's daemon."""
    processes = json.loads((up.state / "processes.json").read_text(encoding="utf-8"))
    return psutil.Process(next(one["pid"] for one in processes if one["name"] == "dagster daemon"))
