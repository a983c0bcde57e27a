"""Jobs: to refresh, to sync in full, to look for drift and at outcomes, to score tables; shared by all models."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.assets.room import FULL_SYNC
from ml_platform.modeling.spec import ModelSpec

REFRESH, SYNC, DRIFT, PERFORMANCE, SCORE = "refresh", "full_sync", "drift", "performance", "score"


def refresh_keys(spec: ModelSpec) -> list[dg.AssetKey]:
    """The corridor of a model."""
    return [dg.AssetKey([spec.name, name]) for name in ROOMS]


def release_keys(spec: ModelSpec) -> list[dg.AssetKey]:
    """The rooms that take a registered winner to live traffic; no data is pulled, and nothing is trained."""
    return [dg.AssetKey([spec.name, name]) for name in ROOMS[ROOMS.index("trained_model") :]]


def all_jobs(models: Sequence[ModelSpec]) -> list[UnresolvedAssetJobDefinition]:
    """The jobs, each over the rooms of every model; a run names the model by its selection."""

    def each(*names: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*[dg.AssetKey([spec.name, name]) for spec in models for name in names])

    jobs = [
        dg.define_asset_job(
            REFRESH, each(*ROOMS), description="From the source table to live traffic, one model a run"
        ),
        dg.define_asset_job(
            SYNC,
            each("raw_data"),
            description="Pull the whole source table again and find the rows that were deleted there",
            tags={FULL_SYNC: "yes"},
        ),
        dg.define_asset_job(DRIFT, each("drift_report"), description="Compare served requests with the training data"),
        dg.define_asset_job(
            PERFORMANCE, each("realised_performance"), description="Compare predictions with what came of them"
        ),
    ]
    scores = [dg.AssetKey([spec.name, "scores"]) for spec in models if spec.scoring]
    if scores:
        jobs.append(dg.define_asset_job(SCORE, scores, description="Let the champion answer the table the spec names"))
    return jobs
