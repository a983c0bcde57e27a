"""The candidate: a model trained on the rows it may see, bundled, with its answers on the rows it may not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.modeling import bundle, splitting, trust
from ml_platform.modeling.bundle import Golden, Predictor
from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.conversion import Converted, convert
from ml_platform.modeling.engine import SklearnEngine
from ml_platform.modeling.features import FeatureMatrix, FeatureSet, as_matrix
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.schema import Field, Row, read_rows
from ml_platform.modeling.spec import Task
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode, as_classes, fingerprint, fit, pick_golden
from ml_platform.modeling.validation import as_columns

LABEL, FEATURE = "label", "feature_"


class NothingToJudgeError(ValueError):
    """No row that was held out has a known label."""


class UnfaithfulBundleError(ValueError):
    """A bundle that does not answer as the pipeline it was made of."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted pipeline with what it takes to serve it."""

    pipeline: Any
    task: Task
    classes: tuple[Any, ...]
    fields: tuple[Field, ...]
    features: FeatureSet
    features_module: ModuleType


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A fitted pipeline as a bundle, and the pipeline's own answers to the rows given with it."""

    predictor: Predictor
    skops: bytes
    converted: Converted
    features: FeatureMatrix
    predicted: Predictions


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a model is made of. Rows of `table` and `inputs` are the same, in the order of the key.

    `table` has key, event time, label and features, `inputs` the validated source rows. `train` and `judged` are true
    for the rows to train on and for the held-out ones; only rows with a known label are in either.
    """

    table: pl.DataFrame
    inputs: pl.DataFrame
    split: Split
    train: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    data_version: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model as it would be served, and its answers on held-out rows, whose labels are `actual`."""

    pipeline: Any
    packed: Packed
    actual: Column
    rows_trained: int


def features_table(code: ModelCode, rows: pl.DataFrame, features: Mapping[str, Column], label: Column) -> pl.DataFrame:
    """Key, event time if any, label and features of validated rows, as they are stored."""
    source = code.spec.source
    beside = [source.key, *([source.event_time] if source.event_time else [])]
    return rows.select(beside).with_columns(
        pl.Series(LABEL, label, nan_to_null=True),
        *(pl.Series(f"{FEATURE}{name}", values, nan_to_null=True) for name, values in features.items()),
    )


def prepare(code: ModelCode, table: pl.DataFrame, inputs: pl.DataFrame) -> Material:
    """Decide who trains and who judges.

    Args:
        code: the model's code.
        table: the features table, in any order.
        inputs: the validated rows it was made of, in any order.
    """
    key = code.spec.source.key
    table, inputs = table.sort(key), inputs.sort(key)
    split = splitting.choose(code.spec, table)
    held_out = splitting.held_out(table, [split])
    known = table[LABEL].is_not_null().to_numpy()
    train = ~held_out & known
    data_version, whole = fingerprint(code, table.filter(train))
    return Material(
        table=table,
        inputs=inputs,
        split=split,
        train=train,
        judged=held_out & known,
        data_version=data_version,
        fingerprint=whole,
    )


def train(code: ModelCode, material: Material, bundles: Path) -> Candidate:
    """Fit, write the bundle below `bundles`, and answer the held-out rows.

    Raises:
        NothingToJudgeError: when no held-out row has a known label.
        UntrustedModelError: when the pipeline holds a type that is not allowed.
        UnfaithfulBundleError: when the bundle answers differently from the pipeline.
    """
    spec = code.spec
    if not material.judged.any():
        msg = f"model {spec.name!r}: no held-out row has a known label, so nothing can be judged; wait for more rows"
        raise NothingToJudgeError(msg)
    fitted, seen = _fitted(code, material.table.filter(material.train))
    columns = as_columns(material.inputs.filter(material.judged), code.inputs)
    label = _label(material.table.filter(material.judged))
    return Candidate(
        pipeline=fitted.pipeline,
        packed=pack(fitted, seen, columns, bundles, seed=spec.seed),
        actual=label if spec.task is Task.REGRESSION else as_classes(label),
        rows_trained=int(material.train.sum()),
    )


