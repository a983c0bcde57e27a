"""Room 5, evaluation: the challenger against the champion, on rows that neither was trained on."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import dagster as dg

from ml_platform.assets.room import as_table, patiently, room
from ml_platform.modeling import drawing, pictures
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.gate import Decision
from ml_platform.modeling.scoring import score, score_slices
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.training import ModelCode
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.judging import Judged, judge
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.products import Evaluation, TrainedModel
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, ExperimentTracking, Version


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "Challenger and champion on the same held-out rows, each as it is or would be served. The challenger wins when "
        "it is better beyond doubt, or as good as a champion that has become old, and breaks no guardrail.",
        kinds=("scikitlearn",),
        after="trained_model",
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        datasets: DatasetStore,
        bundles: BundleStore,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.MaterializeResult[Evaluation]:
        with patiently(context):
            champion = tracking.version_with_alias(spec.name, CHAMPION)
            refusal = tracking.refusal(spec.name, trained_model.digest)
            known_answer = _known_answer(trained_model, champion, refusal)
            if known_answer:
                return known_answer
            judged = judge(
                ModelCode.of(spec),
                trained_model,
                champion,
                datasets=datasets,
                bundles=bundles.path,
                tracking=tracking,
                now=clock.now(),
            )
            decision = judged.decision
            context.log.info(decision.reason)
            if not trained_model.as_of:
                # A past week may have been trained before, by a champion: what that promised stays as it was.
                found = _scores(judged)[CHALLENGER]
                tracking.log_metrics(trained_model.run_id, {f"gate_{k}": v for k, v in found.items()})
                ledger.record(_entry(spec, context, trained_model, decision, clock))
        return _result(trained_model, won=decision.won, reason=decision.reason, metadata=_metadata(spec, judged))

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


def _entry(
    spec: ModelSpec, context: dg.AssetExecutionContext, trained: TrainedModel, decision: Decision, clock: Clock
) -> Entry:
    """The decision as the ledger keeps it."""
    gain = decision.gain
    return Entry(
        key=f"{spec.name} gate of {trained.run_id} in {context.run.run_id}",
        at=clock.now(),
        model=spec.name,
        kind=Kind.GATE,
        outcome=_outcome(decision),
        reason=decision.reason,
        evidence={
            "metric": spec.promotion.metric,
            "way": decision.way,
            "challenger": decision.challenger if isfinite(decision.challenger) else None,
            "champion": decision.champion,
            "gain": gain and {"estimate": gain.estimate, "low": gain.low, "high": gain.high},
            "guardrails": {rail.name: {"holds": rail.holds, "said": rail.said} for rail in decision.guardrails},
        },
        dagster_run=context.run.run_id,
        mlflow_run=trained.run_id,
        digest=trained.digest,
    )


def _outcome(decision: Decision) -> Outcome:
    if not isfinite(decision.challenger):
        return Outcome.UNKNOWN
    return Outcome.WON if decision.won else Outcome.LOST


def _metadata(spec: ModelSpec, judged: Judged) -> dict[str, Any]:
    decision, metric = judged.decision, spec.promotion.metric
    numbers = {
        "challenger_score": decision.challenger,
        "champion_score": decision.champion,
        "floor": spec.promotion.floor,
    }
    rails = {rail.name: {"holds": rail.holds, "numbers": rail.said} for rail in decision.guardrails}
    return {
        "metric": metric,
        **{name: dg.MetadataValue.float(v) for name, v in numbers.items() if v is not None and isfinite(v)},
        "rows_judged": len(judged.holdout.actual),
        "way": decision.way.value if decision.way else "none",
        "guardrails": as_table(rails, "guardrail"),
        **_gain(spec, decision),
        **_tables(judged, metric),
    }


def _gain(spec: ModelSpec, decision: Decision) -> dict[str, Any]:
    """The interval, in numbers and as a picture."""
    gain = decision.gain
    if gain is None or decision.champion is None or not isfinite(gain.low):
        return {}
    policy = spec.promotion
    marks = {"margin": -spec.tolerance(policy.margin, decision.champion)} if policy.max_age else {}
    marks |= {"min_improvement": policy.min_improvement} if policy.min_improvement else {}
    return {
        "gain": dg.MetadataValue.float(gain.estimate),
        "gain_low": dg.MetadataValue.float(gain.low),
        "gain_high": dg.MetadataValue.float(gain.high),
        "picture": dg.MetadataValue.md(drawing.as_markdown("gain", pictures.of_gain(gain, marks))),
    }


def _scores(judged: Judged) -> dict[str, dict[str, float]]:
    """Every metric of every contender; none where the rows were too few to judge."""
    if not isfinite(judged.decision.challenger):
        return {who: {} for who in judged.predicted}
    return {who: score(judged.holdout.actual, predicted) for who, predicted in judged.predicted.items()}


def _tables(judged: Judged, metric: str) -> Mapping[str, dg.TableMetadataValue]:
    """Every metric of every contender, overall and per slice."""
    scores = _scores(judged)
    slices = {
        who: score_slices(judged.holdout.actual, predicted, judged.holdout.slices, metric)
        for who, predicted in judged.predicted.items()
    }
    compared = {
        name: {who: values[name] for who, values in scores.items() if name in values} for name in scores[CHALLENGER]
    }
    by_slice = {
        name: {"rows": int(values["rows"])}
        | {who: found[name][metric] for who, found in slices.items() if name in found}
        for name, values in slices[CHALLENGER].items()
    }
    return {"scores": as_table(compared, "metric"), "slices": as_table(by_slice, "slice")}


def _result(
    trained: TrainedModel, *, won: bool, reason: str, metadata: dict[str, Any]
) -> dg.MaterializeResult[Evaluation]:
    if won and trained.as_of:
        won, reason = False, f"{reason}; but it was trained as of {trained.as_of:%Y-%m-%d}, which is never promoted"
    return dg.MaterializeResult(
        value=Evaluation(run_id=trained.run_id, won=won, reason=reason, as_of=trained.as_of),
        metadata={"decision": "promote" if won else "keep the champion", "reason": reason, **metadata},
    )
