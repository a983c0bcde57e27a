"""Beside the corridor, drift_report: what was asked lately against what the champion was trained on."""

import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from itertools import islice, takewhile
from pathlib import Path

import dagster as dg
import msgspec
import polars as pl
from dagster._utils.schedules import cron_string_iterator
from mlflow.entities import RunStatus

from ml_platform.assets.room import as_table, key, patiently, room
from ml_platform.modeling import bundle
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.drift import report, traffic
from ml_platform.modeling.drift.decision import Decision, State
from ml_platform.modeling.drift.judging import Verdict
from ml_platform.modeling.drift.profile import EVENT_TIME
from ml_platform.modeling.periods import in_words
from ml_platform.modeling.schema import Logged
from ml_platform.modeling.spec import ModelSpec, MonitoringPolicy
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.predictions import PredictionStore, Served
from ml_platform.resources.tracking import CHAMPION, ExperimentTracking, Version
from ml_platform.resources.training_log import ANSWERS, REFERENCE

DRIFTED, STATE = "drifted", "state"
INPUTS, ANSWERED = "inputs", "answers"
TIMEOUT_S = 900
MOST_TICKS = 1000
OUTCOMES = {State.OK: Outcome.OK, State.DRIFTED: Outcome.DRIFTED}


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
        "The newest served requests against the rows the champion was trained on: decided at the false-alarm rate of "
        "the spec, drawn by Evidently. No traffic yet is a state, not an error.",
        kinds=("evidently", "mlflow"),
        beside=["predictions"],
        freshness=dg.FreshnessPolicy.time_window(fail_window=max(spec.monitoring.window, timedelta(days=1)) * 2),
    )
    def drift_report(
        context: dg.AssetExecutionContext,
        store: PredictionStore,
        bundles: BundleStore,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.MaterializeResult[None]:
        with patiently(context):
            now, rules = clock.now(), spec.monitoring
            champion = tracking.version_with_alias(spec.name, CHAMPION)
            if champion is None:
                return _result(_decision(rules, now, State.NO_CHAMPION, "no champion yet"))
            served = store.served(spec.name, champion.version, now - rules.window, now, rules.max_rows)
            decision = _quiet(
                rules, now, len(served), store.traffic(spec.name, now, rules.window, traffic.LOOK_BACK + 1)
            )
            link = None
            if decision is None:
                decision, link = _judged(spec, now, tracking, bundles, champion, served)
            context.log.info(f"{decision.state}: {decision.reason}")
            ledger.record(_entry(spec, champion, decision, context.run.run_id))
        return _result(decision, champion, link)

    return drift_report


def _quiet(rules: MonitoringPolicy, now: datetime, rows: int, by_window: list[int]) -> Decision | None:
    """The decision where there are too few rows for another; `by_window` are those of all versions, newest first."""
    window, (newest, *before) = in_words(rules.window), by_window
    if traffic.has_stopped(newest, before):
        usual = traffic.usual(before)
        reason = f"{newest:,} rows were asked in the last {window}, and {usual:,.0f} are usual: ask the callers"
        return _decision(rules, now, State.TRAFFIC_STOPPED, reason, rows)
    if not rows:
        return _decision(rules, now, State.NO_TRAFFIC, f"the champion was not asked in the last {window}")
    if rows < rules.min_rows:
        return _decision(rules, now, State.TOO_FEW_ROWS, f"{rows} of {rules.min_rows} rows", rows)
    return None


def _decision(rules: MonitoringPolicy, now: datetime, state: State, reason: str, rows: int = 0) -> Decision:
    return Decision(state=state, reason=reason, rows=rows, start=now - rules.window, end=now)


def comparable(manifest: bundle.Manifest, columns: list[str]) -> list[str]:
    """The columns of training rows that served rows can be held against: a hash has no distance to a value."""
    return [f.name for f in manifest.fields if f.logged is Logged.PLAIN and f.name in columns]


def _judged(
    spec: ModelSpec,
    now: datetime,
    tracking: ExperimentTracking,
    bundles: BundleStore,
    champion: Version,
    served: Served,
) -> tuple[Decision, str | None]:
    """The decision on the rows, and where the report opens."""
    manifest = bundle.check(tracking.fetch_bundle(champion.run_id, bundles.path, champion.digest), champion.digest)
    rules = spec.monitoring
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = _parts(tracking, manifest, champion, served, folder)
        if not parts:
            reason = (
                f"version {champion.version} was trained before its answers were kept, and no input is logged as it is"
            )
            return _decision(rules, now, State.NOTHING_TO_COMPARE, reason, len(served)), None
        report.write(folder, parts, rules.false_alarms_per_year / windows_per_year(rules.cron, now))
        verdict = _drawn(folder)
        link = _keep(tracking, spec, champion, verdict, folder)
    decision = _decision(rules, now, verdict.state, verdict.reason, len(served))
    return msgspec.structs.replace(decision, alarms=verdict.alarms, basis=verdict.basis), link


def windows_per_year(cron: str, now: datetime) -> float:
    """How often a schedule ticks within a year; a frequent one is counted over less."""
    year = timedelta(days=365)
    ticks = islice(cron_string_iterator(now.timestamp(), cron, "UTC"), MOST_TICKS)
    within = list(takewhile(lambda tick: tick <= now + year, ticks))
    counted = within[-1] - now if len(within) == MOST_TICKS else year
    return max(len(within), 1) / (counted / year)


def _parts(
    tracking: ExperimentTracking, manifest: bundle.Manifest, champion: Version, served: Served, folder: Path
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Reference and window: of the inputs that are logged as they are, and of the answers."""
    inputs = pl.read_parquet(tracking.download(champion.run_id, REFERENCE, folder))
    plain = comparable(manifest, inputs.columns)
    time = [EVENT_TIME] if EVENT_TIME in inputs.columns else []
    parts = {INPUTS: (inputs.select(plain + time), served.inputs)} if plain else {}
    # Versions of an earlier version of the platform have none.
    if tracking.has_artifact(champion.run_id, ANSWERS):
        answers = pl.read_parquet(tracking.download(champion.run_id, ANSWERS, folder))
        parts[ANSWERED] = (answers, served.answers)
    return parts


def _drawn(folder: Path) -> Verdict:
    """Judge and draw in a process of its own: Evidently is heavy, and nothing of it stays behind."""
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-W", "ignore", "-m", report.__name__, str(folder)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        msg = f"the drift comparison failed: {done.stderr.strip()[-2000:]}"
        raise dg.Failure(msg, allow_retries=False)
    return report.read(folder)


def _keep(tracking: ExperimentTracking, spec: ModelSpec, champion: Version, verdict: Verdict, folder: Path) -> str:
    """Put the report on an MLflow run of its own and return the page where it opens."""
    client = tracking.client
    experiment = client.get_experiment_by_name(spec.name)
    if experiment is None:
        msg = f"MLflow has no experiment {spec.name!r}, though it has a champion; was it deleted?"
        raise dg.Failure(msg, allow_retries=False)
    tags = {"ml_platform.kind": "drift_report", "ml_platform.version": champion.version}
    run = client.create_run(experiment.experiment_id, tags=tags, run_name="drift_report")
    client.log_metric(run.info.run_id, "drift_alarms", len(verdict.alarms))
    client.log_artifact(run.info.run_id, str(folder / report.REPORT))
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED))
    return f"{tracking.run_link(run)}/artifacts/{report.REPORT}"


def _entry(spec: ModelSpec, champion: Version, decision: Decision, run_id: str) -> Entry:
    """The decision as the ledger keeps it, once for each run."""
    return Entry(
        key=f"{spec.name} drift {run_id}",
        at=decision.end,
        model=spec.name,
        kind=Kind.DRIFT,
        outcome=OUTCOMES.get(decision.state, Outcome.UNKNOWN),
        reason=decision.reason,
        evidence=msgspec.to_builtins(decision),
        dagster_run=run_id,
        version=champion.version,
    )


def _result(decision: Decision, champion: Version | None = None, link: str | None = None) -> dg.MaterializeResult[None]:
    metadata: dict[str, dg.MetadataValue] = {
        STATE: dg.MetadataValue.text(decision.state.value),
        DRIFTED: dg.MetadataValue.bool(decision.state is State.DRIFTED),
        "reason": dg.MetadataValue.text(decision.reason),
        "rows": dg.MetadataValue.int(decision.rows),
        "window_start": dg.MetadataValue.timestamp(decision.start),
        "window_end": dg.MetadataValue.timestamp(decision.end),
    }
    if champion:
        metadata["version"] = dg.MetadataValue.int(int(champion.version))
    if decision.basis:
        records = {
            " and ".join(alarm.columns): {k: v for k, v in msgspec.to_builtins(alarm).items() if k != "columns"}
            for alarm in decision.alarms
        }
        metadata["alarms"] = as_table(records, "column")
        metadata["basis"] = dg.MetadataValue.json(msgspec.to_builtins(decision.basis))
    if link:
        metadata["report"] = dg.MetadataValue.url(link)
    return dg.MaterializeResult(value=None, metadata=metadata)
