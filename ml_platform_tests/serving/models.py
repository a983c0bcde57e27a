"""Models for tests of the server: every kind of column, and an encoder that refuses what it has not seen."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import pandera.polars as pa
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureSet
from ml_platform.modeling.promotion import Release
from ml_platform.modeling.spec import Task
from ml_platform.modeling.validation import as_columns, compile_schema
from ml_platform_tests.rows import random_rows

WIDE, STRICT = "wide", "strict"
ROW = {"size": 12.5, "count": 3, "kind": "a", "note": "hello", "when": "2024-05-01T10:00:00Z"}
KNOWN = {"kind": "text 1"}
UNSEEN = {"kind": "never seen"}


class WideSchema(pa.DataFrameModel):
    """Numbers, whole numbers, texts and times, required and nullable."""

    size: float = pa.Field(ge=0, le=1000)
    count: int = pa.Field(ge=0, le=100)
    kind: str = pa.Field(isin=["a", "b", "c"])
    note: str = pa.Field(nullable=True)
    when: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


class StrictSchema(pa.DataFrameModel):
    """A text that may be anything, so that only the encoder can refuse it."""

    kind: str


def wide(folder: Path, version: str = "1", seed: int = 0) -> tuple[Release, Path]:
    """A model with every kind of column, in ONNX Runtime."""
    return _release(folder, WIDE, version, WideSchema, 'COLUMNS = ("size", "count", "kind")', OneHotEncoder(
        handle_unknown="ignore"), seed)  # fmt: skip


def strict(folder: Path, version: str = "1") -> tuple[Release, Path]:
    """A model that scikit-learn itself must serve, and that cannot answer `UNSEEN`."""
    return _release(folder, STRICT, version, StrictSchema, 'COLUMNS = ("kind",)', OneHotEncoder())


def _release(folder: Path, model: str, version: str, schema: type[pa.DataFrameModel], features: str,
             encoder: OneHotEncoder, seed: int = 0) -> tuple[Release, Path]:  # fmt: skip
    fields = compile_schema(schema)
    module = _module(folder, f"{model}_features", features)
    chosen = FeatureSet.of(module, {f.name: f.kind for f in fields})
    columns = as_columns(random_rows(fields, 60, seed), fields)
    seen = chosen.matrix(columns)
    label = np.arange(60) % 2
    texts = make_column_transformer((encoder, ["kind"]), remainder="passthrough")
    pipeline: Pipeline = make_pipeline(texts, LogisticRegression())
    pipeline.fit(as_frame(seen, tuple(chosen.kinds.items())), label)
    fitted = Fitted(pipeline=pipeline, task=Task.BINARY, classes=(0, 1), fields=fields, features=chosen,
                    features_module=module)  # fmt: skip
    digest = pack(fitted, seen, columns, folder / "bundles", seed=1).predictor.digest
    made = Release(
        model=model, version=version, digest=digest, run_id=f"run{version}", data_version="d", code_revision="c"
    )
    return made, folder / "bundles" / digest


def _module(folder: Path, name: str, source: str) -> ModuleType:
    """Features as a module on disk, so that their source can be read."""
    file = folder / f"{name}.py"
    file.write_text(f"{source}\n")
    module = ModuleType(name)
    module.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
    sys.modules[name] = module
    return module
