"""The training log: everything an MLflow run needs for a person to judge a model, and for the platform to serve it."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ml_platform.modeling import pictures
from ml_platform.modeling.candidate import Candidate, Material
from ml_platform.modeling.scoring import score
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.logged_model import log_bundle
from ml_platform.resources.revision import code_revision
from ml_platform.resources.tracking import DATA_VERSION, DIGEST, FINGERPRINT, MODEL_URI, REVISION, SPLIT

PLOTS, REFERENCE = "plots", "reference.parquet"
REFERENCE_ROWS = 10_000
LONGEST_PARAMETER = 500


def log_training(
    mlflow: Any,  # dagster-mlflow's resource
    spec: ModelSpec,
    material: Material,
    candidate: Candidate,
    bundles: Path,
) -> None:
    """Log params, metrics, plots, reference rows, bundle and model to the open run; a last tag says it is complete."""
    predictor = candidate.predictor
    folder = bundles / predictor.digest
    mlflow.log_params(_parameters(predictor.pipeline) | {"seed": spec.seed, "rows_trained": candidate.rows_trained})
    scores = score(candidate.actual, candidate.predicted)
    held_out = {"rows_held_out": float(len(candidate.actual))}
    mlflow.log_metrics({f"holdout_{name}": value for name, value in scores.items()} | held_out)
    with tempfile.TemporaryDirectory() as temporary:
        _draw(spec, candidate, Path(temporary) / PLOTS)
        _keep_reference(spec, material, candidate, Path(temporary))
        bundled = Path(temporary) / "bundle"
        bundled.mkdir()
        (bundled / predictor.digest).symlink_to(folder)
        mlflow.log_artifacts(temporary)
    tags = {
        FINGERPRINT: material.fingerprint,
        DATA_VERSION: material.data_version,
        REVISION: code_revision(),
        SPLIT: msgspec.json.encode(material.split).decode(),
        DIGEST: predictor.digest,
    }
    mlflow.set_tags(tags)
    mlflow.set_tag(MODEL_URI, log_bundle(mlflow, predictor, folder))


def _parameters(pipeline: Any) -> dict[str, str]:
    """The estimator's settings, those that are plain values."""
    settings = pipeline.get_params().items()
    return {name: str(value)[:LONGEST_PARAMETER] for name, value in settings if isinstance(value, str | int | float)}


def _draw(spec: ModelSpec, candidate: Candidate, folder: Path) -> None:
    folder.mkdir()
    importances = pictures.importances(
        candidate.predictor.pipeline, candidate.features, candidate.actual, spec.task, spec.seed
    )
    figures = pictures.of_predictions(candidate.actual, candidate.predicted)
    figures["permutation_importance"] = pictures.of_importances(importances)
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(pictures.as_png(figure))
    (folder.parent / "permutation_importance.json").write_bytes(msgspec.json.encode(importances))


def _keep_reference(spec: ModelSpec, material: Material, candidate: Candidate, folder: Path) -> None:
    """The rows trained on, as requests would have them, for the drift report to compare with."""
    rows = material.inputs.filter(pl.Series(material.train)).select(f.name for f in candidate.predictor.fields)
    rows.sample(min(len(rows), REFERENCE_ROWS), seed=spec.seed).write_parquet(folder / REFERENCE)
