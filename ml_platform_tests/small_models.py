"""Small models for tests: real pipelines on a handful of rows, fitted in milliseconds."""

import sys
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pandera.polars as pa
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureSet
from ml_platform.modeling.promotion import Release
from ml_platform.modeling.spec import Task
from ml_platform.modeling.validation import as_columns, compile_schema

FEATURES = '''
"""Features of the small model."""

from ml_platform.modeling.columns import Numbers

COLUMNS = ("size",)


def double(size: Numbers) -> Numbers:
    """Twice the size."""
    return size * 2
'''


class Schema(pa.DataFrameModel):
    """One number."""

    size: float = pa.Field(ge=0, description="Size")


def features_module(folder: Path) -> ModuleType:
    """The small model's features as a module on disk, so that its source can be read."""
    file = folder / "small_features.py"
    file.write_text(textwrap.dedent(FEATURES))
    module = ModuleType("small_features")
    module.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return module


def release(folder: Path, version: str, flipped: bool = False, model: str = "small") -> tuple[Release, Path]:
    """A registered version of the small model and where its bundle is; `flipped` learns the opposite."""
    fields = compile_schema(Schema)
    module = features_module(folder)
    features = FeatureSet.of(module, {f.name: f.kind for f in fields})
    columns = as_columns(pl.DataFrame({"size": np.linspace(0, 10, 60)}), fields)
    large = np.asarray(columns["size"], dtype=float) > 5
    label = (~large if flipped else large).astype(int)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    seen = features.matrix(columns)
    pipeline.fit(as_frame(seen, tuple(features.kinds.items())), label)
    fitted = Fitted(
        pipeline=pipeline,
        task=Task.BINARY,
        classes=(0, 1),
        fields=fields,
        features=features,
        features_module=module,
    )
    digest = pack(fitted, seen, columns, folder / "bundles", seed=1).predictor.digest
    made = Release(
        model=model, version=version, digest=digest, run_id=f"run{version}", data_version="d", code_revision="c"
    )
    return made, folder / "bundles" / digest
