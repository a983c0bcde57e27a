"""Importing this imports what every run needs, so that a process forked afterwards begins at once.

Nothing here starts a thread pool or opens a connection: neither would survive a fork. The project's own modules are
left out on purpose: each run imports them afresh, so that an edited file or a new model counts from the next run on.
"""

import gc
import importlib
import logging
from contextlib import suppress

HEAVY = (
    "dagster._cli.api",
    "dagster_mlflow",
    "dagster_postgres",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "pandas",
    "polars",
    "pyarrow",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "deltalake",
    "pandera.polars",
    "sklearn.calibration",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.impute",
    "sklearn.inspection",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "skops.io",
    "skl2onnx",
    "onnx",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "adbc_driver_postgresql.dbapi",
    "psycopg",
    "sqlalchemy.dialects.postgresql",
    "httpx",
    "msgspec",
)

logger = logging.getLogger(__name__)


def import_everything() -> None:
    """All that can be imported has been; what cannot will be reported by the run that needs it."""
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except Exception:
            logger.exception("could not import %s beforehand", name)
    # Imported objects live for ever: looking through them would copy the pages shared with every fork.
    gc.collect()
    gc.freeze()


with suppress(Exception):
    import_everything()
