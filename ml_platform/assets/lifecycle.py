"""The lifecycle: the rooms of a model in their order."""

from collections.abc import Callable

import dagster as dg

from ml_platform.assets import (
    decisions,
    deployment,
    drift_report,
    evaluation,
    features,
    image,
    raw_data,
    realised_performance,
    registered_model,
    scores,
    trained_model,
    validated_data,
)
from ml_platform.modeling.spec import ModelSpec

CORRIDOR: dict[str, Callable[[ModelSpec], dg.AssetsDefinition]] = {
    "raw_data": raw_data.build,
    "validated_data": validated_data.build,
    "features": features.build,
    "trained_model": trained_model.build,
    "evaluation": evaluation.build,
    "registered_model": registered_model.build,
    "image": image.build,
    "deployment": deployment.build,
}
ROOMS = tuple(CORRIDOR)


def lifecycle(spec: ModelSpec) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Every asset of one model: the corridor, beside it what was served and decided, what came of it, and scores."""
    corridor = [build(spec) for build in CORRIDOR.values()]
    scored = [scores.build(spec, spec.scoring)] if spec.scoring else []
    watched = [drift_report.build(spec), realised_performance.build(spec)]
    return [*corridor, drift_report.predictions(spec), *watched, decisions.decisions(spec), *scored]
