"""The MLflow server in one process: `mlflow server` is two, and both import all of MLflow one after the other."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from ml_platform import settings

ARTIFACTS = "mlflow-artifacts:/"


def main() -> None:
    """Serve until told to stop."""
    here = settings.load()
    backend = here.require("mlflow_backend_url").replace("postgresql://", "postgresql+psycopg2://", 1)
    address = urlsplit(here.require("mlflow_url"))
    _configure(backend, here.state / "mlflow")
    from mlflow.server.handlers import initialize_backend_stores  # noqa: PLC0415 - reads what was just configured

    initialize_backend_stores(backend, backend, ARTIFACTS)
    uvicorn.run(
        "mlflow.server.fastapi_app:app",
        host=address.hostname or "127.0.0.1",
        port=address.port or here.mlflow_port,
        access_log=False,
        timeout_graceful_shutdown=10,
    )


def _configure(backend: str, artifacts: Path) -> None:
    """What the `mlflow server` command would tell its workers: rows in PostgreSQL, files through the server.

    Without a list of its own MLflow answers to the names of this machine's loopback only.
    """
    from mlflow.server import constants  # noqa: PLC0415 - MLflow is heavy

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: backend,
        constants.REGISTRY_STORE_URI_ENV_VAR: backend,
        constants.ARTIFACT_ROOT_ENV_VAR: ARTIFACTS,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts.as_uri(),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


if __name__ == "__main__":
    main()
