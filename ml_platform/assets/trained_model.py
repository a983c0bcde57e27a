"""Room 4, trained_model: the model fitted on the rows it may see, logged to MLflow with what it takes to judge it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.assets.features import LABEL
from ml_platform.assets.room import patiently, room
from ml_platform.modeling import bundle, pictures, splitting, trust
from ml_platform.modeling.bundle import Golden, Predictor
from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.schema import Field
from ml_platform.modeling.scoring import Predictions, score
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode, as_classes, fingerprint, fit, pick_golden
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.logged_model import log_bundle
from ml_platform.resources.products import Features, TrainedModel
from ml_platform.resources.revision import code_revision
from ml_platform.resources.tracking import (
    DATA_VERSION,
    DIGEST,
    FINGERPRINT,
    MODEL_URI,
    REVISION,
    SPLIT,
    ExperimentTracking,
    Version,
)

REFERENCE = "reference.parquet"
REFERENCE_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted model with its answers on the held-out rows."""

    predictor: Predictor
    features: Mapping[str, Column]
    actual: Column
    predicted: Predictions
    rows_trained: int


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "trained_model",
        "The estimator of training.py, fitted with the spec's seed on the rows that are not held out. The same rows, "
        "code and seed are not trained twice; a registered winner that never went live goes first.",
        kinds=("scikitlearn", "mlflow"),
        after="features",
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        features: Features,
        datasets: DatasetStore,
        bundles: BundleStore,
        tracking: ExperimentTracking,
    ) -> dg.MaterializeResult[TrainedModel]:
        code = ModelCode.of(spec)
        table = datasets.read(features.table.name, features.table.version)
        with patiently(context):
            pending = None if features.as_of else tracking.pending(spec.name)
            if pending:
                return _pending(context, tracking, pending, features)
            split = splitting.choose(spec, table)
            held_out = splitting.held_out(table, [split])
            train = table.filter(~held_out & known_rows(table))
            data_version, print_ = fingerprint(code, train)
            earlier = tracking.trained(spec.name, print_)
            if earlier is not None and earlier.info.status == "FINISHED":
                context.log.info("the same rows, code and seed were trained before; nothing to train")
            else:
                resume = earlier.info.run_id if earlier is not None else None
                with tracking.training_run(context, spec.name, resume) as mlflow:
                    if earlier is None:
                        inputs = datasets.read(features.validated.name, features.validated.version)
                        fitted = _train(code, table, inputs, train, held_out, bundles)
                        tags = {
                            FINGERPRINT: print_,
                            DATA_VERSION: data_version,
                            REVISION: code_revision(),
                            SPLIT: msgspec.json.encode(split).decode(),
                            DIGEST: fitted.predictor.digest,
                        }
                        _log(mlflow, spec, fitted, bundles, tags, inputs)
                    run_id = mlflow.active_run().info.run_id
                earlier = tracking.run(run_id)
        return _result(tracking, earlier, features, split)

    return trained_model


def known_rows(table: pl.DataFrame) -> NDArray[np.bool_]:
    """True for the rows whose label is known."""
    return table[LABEL].is_not_null().to_numpy()


def feature_columns(code: ModelCode, table: pl.DataFrame) -> dict[str, Column]:
    """The feature columns of the features table, as the estimator takes them."""
    fields = tuple(
        Field(name=f"feature_{f.name}", kind=f.kind, dtype="", nullable=True) for f in code.features.features
    )
    columns = as_columns(table, fields)
    return {f.name: columns[f"feature_{f.name}"] for f in code.features.features}


def label_of(table: pl.DataFrame) -> Column:
    """The label column of the features table."""
    kind = Kind.TEXT if table[LABEL].dtype == pl.String else Kind.NUMBER
    return as_columns(table, (Field(name=LABEL, kind=kind, dtype="", nullable=True),))[LABEL]


def _train(
    code: ModelCode,
    table: pl.DataFrame,
    inputs: pl.DataFrame,
    train: pl.DataFrame,
    held_out: NDArray[np.bool_],
    bundles: BundleStore,
) -> Fitted:
    """Fit, bundle, and answer the held-out rows with the bundle as it will be served."""
    spec = code.spec
    pipeline, classes = fit(code, feature_columns(code, train), label_of(train))
    judged = held_out & known_rows(table)
    if not judged.any():
        msg = f"model {spec.name!r}: no held-out row has a known label, so nothing can be judged; wait for more rows"
        raise dg.Failure(msg, allow_retries=False)
    columns = as_columns(inputs.filter(judged), code.inputs)
    features = code.features.compute(columns)
    predicted = bundle.predict(pipeline, spec.task, features, classes)
    picked = pick_golden(columns, predicted.scores)
    rows = bundle.rows_of(columns, code.inputs, picked)
    answers = predicted.as_json()
    digest = bundle.write(
        bundles.path,
        task=spec.task,
        classes=classes,
        fields=code.inputs,
        features=code.features_module,
        pipeline=trust.dump(pipeline),
        golden=Golden(rows=rows, answers=tuple(answers[i] for i in picked)),
    )
    predictor = bundle.load(bundles.folder(digest), digest)
    wrong = bundle.differences(predictor.answer(predictor.golden.rows), predictor.golden.answers)
    if wrong:
        msg = f"model {spec.name!r}: the bundle does not answer as the pipeline it was made of; first: {wrong[0]}"
        raise dg.Failure(msg, allow_retries=False)
    label = label_of(table)[judged]
    actual = label if spec.task is Task.REGRESSION else as_classes(label)
    return Fitted(predictor=predictor, features=features, actual=actual, predicted=predicted, rows_trained=len(train))


