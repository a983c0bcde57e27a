"""MLflow runs end as their Dagster runs did, also under the multiprocess executor, which dagster-mlflow gets wrong."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.resources.tracking import DAGSTER_RUN
from ml_platform_tests.platform import Platform

JOB = '''
"""A training room and a room after it, each in a process of its own."""

import os

import dagster as dg

from ml_platform.resources.tracking import ExperimentTracking

EXPERIMENT = os.environ["EXPERIMENT"]


@dg.asset
def trained(context: dg.AssetExecutionContext, tracking: ExperimentTracking) -> None:
    with tracking.training_run(context, EXPERIMENT) as mlflow:
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
