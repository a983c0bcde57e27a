"""A model whose rows have every type and every rule: what a protocol or a document must be able to say."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import pandera.polars as pa
import polars as pl
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureSet
from ml_platform.modeling.promotion import Release
from ml_platform.modeling.spec import Task
from ml_platform.modeling.validation import as_columns, compile_schema
from ml_platform_tests.rows import random_rows

FEATURES = '''"""Features of the rich model."""

COLUMNS = ("amount", "share", "count", "flag", "maybe")
'''
CLASSES = ("barbera", "barolo", "grignolino")


class Schema(pa.DataFrameModel):
    """Numbers, whole numbers, flags, texts and times, with and without gaps."""

    amount: float = pa.Field(ge=0, gt=0.5, lt=100, description="How much")
    share: float = pa.Field(isin=[0.0, 0.5, 1.0], nullable=True)
    count: int = pa.Field(in_range={"min_value": 0, "max_value": 1000})
    code: int = pa.Field(isin=[1, 2, 3], nullable=True)
    whole: int = pa.Field(gt=1.5, le=8)
    tiny: pl.UInt8 = pa.Field(ne=-1, le=200)
    year: int = pa.Field(nullable=True)
    kind: str = pa.Field(isin=["a", "b"])
    note: str = pa.Field(str_length={"min_value": 1, "max_value": 20})
    name: str = pa.Field(str_matches=r"^text \d", nullable=True)
    flag: bool = pa.Field()
    maybe: bool = pa.Field(nullable=True)
    when: Annotated[pl.Datetime, "us", "UTC"] = pa.Field()
    seen: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


def release(folder: Path, version: str = "1", model: str = "rich") -> tuple[Release, Path]:
    """A registered version of the model and where its bundle is."""
    fields = compile_schema(Schema)
    module = _features_module(folder)
    features = FeatureSet.of(module, {f.name: f.kind for f in fields})
    columns = as_columns(random_rows(fields, 300, 1), fields)
    seen = features.matrix(columns)
    labels = np.array(CLASSES)[np.digitize(np.asarray(columns["amount"], dtype=float), [33, 66])]
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    pipeline.fit(as_frame(seen, tuple(features.kinds.items())), labels)
    fitted = Fitted(
        pipeline=pipeline, task=Task.MULTICLASS, classes=CLASSES, fields=fields, features=features,
        features_module=module,
    )  # fmt: skip
    digest = pack(fitted, seen, columns, folder / "bundles", seed=1).predictor.digest
    made = Release(
        model=model, version=version, digest=digest, run_id=f"run{version}", data_version="d", code_revision="c"
    )
    return made, folder / "bundles" / digest


def _features_module(folder: Path) -> ModuleType:
    file = folder / "rich_features.py"
    file.write_text(FEATURES)
    module = ModuleType("rich_features")
    module.__file__ = str(file)
    exec(compile(FEATURES, str(file), "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return module
