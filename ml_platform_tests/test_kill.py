"""Kill -9 of a run in each room: the next refresh converges, nothing is lost or doubled, and MLflow tells the truth."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.local import company
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, DAGSTER_RUN
from ml_platform_tests.killing import refresh_and_die
from ml_platform_tests.platform import Platform

MODEL = "student_dropout"


@pytest.fixture(scope="module")
def refreshed(platform: Platform) -> Platform:
    """A platform with a live champion."""
    assert platform.refresh(MODEL).success
    return platform


@pytest.mark.parametrize("room", ROOMS)
def test_a_run_killed_in_a_room_is_made_good_by_the_next(refreshed: Platform, room: str) -> None:
    """The champion answers all the time; afterwards the newest version is live, and it is the champion."""
    _new_rows_that_will_win(refreshed)
    before = refreshed.predict(MODEL, [refreshed.example(MODEL)])["version"]

    killed = refresh_and_die(refreshed.instance, refreshed.settings.as_environment(), MODEL, room)
    answered = refreshed.predict(MODEL, [refreshed.example(MODEL)])["version"]
    _notice_the_death(refreshed.instance, killed)
    again = refreshed.refresh(MODEL)

    assert again.success, [e.message for e in again.all_events if e.is_failure]
    assert answered == before or room == "deployment"
    _assert_whole(refreshed)
    _assert_mlflow_tells_the_truth(refreshed)


def _new_rows_that_will_win(platform: Platform) -> None:
    """New rows, and no champion to lose against, so that every room has something to do."""
    assert company.arrive(platform.settings.source_url, MODEL, 20, datetime.now(UTC)) == 20
    for alias in (CHAMPION, CHALLENGER):
        platform.tracking.client.delete_registered_model_alias(MODEL, alias)


def _notice_the_death(instance: dg.DagsterInstance, run_id: str) -> None:
    """What run monitoring does when a run's process is gone."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.STARTED
    instance.report_run_failed(run, "its process was killed")


def _assert_whole(platform: Platform) -> None:
    versions = platform.tracking.client.search_model_versions(f"name = '{MODEL}'")
    newest = str(max(int(v.version) for v in versions))
    rows = DatasetStore(root=platform.settings.datasets).read(f"{MODEL}/raw_data")
    ((at_source,),) = platform.sql("select count(*) from students")

    assert platform.predict(MODEL, [platform.example(MODEL)])["version"] == newest
    assert platform.tracking.champion_version(MODEL) == newest
    assert (len(rows), rows["student_id"].n_unique()) == (at_source, at_source)
    assert len({v.run_id for v in versions}) == len(versions)


def _assert_mlflow_tells_the_truth(platform: Platform) -> None:
    """No run of a Dagster run that failed says FINISHED; every run of a green one does."""
    platform.tracking.settle(platform.instance)
    client = platform.tracking.client
    experiment = client.get_experiment_by_name(MODEL)
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        dagster_run = platform.instance.get_run_by_id(run.data.tags[DAGSTER_RUN])
        assert dagster_run is not None
        expected = {"SUCCESS": "FINISHED", "FAILURE": "FAILED"}[dagster_run.status.value]
        assert run.info.status == expected
