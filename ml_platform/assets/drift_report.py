"""Beside the corridor, drift_report: what was asked lately against what the champion was trained on."""

import subprocess
import sys
import tempfile
from pathlib import Path

import dagster as dg
import msgspec
import pandas as pd
from mlflow.entities import RunStatus

from ml_platform.assets.room import key, patiently, room
from ml_platform.modeling import bundle, drift
from ml_platform.modeling.drift import DriftResult
from ml_platform.modeling.schema import Logged
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.predictions import PredictionStore
from ml_platform.resources.tracking import CHAMPION, ExperimentTracking, Version
from ml_platform.resources.training_log import REFERENCE

DRIFTED, STATE = "drifted", "state"
TIMEOUT_S = 900


def predictions(spec: ModelSpec) -> dg.AssetSpec:
    """The served requests: written by the model server, read by the drift report."""
    return dg.AssetSpec(
        key=[spec.name, "predictions"],
        group_name=spec.name,
        description="Every answered request, as the model server logs it to PostgreSQL.",
        owners=[spec.owner],
        kinds={"postgres"},
        tags={"model": spec.name},
        deps=[key(spec, "deployment")],
    )


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The report of one model."""

    @room(
        spec,
        "drift_report",
        "Evidently's report of the newest served requests against the rows the champion was trained on. No traffic yet "
        "is a state, not an error.",
        kinds=("evidently", "mlflow"),
        pool=f"{spec.name}_drift",
        deps=[key(spec, "predictions")],
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=spec.monitoring.window * 2),
    )
    def drift_report(
        context: dg.AssetExecutionContext,
        store: PredictionStore,
        bundles: BundleStore,
        tracking: ExperimentTracking,
        clock: Clock,
    ) -> dg.MaterializeResult[None]:
        with patiently(context):
            champion = tracking.version_with_alias(spec.name, CHAMPION)
            if champion is None:
                return _nothing("no champion yet", 0)
            now, rules = clock.now(), spec.monitoring
            current = store.inputs(spec.name, champion.version, now - rules.window, now, rules.max_rows)
            if not len(current):
                return _nothing("no traffic yet", 0)
            if len(current) < rules.min_rows:
                return _nothing(f"not enough traffic yet: {len(current)} of {rules.min_rows} rows", len(current))
            folder_of_champion = tracking.fetch_bundle(champion.run_id, bundles.path, champion.digest)
            plain = comparable(bundle.check(folder_of_champion, champion.digest), current)
            if not plain:
                return _nothing("no column is logged as it is", len(current))
            with tempfile.TemporaryDirectory() as folder:
                result = _compare(tracking, champion, current[plain], Path(folder))
                link = _keep(tracking, spec, champion, result, Path(folder))
        context.log.info("%.0f %% of the columns drifted", 100 * result.share)
        return _result(result, len(current), champion, link)

    return drift_report


def comparable(manifest: bundle.Manifest, served: pd.DataFrame) -> list[str]:
    """The columns of served rows that can be held against training rows: a hash has no distance to a value."""
    return [f.name for f in manifest.fields if f.logged is Logged.PLAIN and f.name in served.columns]


def _compare(tracking: ExperimentTracking, champion: Version, current: pd.DataFrame, folder: Path) -> DriftResult:
    """Run the comparison in a process of its own: Evidently is heavy, and nothing of it stays behind."""
    reference = pd.read_parquet(tracking.download(champion.run_id, REFERENCE, folder))
    names = [name for name in reference.columns if name in current.columns]
    current[names].astype(reference[names].dtypes.to_dict(), errors="ignore").to_parquet(folder / drift.CURRENT)
    reference[names].to_parquet(folder / drift.REFERENCE)
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-W", "ignore", "-m", drift.__name__, str(folder)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        msg = f"the drift comparison failed: {done.stderr.strip()[-2000:]}"
        raise dg.Failure(msg, allow_retries=False)
    return msgspec.json.decode((folder / drift.RESULT).read_bytes(), type=DriftResult)


def _keep(tracking: ExperimentTracking, spec: ModelSpec, champion: Version, result: DriftResult, folder: Path) -> str:
    """Put the report on an MLflow run of its own and return the page where it opens."""
    client = tracking.client
    experiment = client.get_experiment_by_name(spec.name)
    if experiment is None:
        msg = f"MLflow has no experiment {spec.name!r}, though it has a champion; was it deleted?"
        raise dg.Failure(msg, allow_retries=False)
    tags = {"ml_platform.kind": "drift_report", "ml_platform.version": champion.version}
    run = client.create_run(experiment.experiment_id, tags=tags, run_name="drift_report")
    client.log_metric(run.info.run_id, "drift_share", result.share)
    client.log_artifact(run.info.run_id, str(folder / drift.REPORT))
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED))
    return f"{tracking.run_link(run)}/artifacts/{drift.REPORT}"


def _nothing(state: str, rows: int) -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(value=None, metadata={STATE: state, DRIFTED: False, "rows": rows})


def _result(result: DriftResult, rows: int, champion: Version, link: str) -> dg.MaterializeResult[None]:
    records = [dg.TableRecord(msgspec.to_builtins(column)) for column in result.columns]
    return dg.MaterializeResult(
        value=None,
        metadata={
            STATE: "drifted" if result.drifted else "ok",
            DRIFTED: result.drifted,
            "drift_share": dg.MetadataValue.float(result.share),
            "rows": rows,
            "version": int(champion.version),
            "report": dg.MetadataValue.url(link),
            "columns": dg.MetadataValue.table(records),
        },
    )
