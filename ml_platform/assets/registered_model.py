"""Room 6, registered_model: a winner gets a version in MLflow's registry; a loser ends here, and the run is green."""

from collections.abc import Iterator

import dagster as dg

from ml_platform.assets.room import patiently, room
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.products import Evaluation, RegisteredModel
from ml_platform.resources.tracking import ExperimentTracking


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "registered_model",
        "The winner as a version of the registered model, alias `challenger`. Skipped, with everything after it, "
        "when the champion stays.",
        kinds=("mlflow",),
        after="evaluation",
        output_required=False,
    )
    def registered_model(
        context: dg.AssetExecutionContext, evaluation: Evaluation, tracking: ExperimentTracking
    ) -> Iterator[dg.MaterializeResult[RegisteredModel]]:
        if not evaluation.won:
            context.log.info("nothing to register: %s", evaluation.reason)
            return
        with patiently(context):
            version = tracking.register(spec.name, evaluation.run_id, evaluation.reason, spec.purpose)
        yield dg.MaterializeResult(
            value=RegisteredModel(release=version.release(spec.name)),
            metadata={
                "version": int(version.version),
                "registered_version": dg.MetadataValue.url(tracking.version_link(spec.name, version.version)),
                "bundle": version.digest,
                "why": evaluation.reason,
            },
        )

    return registered_model
