"""Beside the corridor, realised_performance: what outcomes say of the champion's predictions, against the promise."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import msgspec
import polars as pl

from ml_platform.assets.room import as_table, patiently, room
from ml_platform.modeling import bundle, drawing, performance, pictures
from ml_platform.modeling.columns import Kind as Holds
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.performance import Outcomes, Performance, Promise, State
from ml_platform.modeling.schema import Field
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.training import ModelCode, as_classes, known
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.predictions import Answered, PredictionStore
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import CHAMPION, ExperimentTracking, Version

DEGRADED, STATE = "degraded", "state"
BARS = ("realised", "realised_low", "realised_high")
NO_KEYS = "no request said whose rows it asks for, so no outcome can be found: let clients send `keys`"
SHOWN = 60
OUTCOMES = {State.OK: Outcome.OK, State.DEGRADED: Outcome.DEGRADED}
POLARS = {Holds.NUMBER: pl.Float64(), Holds.TEXT: pl.String(), Holds.TIME: pl.Datetime("us", "UTC")}


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The realised performance of one model."""

    @room(
        spec,
        "The champion's predictions that are old enough for their outcome to be final, joined to the source table by "
        "key, against what was promised at promotion. Not enough outcomes yet is a state, not an error.",
        kinds=("postgres", "scikitlearn"),
        beside=["predictions"],
    )
    def realised_performance(
        context: dg.AssetExecutionContext,
        store: PredictionStore,
        source: SourceDatabase,
        bundles: BundleStore,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.MaterializeResult[None]:
        with patiently(context):
            now = clock.now()
            champion = tracking.version_with_alias(spec.name, CHAMPION)
            if champion is None:
                return _result(context, _nothing(spec, now, State.NO_CHAMPION, "no champion yet"))
            window = _nothing(spec, now, State.NO_KEYS, "")
            answered = store.answered(spec.name, champion.version, window.start, window.end, spec.monitoring.max_rows)
            if answered.rows and not answered.by_key:
                found = msgspec.structs.replace(window, reason=NO_KEYS, predictions=answered.rows)
            else:
                manifest = bundle.check(
                    tracking.fetch_bundle(champion.run_id, bundles.path, champion.digest), champion.digest
                )
                outcomes = joined(ModelCode.of(spec), answered, source, manifest.classes)
                found = _judged(spec, window, outcomes, _promise(spec, tracking, champion), len(answered.by_key))
            context.log.info(f"{found.state}: {found.reason}")
            ledger.record(_entry(spec, champion, found, now, context.run.run_id))
        return _result(context, found, champion)

    return realised_performance


def joined(code: ModelCode, answered: Answered, source: SourceDatabase, classes: tuple[Any, ...]) -> Outcomes:
    """The predictions whose outcome is known at the source by now."""
    spec = code.spec
    wanted = [f for f in code.fields if f.name in {*code.label_needs, *spec.slices}]
    found = source.rows_of(spec.source, list(answered.by_key), [f.name for f in wanted])
    rows = pl.DataFrame(
        [pl.Series(f.name, [_plain(f, row[i]) for row in found.values()], POLARS[f.kind]) for i, f in enumerate(wanted)]
    )
    label = code.label(rows)
    is_known = known(label)
    answers = [answered.by_key[key] for key, there in zip(found, is_known, strict=True) if there]
    columns = as_columns(rows, tuple(f for f in wanted if f.name in spec.slices))
    return Outcomes(
        actual=label[is_known] if spec.task is Task.REGRESSION else as_classes(label[is_known]),
        predicted=performance.predictions_of(answers, spec.task, classes),
        slices={name: values[is_known] for name, values in columns.items()},
    )


def _plain(field: Field, value: Any) -> Any:
    """The source's value as the schema's kind has it."""
    if value is None or field.kind is Holds.TIME:
        return value
    return float(value) if field.kind is Holds.NUMBER else str(value)


def _promise(spec: ModelSpec, tracking: ExperimentTracking, champion: Version) -> Promise | None:
    """What the gate saw; a version that won without being judged promised what its own training saw."""
    metrics, name = tracking.run(champion.run_id).data.metrics, spec.promotion.metric
    value = metrics.get(f"gate_{name}", metrics.get(f"holdout_{name}"))
    if value is None:
        return None
    tolerance = spec.tolerance(spec.monitoring.tolerance, value)
    return Promise(value=value, rows=int(metrics["rows_held_out"]), tolerance=tolerance)


def _nothing(spec: ModelSpec, now: datetime, state: State, reason: str) -> Performance:
    rules = spec.monitoring
    end = now - rules.maturity
    return Performance(
        state=state, reason=reason, metric=spec.promotion.metric, start=end - rules.outcomes_window, end=end
    )


def _judged(
    spec: ModelSpec, window: Performance, outcomes: Outcomes, promise: Promise | None, predictions: int
) -> Performance:
    metric = spec.promotion.metric
    found = performance.realised(metric, outcomes.actual, outcomes.predicted, spec.seed)
    state, reason = performance.judge(found, promise, spec.direction, spec.monitoring.min_outcomes)
    return msgspec.structs.replace(
        window,
        state=state,
        reason=reason,
        predictions=predictions,
        labelled=len(outcomes.actual),
        realised=found,
        promise=promise,
        slices=performance.by_slice(metric, outcomes, spec.seed),
    )


def _entry(spec: ModelSpec, champion: Version, found: Performance, now: datetime, run_id: str) -> Entry:
    """The decision as the ledger keeps it, once for each run."""
    return Entry(
        key=f"{spec.name} performance {run_id}",
        at=now,
        model=spec.name,
        kind=Kind.PERFORMANCE,
        outcome=OUTCOMES.get(found.state, Outcome.UNKNOWN),
        reason=found.reason,
        evidence=msgspec.to_builtins(found),
        dagster_run=run_id,
        version=champion.version,
    )


def _result(
    context: dg.AssetExecutionContext, found: Performance, champion: Version | None = None
) -> dg.MaterializeResult[None]:
    metadata: dict[str, dg.MetadataValue] = {
        STATE: dg.MetadataValue.text(found.state.value),
        DEGRADED: dg.MetadataValue.bool(found.state is State.DEGRADED),
        "reason": dg.MetadataValue.text(found.reason),
        "metric": dg.MetadataValue.text(found.metric),
        "window_start": dg.MetadataValue.timestamp(found.start),
        "window_end": dg.MetadataValue.timestamp(found.end),
        "predictions": dg.MetadataValue.int(found.predictions),
        "labelled": dg.MetadataValue.int(found.labelled),
    }
    if champion:
        metadata["version"] = dg.MetadataValue.int(int(champion.version))
    if found.realised and found.promise:
        metadata |= {
            "realised": dg.MetadataValue.float(found.realised.value),
            "realised_low": dg.MetadataValue.float(found.realised.low),
            "realised_high": dg.MetadataValue.float(found.realised.high),
            "promised": dg.MetadataValue.float(found.promise.value),
            "slices": as_table({name: msgspec.to_builtins(part) for name, part in found.slices.items()}, "slice"),
        }
        metadata["picture"] = dg.MetadataValue.md(_picture(context, metadata, found.promise.value))
    return dg.MaterializeResult(value=None, metadata=metadata)


def _picture(context: dg.AssetExecutionContext, now: dict[str, dg.MetadataValue], promised: float) -> str:
    """The newest looks, this one included, beside the promise."""
    earlier = context.instance.fetch_materializations(context.asset_key, limit=SHOWN).records
    looks = [record.asset_materialization.metadata for record in reversed(earlier) if record.asset_materialization]
    shown = [look for look in (*looks, now) if "realised" in look]
    ends = [datetime.fromtimestamp(float(str(look["window_end"].value)), UTC) for look in shown]
    values = [[float(str(look[name].value)) for name in BARS] for look in shown]
    return drawing.as_markdown("realised performance", pictures.of_performance(ends, values, promised))