def train_again(code: ModelCode, rows: pl.DataFrame, golden: Sequence[Row]) -> list[dict[str, Any]]:
    """The answers to golden rows of the pipeline fitted on exactly these validated rows, in their order."""
    features = code.features.compute(as_columns(rows, code.inputs))
    fitted, _ = _fitted(code, features_table(code, rows, features, code.label(rows)))
    asked = code.features.matrix(read_rows(golden, code.inputs))
    return _predicted(fitted, asked).as_json()


def _fitted(code: ModelCode, table: pl.DataFrame) -> tuple[Fitted, FeatureMatrix]:
    """The pipeline fitted on rows of the features table, and their features."""
    seen = _features(code, table)
    pipeline, classes = fit(code, seen, _label(table))
    fitted = Fitted(
        pipeline=pipeline,
        task=code.spec.task,
        classes=classes,
        fields=code.inputs,
        features=code.features,
        features_module=code.features_module,
    )
    return fitted, seen


def pack(fitted: Fitted, seen: FeatureMatrix, columns: Mapping[str, Column], bundles: Path, *, seed: int) -> Packed:
    """Write the bundle of a fitted pipeline below `bundles`.

    Args:
        fitted: the pipeline.
        seen: the features of rows to prove the conversion with, usually those trained on.
        columns: source columns of n rows, from which the golden ones are picked.
        bundles: the folder of all bundles.
        seed: decides the sample that the conversion is proven with.

    Raises:
        UntrustedModelError: when the pipeline holds a type that is not allowed.
        UnfaithfulBundleError: when the bundle answers differently from the pipeline.
    """
    kinds = fitted.features.kinds
    skops = trust.dump(fitted.pipeline)
    converted = convert(fitted.pipeline, fitted.task, kinds, fitted.classes, seen, seed=seed)
    features = fitted.features.matrix(columns)
    predicted = _predicted(fitted, features)
    digest = bundle.write(
        bundles,
        task=fitted.task,
        classes=fitted.classes,
        fields=fitted.fields,
        features=fitted.features_module,
        engine=converted.engine,
        model=converted.model or skops,
        golden=_golden(fitted.fields, columns, predicted),
    )
    return Packed(
        predictor=_proven(bundle.load(bundles / digest, digest)),
        skops=skops,
        converted=converted,
        features=features,
        predicted=predicted,
    )


def _predicted(fitted: Fitted, features: FeatureMatrix) -> Predictions:
    """The pipeline's own predictions."""
    scores = SklearnEngine(fitted.task, fitted.pipeline, tuple(fitted.features.kinds.items())).scores(features)
    return Predictions(task=fitted.task, scores=scores, classes=fitted.classes)


def _golden(fields: tuple[Field, ...], columns: Mapping[str, Column], predicted: Predictions) -> Golden:
    picked = pick_golden(columns, predicted.scores)
    answers = predicted.as_json()
    return Golden(rows=bundle.rows_of(columns, fields, picked), answers=tuple(answers[i] for i in picked))


def _proven(predictor: Predictor) -> Predictor:
    wrong = bundle.differences(predictor.answer(predictor.golden.rows), predictor.golden.answers)
    if wrong:
        msg = f"the bundle does not answer as the pipeline it was made of; first: {wrong[0]}"
        raise UnfaithfulBundleError(msg)
    return predictor


def _features(code: ModelCode, table: pl.DataFrame) -> FeatureMatrix:
    """The features in the features table, as the estimator takes them."""
    fields = [Field(name=f"{FEATURE}{f.name}", kind=f.kind, dtype="", nullable=True) for f in code.features.features]
    columns = as_columns(table, tuple(fields))
    return as_matrix({n.removeprefix(FEATURE): values for n, values in columns.items()}, code.features.kinds)


def _label(table: pl.DataFrame) -> Column:
    kind = Kind.TEXT if table[LABEL].dtype == pl.String else Kind.NUMBER
    return as_columns(table, (Field(name=LABEL, kind=kind, dtype="", nullable=True),))[LABEL]
