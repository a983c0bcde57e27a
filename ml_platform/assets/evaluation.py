"""Room 5, evaluation: the challenger against the champion, on rows that neither was trained on."""

from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import polars as pl

from ml_platform.assets.room import as_table, patiently, room
from ml_platform.modeling import bundle, splitting
from ml_platform.modeling.gate import MIN_ROWS, Decision, decide
from ml_platform.modeling.schema import Logged
from ml_platform.modeling.scoring import score, score_slices
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode, as_classes, known
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.products import Evaluation, TrainedModel
from ml_platform.resources.tracking import CHAMPION, SPLIT, ExperimentTracking, Version

Scores = dict[str, dict[str, float]]
Slices = dict[str, dict[str, dict[str, float]]]


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
            # A past week cannot be compared with a champion that was trained on what came after it.
            champion = None if trained_model.as_of else tracking.version_with_alias(spec.name, CHAMPION)
            refusal = tracking.refusal(spec.name, trained_model.digest)
            known_answer = _known_answer(trained_model, champion, refusal)
            if known_answer:
                return known_answer
            contenders = {"challenger": (trained_model.run_id, trained_model.digest)}
            if champion:
                contenders["champion"] = (champion.run_id, champion.digest)
            folders = {
                who: tracking.fetch_bundle(run, bundles.path, digest) for who, (run, digest) in contenders.items()
            }
        code = ModelCode.of(spec)
        rows = _judged_rows(code, trained_model, champion, datasets)
        if len(rows) < MIN_ROWS:
            reason = f"{len(rows)} rows that nobody was trained on are too few to judge; {MIN_ROWS} are needed"
            return _result(trained_model, won=False, reason=reason, metadata={"rows_judged": len(rows)})
        scores, slices = _scores(code, rows, folders)
        decision = _decide(spec, scores, logs_otherwise=_log_differently(folders.values()))
        context.log.info(decision.reason)
        with patiently(context):
            tracking.log_metrics(trained_model.run_id, {f"gate_{k}": v for k, v in scores["challenger"].items()})
        metadata = _metadata(decision, scores, slices, len(rows))
        return _result(trained_model, won=decision.won, reason=decision.reason, metadata=metadata)

    return evaluation


def _known_answer(
    trained: TrainedModel, champion: Version | None, refusal: str | None
) -> dg.MaterializeResult[Evaluation] | None:
    """The decision where there is nothing to compare."""
    if refusal:
        return _result(trained, won=False, reason=f"the very same model: {refusal}", metadata={})
    if trained.pending_version:
        reason = f"version {trained.pending_version} won earlier and is not live yet"
        return _result(trained, won=True, reason=reason, metadata={})
    if champion and champion.run_id == trained.run_id:
        reason = f"nothing new to learn: version {champion.version}, the champion, was trained on these very rows"
        return _result(trained, won=False, reason=reason, metadata={})
    return None


def _judged_rows(
    code: ModelCode, trained: TrainedModel, champion: Version | None, datasets: DatasetStore
) -> pl.DataFrame:
    """Validated rows with a known label that every contender held out."""
    rows = datasets.read(trained.validated.name, trained.validated.version)
    splits = [trained.split]
    if champion:
        splits.append(msgspec.json.decode(champion.tags[SPLIT], type=Split))
    return rows.filter(splitting.held_out(rows, splits) & known(code.label(rows)))


def _scores(code: ModelCode, rows: pl.DataFrame, folders: Mapping[str, Path]) -> tuple[Scores, Slices]:
    """Every metric of every contender, overall and per slice, each predicting as it is or would be served."""
    label = code.label(rows)
    actual = label if code.spec.task is Task.REGRESSION else as_classes(label)
    sliced = as_columns(rows, tuple(f for f in code.fields if f.name in code.spec.slices))
    scores, slices = {}, {}
    for who, folder in folders.items():
        predictor = bundle.load(folder, folder.name)
        predicted = predictor.predict(as_columns(rows, predictor.fields))
        scores[who] = score(actual, predicted)
        slices[who] = score_slices(actual, predicted, sliced, code.spec.promotion.metric)
    return scores, slices


def _log_differently(folders: Iterable[Path]) -> bool:
    """Whether one of the bundles keeps more out of the prediction log than another."""
    manifests = [bundle.check(folder, folder.name) for folder in folders]
    return len({frozenset((f.name, f.logged) for f in m.fields if f.logged is not Logged.PLAIN) for m in manifests}) > 1


def _decide(spec: ModelSpec, scores: Scores, *, logs_otherwise: bool = False) -> Decision:
    metric = spec.promotion.metric
    found = {who: values.get(metric, float("nan")) for who, values in scores.items()}
    if any(isnan(value) for value in found.values()):
        reason = f"{metric} has no value on the held-out rows, which have one class only: the champion stays"
        floor = spec.promotion.floor
        return Decision(won=False, reason=reason, metric=metric, challenger=float("nan"), champion=None, floor=floor)
    return decide(spec, found["challenger"], found.get("champion"), logs_otherwise=logs_otherwise)


def _metadata(
    decision: Decision,
    scores: Scores,
    slices: Slices,
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
        **{
            name: dg.MetadataValue.float(value)
            for name, value in numbers.items()
            if value is not None and not isnan(value)
        },
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
