"""Room 6, registered_model: a winner gets a version in MLflow's registry; a loser ends here, and the run is green."""

from collections.abc import Iterator

import dagster as dg

from ml_platform.assets.room import patiently, room
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.spec import Approval, ModelSpec
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.products import Evaluation, RegisteredModel
from ml_platform.resources.tracking import WAITING, ExperimentTracking, Version


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "The winner as a version of the registered model, alias `challenger`. Skipped, with everything after it, "
        "when the champion stays.",
        kinds=("mlflow",),
        after="evaluation",
        may_stay_closed=True,
    )
    def registered_model(
        context: dg.AssetExecutionContext,
        evaluation: Evaluation,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> Iterator[dg.MaterializeResult[RegisteredModel]]:
        if not evaluation.won:
            context.log.info("nothing to register: %s", evaluation.reason)
            return
        with patiently(context):
            version = tracking.register(
                spec.name, evaluation.run_id, evaluation.reason, spec.purpose, clock.now(), waiting=_waits_for(spec)
            )
            if WAITING in version.tags:
                ledger.record(_waits(context, spec, version, clock))
        yield dg.MaterializeResult(
            value=RegisteredModel(release=version.release(spec.name)),
            metadata={
                "version": int(version.version),
                "registered_version": dg.MetadataValue.url(tracking.version_link(spec.name, version.version)),
                "bundle": version.digest,
                "why": evaluation.reason,
                **({"waits_for": version.tags[WAITING]} if WAITING in version.tags else {}),
            },
        )

    return registered_model


def _waits_for(spec: ModelSpec) -> str:
    """Whom a winner waits for, and what they may do."""
    if spec.promotion.approval != Approval.HUMAN:
        return ""
    return f"a person: `ml-platform approve {spec.name} --because ...`, or refuse; or the job `approve`"


def _waits(context: dg.AssetExecutionContext, spec: ModelSpec, version: Version, clock: Clock) -> Entry:
    return Entry(
        key=f"{spec.name} version {version.version} waits",
        at=clock.now(),
        model=spec.name,
        kind=Kind.APPROVAL,
        outcome=Outcome.WAITING,
        reason=f"version {version.version} won and waits for {version.tags[WAITING]}",
        dagster_run=context.run.run_id,
        mlflow_run=version.run_id,
        version=version.version,
        digest=version.digest,
    )