def _log(
    mlflow: Any,
    spec: ModelSpec,
    fitted: Fitted,
    bundles: BundleStore,
    tags: dict[str, str],
    inputs: pl.DataFrame,
) -> None:
    """Put everything on the MLflow run; the tag that says it is complete comes last."""
    predictor = fitted.predictor
    parameters = {k: v for k, v in predictor.pipeline.get_params().items() if isinstance(v, str | int | float | bool)}
    mlflow.log_params(
        {**{k: str(v)[:500] for k, v in parameters.items()}, "seed": spec.seed, "rows_trained": fitted.rows_trained}
    )
    importances = pictures.importances(predictor.pipeline, fitted.features, fitted.actual, spec.task, spec.seed)
    scores = score(fitted.actual, fitted.predicted)
    mlflow.log_metrics({f"holdout_{k}": v for k, v in scores.items()} | {"rows_held_out": float(len(fitted.actual))})
    mlflow.log_dict(importances, "permutation_importance.json")
    with tempfile.TemporaryDirectory() as folder:
        figures = pictures.of_predictions(fitted.actual, fitted.predicted)
        figures["permutation_importance"] = pictures.of_importances(importances)
        for name, figure in figures.items():
            (Path(folder) / f"{name}.png").write_bytes(pictures.as_png(figure))
        mlflow.log_artifacts(folder, "plots")
        reference = Path(folder) / REFERENCE
        sample = inputs.select(f.name for f in predictor.fields)
        sample.sample(min(len(sample), REFERENCE_ROWS), seed=spec.seed).write_parquet(reference)
        mlflow.log_artifact(str(reference))
    mlflow.log_artifacts(str(bundles.folder(predictor.digest)), f"bundle/{predictor.digest}")
    mlflow.set_tags(tags)
    uri = log_bundle(mlflow, predictor, bundles.folder(predictor.digest))
    mlflow.set_tag(MODEL_URI, uri)


def _pending(
    context: dg.AssetExecutionContext, tracking: ExperimentTracking, pending: Version, features: Features
) -> dg.MaterializeResult[TrainedModel]:
    """Finish what was begun: a registered winner goes live before anything new is trained."""
    context.log.info(
        f"version {pending.version} won earlier and is not live yet: it goes first, without training again"
    )
    run = tracking.run(pending.run_id)
    if run.info.status != "FINISHED":
        with tracking.training_run(
            context, run.data.tags.get("mlflow.experimentName", features_model(features)), pending.run_id
        ):
            pass
    split = msgspec.json.decode(pending.tags[SPLIT], type=Split)
    return _result(tracking, run, features, split, pending.version)


def features_model(features: Features) -> str:
    """The model that a features table belongs to."""
    return features.table.name.partition("/")[0]


def _result(
    tracking: ExperimentTracking,
    run: Any,
    features: Features,
    split: Split,
    pending: str | None = None,
) -> dg.MaterializeResult[TrainedModel]:
    product = TrainedModel(
        run_id=run.info.run_id,
        digest=run.data.tags[DIGEST],
        split=split,
        validated=features.validated,
        as_of=features.as_of,
        pending_version=pending,
    )
    metrics = {name: dg.MetadataValue.float(float(value)) for name, value in sorted(run.data.metrics.items())}
    with tempfile.TemporaryDirectory() as folder:
        plots = tracking.download(run.info.run_id, "plots", Path(folder))
        drawn = pictures.files_as_markdown(sorted(plots.glob("*.png")))
    return dg.MaterializeResult(
        value=product,
        metadata={
            **metrics,
            "mlflow_run": dg.MetadataValue.url(tracking.run_link(run)),
            "pictures": dg.MetadataValue.md(drawn),
            "bundle": run.data.tags[DIGEST],
            "data_version": run.data.tags[DATA_VERSION],
            "code_revision": run.data.tags[REVISION],
        },
        data_version=dg.DataVersion(run.data.tags[DIGEST]),
    )
