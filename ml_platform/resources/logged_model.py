"""The logged model: a bundle in MLflow, as a model that `mlflow.pyfunc` loads from code, without any pickle."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field
from ml_platform.modeling.spec import Task
from ml_platform.resources import pyfunc_model

WHOLE = {"bool": DataType.boolean, "int64": DataType.long}
REQUIREMENTS = ("numpy", "scikit-learn", "skops", "onnxruntime", "polars", "pandas", "msgspec")


def log_bundle(mlflow: Any, predictor: Predictor, folder: Path) -> str:
    """Log a bundle with signature and input example.

    Returns:
        The model's URI, `models:/m-...`.
    """
    example = pd.DataFrame(list(predictor.golden.rows[:3]), columns=[f.name for f in predictor.fields])
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=pyfunc_model.__file__,
        artifacts={"bundle": str(folder)},
        signature=ModelSignature(inputs=Schema([*map(_column, predictor.fields)]), outputs=Schema(_outputs(predictor))),
        input_example=_typed(example, predictor.fields),
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
    uri: str = logged.model_uri
    return uri


def _column(field: Field) -> ColSpec:
    """The column as pandas reads it from a database, where a missing whole number turns a column into floats."""
    types = {Kind.NUMBER: DataType.double, Kind.TEXT: DataType.string, Kind.TIME: DataType.datetime}
    kind = types[field.kind] if field.nullable else WHOLE.get(field.dtype, types[field.kind])
    return ColSpec(kind, name=field.name, required=not field.nullable)


def _typed(frame: pd.DataFrame, fields: tuple[Field, ...]) -> pd.DataFrame:
    floats = {f.name for f in fields if f.kind is Kind.NUMBER and (f.nullable or f.dtype not in WHOLE)}
    numbers = dict.fromkeys(floats, "float64")
    times = {f.name: _as_times(frame[f.name]) for f in fields if f.kind is Kind.TIME}
    return frame.astype(numbers).assign(**times)


def _as_times(texts: "pd.Series[Any]") -> "pd.Series[Any]":
    """In UTC and without saying so: MLflow's signatures know no offsets."""
    return pd.to_datetime(texts, format="ISO8601", utc=True).dt.tz_localize(None).astype("datetime64[us]")


def _outputs(predictor: Predictor) -> list[ColSpec | TensorSpec]:
    if predictor.manifest.task is Task.REGRESSION:
        return [ColSpec(DataType.double, name="value")]
    label = DataType.string if isinstance(predictor.manifest.classes[0], str) else DataType.long
    if predictor.manifest.task is Task.BINARY:
        return [ColSpec(label, name="label"), ColSpec(DataType.double, name="probability")]
    return [ColSpec(label, name="label"), ColSpec(DataType.string, name="probabilities")]
