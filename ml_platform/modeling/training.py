"""Training: a model folder's code applied to its rows; the same rows, code and seed give the same model."""

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.modeling.columns import DTYPES, Column, Kind
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureMatrix, FeatureSet
from ml_platform.modeling.schema import Field, Logged
from ml_platform.modeling.spec import ModelSpec, Serving, SpecError, Task
from ml_platform.modeling.validation import Schema, as_columns, compile_schema

LIBRARIES = ("numpy", "scikit-learn")
GOLDEN_ROWS = 20


@dataclass(frozen=True)
class ModelCode:
    """The heavy half of a model's folder: its schema, features and training, compiled and held to the spec."""

    spec: ModelSpec
    schema: Schema
    fields: tuple[Field, ...]
    features: FeatureSet
    features_module: ModuleType
    training_module: ModuleType

    @classmethod
    def of(cls, spec: ModelSpec) -> "ModelCode":
        """Import and check a model's code.

        Raises:
            SpecError: when the folder and the spec disagree; the message names the file and the remedy.
        """
        schema_module, features_module, training_module = (
            importlib.import_module(f"{spec.package}.{name}") for name in ("schema", "features", "training")
        )
        schema = getattr(schema_module, "Schema", None)
        if schema is None:
            msg = f"{spec.package}.schema: define class Schema(pa.DataFrameModel)"
            raise SpecError(msg)
        compiled = tuple(replace(f, logged=_logged(f.name, spec.serving)) for f in compile_schema(schema))
        features = FeatureSet.of(features_module, {f.name: f.kind for f in compiled})
        code = cls(spec, schema, compiled, features, features_module, training_module)
        code._check()
        return code

    @property
    def inputs(self) -> tuple[Field, ...]:
        """The source columns that features are made of: what a request must have."""
        return tuple(f for f in self.fields if f.name in self.features.columns)

    @property
    def label_needs(self) -> tuple[str, ...]:
        """The source columns that the label is made of."""
        function = getattr(self.training_module, self.spec.label, None)
        return tuple(inspect.signature(function).parameters) if function else (self.spec.label,)

    def label(self, rows: pl.DataFrame) -> Column:
        """The label of each row: a number or text, missing where it is not known yet."""
        columns = as_columns(rows, tuple(f for f in self.fields if f.name in self.label_needs))
        function = getattr(self.training_module, self.spec.label, None)
        label: Column = function(**columns) if function else columns[self.spec.label]
        return label

    def source(self) -> str:
        """The text of everything that decides what is trained, for the fingerprint."""
        modules = (inspect.getmodule(self.schema), self.features_module, self.training_module)
        return "\n".join(inspect.getsource(m) for m in modules if m)

    def _check(self) -> None:
        names = {f.name for f in self.fields}
        source = self.spec.source
        for what, column in (("source.key", source.key), ("source.event_time", source.event_time)):
            if column and column not in names:
                self._refuse(what, f"column {column!r} is not in schema.py; add it there")
        for column in (*self.spec.slices, *self.label_needs):
            if column not in names:
                self._refuse("slices or label", f"column {column!r} is not in schema.py; add it there")
        leaks = set(self.features.columns) & ({source.key} | set(self.label_needs))
        if leaks:
            self._refuse("features.py", f"{', '.join(sorted(leaks))} would leak the key or the label into the features")
        self._check_serving()
        if not callable(getattr(self.training_module, "estimator", None)):
            self._refuse("training.py", "define estimator(seed), which returns a scikit-learn pipeline")

    def _check_serving(self) -> None:
        inputs = {f.name for f in self.inputs}
        for field in fields(Serving):
            for column in getattr(self.spec.serving, field.name):
                if column not in inputs:
                    remedy = f"no request has a column {column!r}; choose among {', '.join(sorted(inputs))}"
                    self._refuse(f"serving.{field.name}", remedy)
        if both := set(self.spec.serving.exclude) & set(self.spec.serving.hash):
            self._refuse("serving", f"{', '.join(sorted(both))} cannot be in exclude and in hash: decide for one")

    def _refuse(self, where: str, remedy: str) -> None:
        msg = f"model {self.spec.name!r}, {where}: {remedy}"
        raise SpecError(msg)


def _logged(column: str, serving: Serving) -> Logged:
    if column in serving.exclude:
        return Logged.EXCLUDED
    return Logged.HASHED if column in serving.hash else Logged.PLAIN


def known(label: Column) -> NDArray[np.bool_]:
    """True where the label is known."""
    if label.dtype == DTYPES[Kind.TEXT]:
        return np.array([v is not None for v in label], dtype=bool)
    return ~np.isnan(label)


def fit(code: ModelCode, features: FeatureMatrix, label: Column) -> tuple[Any, tuple[Any, ...]]:
    """Fit the model's estimator.

    Args:
        code: the model's code.
        features: the features of n rows.
        label: n known labels.

    Returns:
        The fitted pipeline, and the class labels in the order of its probabilities (empty for a regression).

    Raises:
        ValueError: when there is nothing to tell apart.
    """
    task = code.spec.task
    target = label if task is Task.REGRESSION else as_classes(label)
    pipeline = code.training_module.estimator(code.spec.seed)
    if task is not Task.REGRESSION and len(set(target.tolist())) < 2:  # noqa: PLR2004 - one class cannot be told apart
        msg = (
            f"model {code.spec.name!r}: all {len(target)} training rows have the same label; there is nothing to learn"
        )
        raise ValueError(msg)
    pipeline.fit(as_frame(features, tuple(code.features.kinds.items())), target)
    if task is Task.REGRESSION:
        return pipeline, ()
    return pipeline, tuple(pipeline.classes_.tolist())


def as_classes(label: Column) -> Column:
    """Known labels as class labels: whole numbers become integers, text stays."""
    if label.dtype == DTYPES[Kind.TEXT]:
        return label
    whole = label.astype(np.int64)
    classes: Column = whole if np.array_equal(whole, label) else label  # type: ignore[assignment]
    return classes


def pick_golden(columns: Mapping[str, Column], scores: NDArray[np.float64]) -> list[int]:
    """Rows that are worth checking for ever: spread over the scores, and one with each column missing."""
    rank = scores if scores.ndim == 1 else scores.max(axis=1)
    spread = np.argsort(rank, kind="stable")[np.linspace(0, len(rank) - 1, min(GOLDEN_ROWS, len(rank))).astype(int)]
    picked = dict.fromkeys(spread.tolist())
    for values in columns.values():
        missing = np.flatnonzero(~known(values)) if values.dtype.kind != "M" else np.flatnonzero(np.isnat(values))
        if len(missing):
            picked.setdefault(int(missing[0]))
    return list(picked)


def fingerprint(code: ModelCode, rows: pl.DataFrame) -> tuple[str, str]:
    """What decides a model: the hash of its training rows, and of the rows with code, seed, libraries and privacy.

    Args:
        code: the model's code.
        rows: the training rows with their key; their order does not matter.
    """
    data = hashlib.sha256()
    for batch in rows.sort(code.spec.source.key).to_arrow().to_batches(max_chunksize=65_536):
        for column in batch.columns:
            for buffer in column.buffers():
                data.update(buffer or b"-")
    data.update(repr(rows.schema).encode())
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    discreet = [f"{f.name} {f.logged}" for f in code.inputs if f.logged is not Logged.PLAIN]
    whole = "\n".join([data.hexdigest(), code.source(), str(code.spec.seed), *libraries, *discreet])
    return data.hexdigest(), hashlib.sha256(whole.encode()).hexdigest()
