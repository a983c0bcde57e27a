"""MLflow runs end as their Dagster runs did, also under the multiprocess executor, which dagster-mlflow gets wrong."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.assets.room import AS_OF
from ml_platform.local import company
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, DAGSTER_RUN
from ml_platform_tests.killing import refresh_and_die
from ml_platform_tests.platform import Platform

MODEL = "student_dropout"
JOB = '''
"""A training room and a room after it, each in a process of its own."""

import os

import dagster as dg

from ml_platform.resources.tracking import ExperimentTracking

EXPERIMENT = os.environ["EXPERIMENT"]


@dg.asset
def trained(context: dg.AssetExecutionContext, tracking: ExperimentTracking) -> None:
    with tracking.training_run(context, EXPERIMENT, "a training") as mlflow:
        mlflow.log_metric("score", 1.0)
        if os.environ["FAIL_IN"] == "trained":
            raise ValueError("in training")


@dg.asset(deps=[trained])
def later() -> None:
    if os.environ["FAIL_IN"] == "later":
        raise ValueError("after training")
    if os.environ["FAIL_IN"] == "killed":
        os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)


defs = dg.Definitions(
    assets=[trained, later],
    jobs=[dg.define_asset_job("both")],
    resources={"tracking": ExperimentTracking(url=os.environ["ML_PLATFORM_MLFLOW_URL"])},
    executor=dg.multiprocess_executor,
)
'''


@pytest.mark.parametrize(
    ("fail_in", "between", "ending"),
    [
        ("nowhere", "RUNNING", "FINISHED"),
        ("trained", "FAILED", "FAILED"),
        ("later", "RUNNING", "FAILED"),
        ("killed", "RUNNING", "FAILED"),
    ],
)
def test_a_multiprocess_run_ends_the_same_in_mlflow(
    platform: Platform, tmp_path: Path, fail_in: str, between: str, ending: str
) -> None:
    """Success, failure in training, failure after it, and kill -9 after it."""
    (tmp_path / "endings.py").write_text(JOB)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    environment = os.environ | {
        "EXPERIMENT": f"endings_{fail_in}",
        "FAIL_IN": fail_in,
        "DAGSTER_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute", "-f", "endings.py", "-j", "both"]

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (run,) = instance.get_runs()
        assert _status(platform, fail_in, run.run_id) == between, done.stderr[-2000:]
        if fail_in == "killed":
            instance.report_run_failed(run, "its process was killed")
        platform.tracking.settle(instance)
        assert _status(platform, fail_in, run.run_id) == ending


def _status(platform: Platform, fail_in: str, dagster_run: str) -> str:
    client = platform.tracking.client
    experiment = client.get_experiment_by_name(f"endings_{fail_in}")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags[DAGSTER_RUN] == dagster_run
    return str(found.info.status)


@pytest.mark.parametrize(
    ("lost", "looks_back", "room"),
    [
        ((CHAMPION, CHALLENGER), False, "evaluation"),
        ((CHAMPION,), False, "image"),
        ((CHAMPION, CHALLENGER), True, "image"),
    ],
    ids=["the same rows", "a winner that is not live", "the same rows as of a moment"],
)
def test_the_run_of_a_green_refresh_is_finished_whatever_becomes_of_one_that_meets_it(
    platform: Platform, lost: Sequence[str], room: str, *, looks_back: bool
) -> None:
    """The sensor has not come by yet; the second refresh finds the same training, and is killed after that."""
    made_by = _refreshed_with_new_rows(platform)
    run_id = _newest(platform)
    assert _ending(platform, run_id) == ("RUNNING", made_by)
    _forget(platform, lost)
    tags = {AS_OF: datetime.now(UTC).isoformat()} if looks_back else {}

    killed = refresh_and_die(platform.instance, platform.settings.as_environment(), MODEL, room, tags)

    assert _ending(platform, run_id) == ("FINISHED", made_by)
    _notice_the_death(platform, killed)
    assert run_id not in platform.tracking.settle(platform.instance)
    assert _ending(platform, run_id) == ("FINISHED", made_by)
    assert _newest(platform) == run_id


def test_a_run_stays_with_a_refresh_under_way_and_goes_on_with_the_next_when_that_one_died(platform: Platform) -> None:
    """Nobody can tell a refresh that is slow from one whose death was not noticed yet."""
    _forget(platform, (CHAMPION, CHALLENGER))
    assert company.arrive(platform.settings.source_url, MODEL, 20, datetime.now(UTC)) == 20
    killed = refresh_and_die(platform.instance, platform.settings.as_environment(), MODEL, "evaluation")
    run_id = _newest(platform)
    named = platform.tracking.run(run_id).info.run_name

    assert platform.refresh(MODEL).success
    while_under_way = _ending(platform, run_id)
    _notice_the_death(platform, killed)
    platform.tracking.settle(platform.instance)
    when_noticed = _ending(platform, run_id)
    again = platform.refresh(MODEL)
    platform.tracking.settle(platform.instance)

    assert platform.tracking.run(run_id).info.run_name == named
    assert named.endswith(f" {killed[:8]}")
    assert while_under_way == ("RUNNING", killed)
    assert when_noticed == ("FAILED", killed)
    assert _ending(platform, run_id) == ("FINISHED", again.run_id)
    assert _newest(platform) == run_id


def _refreshed_with_new_rows(platform: Platform) -> str:
    """A green refresh that trained and went live; its Dagster run."""
    _forget(platform, (CHAMPION, CHALLENGER))
    assert company.arrive(platform.settings.source_url, MODEL, 20, datetime.now(UTC)) == 20
    done = platform.refresh(MODEL)
    assert done.success
    return done.run_id


def _forget(platform: Platform, aliases: Sequence[str]) -> None:
    for alias in aliases if platform.tracking.aliases().get(MODEL) else ():
        platform.tracking.client.delete_registered_model_alias(MODEL, alias)


def _newest(platform: Platform) -> str:
    """The MLflow run that began last."""
    experiment = platform.tracking.client.get_experiment_by_name(MODEL)
    assert experiment is not None
    return str(platform.tracking.client.search_runs([experiment.experiment_id], max_results=1)[0].info.run_id)


def _ending(platform: Platform, run_id: str) -> tuple[str, str]:
    """The status of an MLflow run, and the Dagster run it belongs to."""
    run = platform.tracking.run(run_id)
    return run.info.status, run.data.tags[DAGSTER_RUN]


def _notice_the_death(platform: Platform, dagster_run: str) -> None:
    """What run monitoring does when a run's process is gone."""
    run = platform.instance.get_run_by_id(dagster_run)
    assert run is not None
    platform.instance.report_run_failed(run, "its process was killed")
