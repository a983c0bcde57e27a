"""The bundle as an MLflow model: what `mlflow.pyfunc.load_model` runs; raw rows in, the endpoint's answers out."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from ml_platform.modeling import bundle
from ml_platform.modeling.columns import Kind
from ml_platform.modeling.validation import as_columns

POLARS: dict[Kind, pl.DataType] = {Kind.NUMBER: pl.Float64(), Kind.TEXT: pl.String(), Kind.TIME: pl.Datetime("us")}


class BundleModel(PythonModel):
    """Answers raw rows with the same code as the model server."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle; its folder is named by its hash."""
        folder = Path(context.artifacts["bundle"])
        self.predictor = bundle.load(folder, folder.name)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """One answer per row, with the columns of the endpoint's answer."""
        fields = self.predictor.fields
        frame = pl.from_pandas(model_input[[f.name for f in fields]], nan_to_null=True)
        typed = frame.with_columns(pl.col(f.name).cast(POLARS[f.kind]) for f in fields)
        return pd.DataFrame(self.predictor.predict(as_columns(typed, fields)).as_json())


mlflow.models.set_model(BundleModel())
