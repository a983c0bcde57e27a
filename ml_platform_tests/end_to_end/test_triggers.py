"""What starts a refresh without a click, and what keeps two of one model apart."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.local.runs import LOCATION
from ml_platform_tests.end_to_end.running import Up, until

pytestmark = pytest.mark.timeout(1200)

GROWING, STEADY = "loan_approval", "student_dropout"
TRIGGER = "ml_platform/trigger"
TICKS = """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
  sensorState { status ticks(limit: 20) { timestamp status runIds skipReason } } } } }"""
RUNS = (
    """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 100) { ... on Runs { results { runId } } } }"""
)
SCHEDULE = """query($schedule: ScheduleSelector!) { scheduleOrError(scheduleSelector: $schedule) { ... on Schedule {
  cronSchedule scheduleState { status } } } }"""
EVALUATE = """mutation($schedule: ScheduleSelector!, $at: Float) {
  scheduleDryRun(selectorData: $schedule, timestamp: $at) { ... on DryRunInstigationTick { evaluationResult {
    error { message } skipReason runRequests { jobName } } } } }"""


@pytest.fixture(scope="module")
def triggered(platform_up: Up, drifted: str) -> dict[str, str]:
    """Both triggers pulled at once, nobody clicked: the run that each has started, by model."""
    said = platform_up.type("demo-rows", GROWING, "--rows", "120")
    assert said.stdout.strip() == f"{GROWING}: 120 new rows", said.stderr
    # Few rows, but something new to learn: without, the governor would refuse what drift wishes for.
    assert platform_up.type("demo-rows", drifted, "--rows", "20").returncode == 0
    return {
        GROWING: _wait_for_trigger(platform_up, "new data: 100 rows or more", GROWING),
        drifted: _wait_for_trigger(platform_up, "drift", drifted),
    }


def test_new_rows_start_a_refresh_that_takes_them_in(up: Up, triggered: dict[str, str]) -> None:
    """A hundred new rows are reason enough: the run says so on a tag, ends green, and has the rows."""
    run = up.wait_for_run(triggered[GROWING])

    assert run["status"] == "SUCCESS"
    assert run["tags"][TRIGGER].startswith("new data")
    assert set(ROOMS[:5]) <= up.rooms_made(triggered[GROWING])


def test_drifted_requests_start_one_refresh(up: Up, drifted: str, triggered: dict[str, str]) -> None:
    """The report that shows drift starts one refresh; the sensor's next look starts nothing more."""
    run = up.wait_for_run(triggered[drifted])

    assert run["status"] == "SUCCESS"
    began = next(tick["timestamp"] for tick in _ticks(up, f"{drifted}_drift") if triggered[drifted] in tick["runIds"])
    later = until("another tick", lambda: [t for t in _ticks(up, f"{drifted}_drift") if _is_later(t, began)])
    assert [tick["runIds"] for tick in later] == [[]] * len(later)
    assert len(_runs(up, {TRIGGER: "drift"})) == 1


def test_runs_of_one_model_wait_for_each_other_and_two_models_do_not(up: Up) -> None:
    """Of two refreshes of one model the second starts when the first is over; another model runs meanwhile."""
    queued = [up.page.submit_refresh(model, {}) for model in (GROWING, GROWING, STEADY)]

    one, other, beside = (up.wait_for_run(run_id) for run_id in queued)

    assert {run["status"] for run in (one, other, beside)} == {"SUCCESS"}
    first, second = sorted((one, other), key=lambda run: float(run["startTime"]))
    assert first["endTime"] <= second["startTime"]
    assert beside["startTime"] < second["endTime"]
    assert beside["endTime"] > first["startTime"]
    assert beside["startTime"] < first["endTime"], "the other model waited"


@pytest.mark.parametrize("model", [GROWING, STEADY])
def test_the_weekly_schedule_is_on_and_refreshes_nothing_for_nothing(up: Up, model: str) -> None:
    """On Sunday at midnight the governor is asked, and refuses: the model was trained on these rows by this code."""
    selector = LOCATION | {"scheduleName": f"{model}_weekly_refresh"}

    schedule = up.ask(SCHEDULE, schedule=selector)["scheduleOrError"]
    evaluated = up.ask(EVALUATE, schedule=selector, at=_sunday().timestamp())["scheduleDryRun"]["evaluationResult"]

    assert schedule == {"cronSchedule": "0 0 * * 0", "scheduleState": {"status": "RUNNING"}}
    assert (evaluated["error"], evaluated["runRequests"]) == (None, [])
    assert evaluated["skipReason"].startswith("refused: the weekly refresh is due; ")


@pytest.mark.parametrize("model", [GROWING, STEADY])
@pytest.mark.parametrize("what", ["new_data", "drift"])
def test_the_sensors_are_on_and_have_looked(up: Up, model: str, what: str) -> None:
    """Nobody has to switch anything on, and no look has failed."""
    state = up.ask(TICKS, sensor=_sensor(f"{model}_{what}"))["sensorOrError"]["sensorState"]

    assert state["status"] == "RUNNING"
    assert "FAILURE" not in {tick["status"] for tick in state["ticks"]}
    until("a first look", lambda: _ticks(up, f"{model}_{what}"))


def _sensor(name: str) -> dict[str, str]:
    return LOCATION | {"sensorName": name}


def _ticks(up: Up, sensor: str) -> list[dict[str, Any]]:
    """The sensor's looks that are over, newest first."""
    ticks = up.ask(TICKS, sensor=_sensor(sensor))["sensorOrError"]["sensorState"]["ticks"]
    return [tick for tick in ticks if tick["status"] != "STARTED"]


def _is_later(tick: dict[str, Any], moment: float) -> bool:
    return float(tick["timestamp"]) > moment


def _runs(up: Up, tags: dict[str, str]) -> list[str]:
    """The runs with these tags."""
    wanted = [{"key": key, "value": value} for key, value in tags.items()]
    return [run["runId"] for run in up.ask(RUNS, filter={"tags": wanted})["runsOrError"]["results"]]


def _wait_for_trigger(up: Up, trigger: str, model: str) -> str:
    """The run that the trigger has started for the model."""

    def started() -> str | None:
        found = _runs(up, {TRIGGER: trigger})
        return next((run_id for run_id in found if model in up.page.run(run_id).models), None)

    return until(f"a refresh of {model} by {trigger}", started)


def _sunday() -> datetime:
    """The last Sunday's midnight."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=(today.weekday() + 1) % 7)
