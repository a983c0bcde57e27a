"""Room 5, evaluation: the challenger against the champion, on rows that neither was trained on."""

from typing import Any

import dagster as dg
import msgspec
import polars as pl

from ml_platform.assets.room import as_table, patiently, room
from ml_platform.modeling import bundle, splitting
from ml_platform.modeling.gate import Decision, decide
from ml_platform.modeling.scoring import Predictions, score, score_slices
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode, as_classes, known
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.products import Evaluation, TrainedModel
from ml_platform.resources.tracking import CHAMPION, SPLIT, ExperimentTracking, Version

MIN_ROWS = 50


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "evaluation",
        "Challenger and champion on the same held-out rows, each as it is or would be served. A tie keeps the "
        "champion; the first model must reach the floor.",
        kinds=("scikitlearn",),
        after="trained_model",
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        datasets: DatasetStore,
        bundles: BundleStore,
        tracking: ExperimentTracking,
    ) -> dg.MaterializeResult[Evaluation]:
        with patiently(context):
            champion = tracking.version_with_alias(spec.name, CHAMPION)
            if trained_model.pending_version:
                reason = f"version {trained_model.pending_version} won earlier and is not live yet"
                return _result(trained_model, won=True, reason=reason, metadata={})
            if champion and champion.run_id == trained_model.run_id:
                reason = (
                    f"nothing new to learn: version {champion.version}, the champion, was trained on these very rows"
                )
                return _result(trained_model, won=False, reason=reason, metadata={})
            challenger = tracking.fetch_bundle(trained_model.run_id, bundles.path, trained_model.digest)
            rival = tracking.fetch_bundle(champion.run_id, bundles.path, champion.digest) if champion else None
        code = ModelCode.of(spec)
        rows = _judged_rows(code, trained_model, champion, datasets)
        actual = code.label(rows)
        actual = actual if spec.task is Task.REGRESSION else as_classes(actual)
        scores, slices = {}, {}
        for name, folder in (("challenger", challenger), ("champion", rival)):
            if folder is not None:
                predictor = bundle.load(folder, folder.name)
                predicted = predictor.predict(as_columns(rows, predictor.fields))
                scores[name] = score(actual, predicted)
                slices[name] = _slices(code, rows, actual, predicted)
        decision = _decide(spec, scores, len(rows))
        context.log.info(decision.reason)
        with patiently(context):
            tracking.log_metrics(trained_model.run_id, {f"gate_{k}": v for k, v in scores["challenger"].items()})
        return _result(
            trained_model,
            won=decision.won,
            reason=decision.reason,
            metadata=_metadata(decision, scores, slices, len(rows)),
        )

    return evaluation


def _judged_rows(
    code: ModelCode, trained: TrainedModel, champion: Version | None, datasets: DatasetStore
) -> pl.DataFrame:
    """Validated rows with a known label that every contender held out."""
    rows = datasets.read(trained.validated.name, trained.validated.version)
    splits = [trained.split]
    if champion:
        splits.append(msgspec.json.decode(champion.tags[SPLIT], type=Split))
    return rows.filter(splitting.held_out(rows, splits) & known(code.label(rows)))


def _decide(spec: ModelSpec, scores: dict[str, dict[str, float]], rows: int) -> Decision:
    metric = spec.promotion.metric
    challenger = scores["challenger"].get(metric)
    champion = scores["champion"].get(metric) if "champion" in scores else None
    if rows < MIN_ROWS or challenger is None or ("champion" in scores and champion is None):
        return Decision(
            won=False,
            reason=f"{rows} held-out rows are too few to judge {metric}; at least {MIN_ROWS} of every class are needed",
            metric=metric,
            challenger=float("nan") if challenger is None else challenger,
            champion=champion,
            floor=spec.promotion.floor,
        )
    return decide(spec, challenger, champion)


def _slices(code: ModelCode, rows: pl.DataFrame, actual: Any, predicted: Predictions) -> dict[str, dict[str, float]]:
    fields = tuple(f for f in code.fields if f.name in code.spec.slices)
    return score_slices(actual, predicted, as_columns(rows, fields), code.spec.promotion.metric)


def _metadata(
    decision: Decision,
    scores: dict[str, dict[str, float]],
    slices: dict[str, dict[str, dict[str, float]]],
    rows: int,
) -> dict[str, Any]:
    compared = {
        metric: {who: values[metric] for who, values in scores.items() if metric in values}
        for metric in scores["challenger"]
    }
    by_slice = {
        name: {"rows": int(values["rows"])}
        | {who: found[name][decision.metric] for who, found in slices.items() if name in found}
        for name, values in slices["challenger"].items()
    }
    numbers = {"challenger_score": decision.challenger, "champion_score": decision.champion, "floor": decision.floor}
    return {
        "metric": decision.metric,
        **{name: dg.MetadataValue.float(value) for name, value in numbers.items() if value is not None},
        "rows_judged": rows,
        "scores": as_table(compared, "metric"),
        "slices": as_table(by_slice, "slice"),
    }


def _result(
    trained: TrainedModel, *, won: bool, reason: str, metadata: dict[str, Any]
) -> dg.MaterializeResult[Evaluation]:
    if won and trained.as_of:
        won, reason = False, f"{reason}; but it was trained as of {trained.as_of:%Y-%m-%d}, which is never promoted"
    return dg.MaterializeResult(
        value=Evaluation(run_id=trained.run_id, won=won, reason=reason, as_of=trained.as_of),
        metadata={"decision": "promote" if won else "keep the champion", "reason": reason, **metadata},
    )
