"""Alerts: new decisions in the ledger are told to people; failed runs get there first."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

import dagster as dg
import msgspec
from dagster._core.events import DagsterEventType
from dagster_shared.error import SerializableErrorInfo

from ml_platform.automation.ticks import ThriftySensor
from ml_platform.modeling.alerting import Alert, Said
from ml_platform.modeling.alerting import alerts as due
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.alert_channel import AlertChannel
from ml_platform.resources.alerts import Alerts
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.unavailable import UnavailableError
from ml_platform.settings import Settings

LOOK_EVERY_S = 15
AT_ONCE = 200


class Position(msgspec.Struct, frozen=True):
    """How far the ledger has been told, and what was said."""

    read: int = 0
    said: Said = msgspec.field(default_factory=Said)


def alerts_sensor(here: Settings, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Tells people what the ledger has new for them; a channel that does not answer is tried again."""

    def tell(context: dg.SensorEvaluationContext, ledger: DecisionLedger, alerts: Alerts) -> dg.SensorResult:
        position = msgspec.json.decode(context.cursor, type=Position) if context.cursor else Position()
        try:
            new = ledger.after(position.read, AT_ONCE)
        except UnavailableError as error:
            return dg.SensorResult(skip_reason=dg.SkipReason(str(error)))
        found, said = due([entry for _, entry in new], position.said)
        said_now = _send(found, alerts.channel, here.dagster_page)
        if said_now is None:
            reason = f"no alert channel answers; {len(found)} alerts wait"
            return dg.SensorResult(skip_reason=dg.SkipReason(reason))
        after = Position(new[-1][0] if new else position.read, said)
        return dg.SensorResult(skip_reason=dg.SkipReason(said_now), cursor=msgspec.json.encode(after).decode())

    return ThriftySensor(
        name="alerts",
        evaluation_fn=tell,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description="Tells people by Slack, e-mail or what ML_PLATFORM_ALERT_URLS names, each thing once",
    )


def _send(found: Sequence[Alert], channel: AlertChannel, page: str) -> str | None:
    """Send the alerts; what came of it in words, or None when nobody at all could be reached."""
    if not found:
        return "nothing new to tell"
    if not channel:
        return f"nobody listens (ML_PLATFORM_ALERT_URLS is empty): {'; '.join(alert.title for alert in found)}"
    failed = set()
    for alert in found:
        refused = channel.send(alert.title, alert.text(f"{page}/asset-groups/{alert.model}"))
        if len(refused) == len(channel):
            return None
        failed.update(refused)
    told = "told: " + "; ".join(alert.title for alert in found)
    return f"{told}; not reached: {', '.join(sorted(failed))}" if failed else told


def failures_sensor(models: Sequence[ModelSpec], status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Puts runs that failed into the ledger, killed ones included."""
    names = {spec.name for spec in models}

    def failed_runs(context: dg.RunFailureSensorContext, ledger: DecisionLedger, clock: Clock) -> None:
        for entry in failures(context.instance, context.dagster_run, names, clock.now()):
            ledger.record(entry)

    with warnings.catch_warnings():
        # Dagster's decorator sets a parameter of its own that it warns of.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.run_failure_sensor(
            name="failed_runs",
            default_status=status,
            minimum_interval_seconds=LOOK_EVERY_S,
            description="Notes in the ledger which run failed, in which room, and why",
        )(failed_runs)


def failures(
    instance: dg.DagsterInstance, run: dg.DagsterRun, models: AbstractSet[str], now: datetime
) -> Iterator[Entry]:
    """What the ledger says of a run that failed, for each model it was about."""
    selected = {asset.path[0] for asset in run.asset_selection or ()} & models
    for model in sorted(selected):
        yield Entry(
            key=f"{model} run {run.run_id} failed",
            at=now,
            model=model,
            kind=Kind.RUN,
            outcome=Outcome.FAILED,
            reason=f"{run.job_name}: {why_failed(instance, run) or 'its process ended without saying why'}",
            dagster_run=run.run_id,
        )


def why_failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The check that did not pass, or the first line of the error at the bottom; empty when neither was recorded."""
    wanted = {DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.STEP_FAILURE}
    events = [record.dagster_event for record in instance.all_logs(run.run_id, of_type=wanted) if record.dagster_event]
    for event in events:
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.blocking:
                return f"{check.asset_key.to_user_string()}, check {check.check_name}: {_seen(check.metadata)}"
    errors = {event.step_key: event.step_failure_data.error for event in events if event.is_step_failure}
    return next((f"{step}: {_bottom(error)}" for step, error in errors.items() if error), "")


def _seen(metadata: Mapping[str, dg.MetadataValue]) -> str:
    """The plain values a check has measured."""
    plain = {name: value.value for name, value in metadata.items() if isinstance(value.value, int | float | str)}
    words = (f"{name.replace('_', ' ')} {v if isinstance(v, str) else f'{v:,}'}" for name, v in plain.items())
    return ", ".join(words) or "it did not pass"


def _bottom(error: SerializableErrorInfo) -> str:
    """Dagster wraps the error that matters."""
    while error.cause:
        error = error.cause
    return error.message.strip().splitlines()[0]
