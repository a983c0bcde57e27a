"""Room 8, deployment: the winner goes live blue-green, or nothing changes."""

from dataclasses import replace
from datetime import datetime

import dagster as dg

from ml_platform.assets.room import patiently, room
from ml_platform.modeling import bundle
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.promotion import PromotionError, Release, promote
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.products import Deployment, Image
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import ExperimentTracking


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "Idle colour loaded and healthy, golden rows answered as at training time through the real endpoint, live "
        "traffic switched, proven again, alias `champion` moved. If anything fails, the old colour keeps answering.",
        kinds=("http",),
        after="image",
    )
    def deployment(
        context: dg.AssetExecutionContext,
        image: Image,
        bundles: BundleStore,
        serving: LocalServing,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.MaterializeResult[Deployment]:
        release = image.release
        folder = bundles.folder(release.digest)
        golden = bundle.read_golden(folder, release.digest)
        steps: list[str] = []

        def say(step: str) -> None:
            steps.append(step)
            context.log.info(step)

        entry = _entry(context, release, clock.now())
        with patiently(context):
            try:
                seen = promote(release, folder, golden, serving=serving, registry=tracking, say=say)
            except PromotionError as error:
                tracking.refuse(spec.name, release.version, str(error))
                ledger.record(replace(entry, outcome=Outcome.FAILED, reason=str(error)))
                raise dg.Failure(str(error), allow_retries=False) from error
            ledger.record_live(release, entry)
        if seen.live is None:
            msg = f"{spec.name} is live nowhere after its promotion; look at the model server's log"
            raise dg.Failure(msg)
        return dg.MaterializeResult(
            value=Deployment(release=release, colour=seen.live),
            metadata={
                "version": int(release.version),
                "colour": seen.live.value,
                "endpoint": dg.MetadataValue.url(f"{serving.url}/models/{spec.name}"),
                "registered_version": dg.MetadataValue.url(tracking.version_link(spec.name, release.version)),
                "golden_rows": len(golden.rows),
                "steps": dg.MetadataValue.md("\n".join(f"1. {step}" for step in steps)),
            },
        )

    return deployment


def _entry(context: dg.AssetExecutionContext, release: Release, now: datetime) -> Entry:
    """What the ledger says of a promotion."""
    return Entry(
        key=f"{release.model} version {release.version} by run {context.run.run_id}",
        at=now,
        model=release.model,
        kind=Kind.PROMOTION,
        outcome=Outcome.LIVE,
        reason="golden rows answered as at training time, traffic switched, alias moved",
        dagster_run=context.run.run_id,
        mlflow_run=release.run_id,
        version=release.version,
        digest=release.digest,
    )
