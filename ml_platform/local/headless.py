"""A platform without Dagster's page and daemon: PostgreSQL, MLflow and the model server, for whoever drives it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_platform.local import services
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.local.services import DATABASES
from ml_platform.local.supervisor import Supervisor
from ml_platform.settings import Settings


@contextmanager
def running(state: Path, **given: str) -> Iterator[Settings]:
    """The services, on ports of their own, from an empty state folder to the end of the block.

    Nothing is taken from the environment, since another platform may be running around this one; within the block it
    says where this one is.

    Args:
        state: an empty folder.
        given: other settings.
    """
    ports = {f"{name}_port": free_port() for name in ("postgres", "dagster", "mlflow", "serving")}
    asked = Settings(state=state, automation="off", **ports, **given)  # type: ignore[arg-type]  # ports are numbers
    postgres = EmbeddedPostgres(state, asked.postgres_port)
    postgres.start()
    try:
        postgres.create_databases(DATABASES)
        here = services.complete(asked, postgres.url("postgres"))
        services.install_ledger(here)
        with _serving(here):
            yield here
    finally:
        postgres.stop()


@contextmanager
def _serving(here: Settings) -> Iterator[None]:
    """MLflow and the model server answer, and the environment says so."""
    started = [services.model_server(here), services.tracking_server(here)]
    supervisor = Supervisor(here.state, services.environment(here), lambda _: None)
    before = dict(os.environ)
    os.environ |= here.as_environment() | services.QUIET
    try:
        for service in started:
            supervisor.start(service)
        supervisor.wait_until_ready(service.name for service in started)
        yield
    finally:
        supervisor.stop_all()
        os.environ.clear()
        os.environ |= before
