"""The training log: everything an MLflow run needs for a person to judge a model, and for the platform to serve it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import polars as pl
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from ml_platform.modeling import drawing, pictures
from ml_platform.modeling.answers import as_table
from ml_platform.modeling.candidate import Candidate, Material
from ml_platform.modeling.conversion import Converted
from ml_platform.modeling.drift.profile import EVENT_TIME, thinned
from ml_platform.modeling.scoring import score
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.training import ModelCode, fingerprint
from ml_platform.resources.datasets import TableVersion
from ml_platform.resources.logged_model import log_bundle
from ml_platform.resources.revision import code_revision
from ml_platform.resources.tracking import (
    DATA_VERSION,
    DIGEST,
    ENGINE,
    FINGERPRINT,
    MODEL_URI,
    RECIPE,
    REVISION,
    SPLIT,
    TABLE,
    TABLE_VERSION,
    ExperimentTracking,
)

PLOTS, PIPELINE = "plots", "pipeline.skops"
REFERENCE, ANSWERS = "reference.parquet", "reference_answers.parquet"
LONGEST_PARAMETER = 500
# MLflow takes 36 characters, the version included.
DIGEST_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a training starts from: a version of the features table, the datasets' root, the hash of its recipe."""

    table: TableVersion
    root: str
    recipe: str


def log_rows(
    mlflow: Any,  # dagster-mlflow's resource
    tracking: ExperimentTracking,
    code: ModelCode,
    material: Material,
    origin: Origin,
) -> None:
    """Log the rows to train on and the held-out ones as datasets that the open run used, and their table as tags."""
    held_out, _ = fingerprint(code, material.table.filter(material.judged))
    datasets = [
        _dataset("training", material.data_version, int(material.train.sum()), material.table, origin),
        _dataset("evaluation", held_out, int(material.judged.sum()), material.table, origin),
    ]
    tracking.log_datasets(mlflow.active_run().info.run_id, datasets)
    mlflow.set_tags({TABLE: origin.table.name, TABLE_VERSION: origin.table.version})


def _dataset(context: str, data_version: str, rows: int, frame: pl.DataFrame, origin: Origin) -> DatasetInput:
    """Some rows of the features table, as MLflow's page and its own kinds of datasets describe them.

    The digest names the version too: MLflow shows what it was told first of a name and digest.
    """
    table = origin.table
    source = {"path": _without_password(f"{origin.root}/{table.name}"), "delta_table_version": table.version}
    columns = [
        {"name": name, "type": str(dtype), "required": not frame[name].has_nulls()}
        for name, dtype in frame.schema.items()
    ]
    profile = {"num_rows": rows, "num_elements": rows * frame.width, "table_rows": table.rows}
    dataset = Dataset(
        name=table.name,
        digest=f"v{table.version}-{data_version[:DIGEST_DIGITS]}",
        source_type="delta_table",
        source=msgspec.json.encode(source).decode(),
        schema=msgspec.json.encode({"mlflow_colspec": columns}).decode(),
        profile=msgspec.json.encode(profile).decode(),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def _without_password(address: str) -> str:
    """A folder, or a URL without what opens it, which may stand in the query as well."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, f"{login.partition(':')[0]}{at}{host}", parts.path, "", ""))


def log_training(
    mlflow: Any,  # dagster-mlflow's resource
    spec: ModelSpec,
    material: Material,
    candidate: Candidate,
    bundles: Path,
    recipe: str,
) -> None:
    """Log params, metrics, plots, reference rows, bundle and model to the open run; a last tag says it is complete.

    Args:
        mlflow: where to.
        spec: the model.
        material: its rows.
        candidate: what became of them.
        bundles: the folder that its bundle is in.
        recipe: the hash of what it was trained from.
    """
    packed = candidate.packed
    predictor = packed.predictor
    folder = bundles / predictor.digest
    mlflow.log_params(_parameters(candidate.pipeline) | {"seed": spec.seed, "rows_trained": candidate.rows_trained})
    scores = score(candidate.actual, candidate.packed.predicted)
    held_out = {"rows_held_out": float(len(candidate.actual))}
    mlflow.log_metrics(
        {f"holdout_{name}": value for name, value in scores.items()} | held_out | _cost(packed.converted)
    )
    with tempfile.TemporaryDirectory() as temporary:
        _draw(spec, candidate, Path(temporary) / PLOTS)
        _keep_reference(spec, material, candidate, Path(temporary))
        (Path(temporary) / PIPELINE).write_bytes(packed.skops)
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
        RECIPE: recipe,
        ENGINE: _served_by(packed.converted),
    }
    mlflow.set_tags(tags)
    mlflow.set_tag(MODEL_URI, log_bundle(mlflow, predictor, folder))


def _parameters(pipeline: Any) -> dict[str, str]:
    """The estimator's settings, those that are plain values."""
    settings = pipeline.get_params().items()
    return {name: str(value)[:LONGEST_PARAMETER] for name, value in settings if isinstance(value, str | int | float)}


def _served_by(converted: Converted) -> str:
    """What answers requests, in words, and why."""
    if converted.model is None:
        return f"scikit-learn, from skops: {converted.reason}"
    return (
        f"ONNX Runtime: on {converted.compared_rows:,} rows no label differs from scikit-learn's, "
        f"and no score by more than {converted.largest_difference:.1g}"
    )


def _cost(converted: Converted) -> dict[str, float]:
    """Microseconds that one row costs in each engine, and how far their scores are apart."""
    cost = {f"row_us_{engine}": value for engine, value in converted.row_us.items()}
    return cost if converted.model is None else cost | {"onnx_largest_difference": converted.largest_difference}


def _draw(spec: ModelSpec, candidate: Candidate, folder: Path) -> None:
    folder.mkdir()
    packed = candidate.packed
    kinds = packed.predictor.features.kinds
    importances = pictures.importances(
        candidate.pipeline, packed.features, kinds, candidate.actual, spec.task, spec.seed
    )
    figures = pictures.of_predictions(candidate.actual, packed.predicted)
    figures["permutation_importance"] = pictures.of_importances(importances)
    for name, figure in figures.items():
        (folder / f"{name}.png").write_bytes(drawing.as_png(figure))
    (folder.parent / "permutation_importance.json").write_bytes(msgspec.json.encode(importances))


def _keep_reference(spec: ModelSpec, material: Material, candidate: Candidate, folder: Path) -> None:
    """The rows trained on, as requests would have them, and the answers to held-out rows, for the drift report.

    Answers to the rows trained on would be surer than any to come.
    """
    inputs = [pl.col(f.name) for f in candidate.packed.predictor.fields]
    time = [pl.col(spec.source.event_time).alias(EVENT_TIME)] if spec.source.event_time else []
    rows = material.inputs.filter(pl.Series(material.train)).select(inputs + time)
    answered = material.inputs.filter(pl.Series(material.judged)).select(time)
    answers = as_table(candidate.packed.predicted).drop("probabilities", strict=False)
    for name, frame in ((REFERENCE, rows), (ANSWERS, answers.hstack(answered))):
        ordered = (
            frame.sort(EVENT_TIME, maintain_order=True)
            if time
            else frame.sample(fraction=1, shuffle=True, seed=spec.seed)
        )
        thinned(ordered).write_parquet(folder / name)
