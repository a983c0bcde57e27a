"""A model server with one model of every type and rule, and a real database for what serving writes."""

from collections.abc import Iterator

import psycopg
import pytest

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform_tests.serving import rich_model
from ml_platform_tests.serving.server import ModelServer, started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """The rich model is live, and no other."""
    folder = tmp_path_factory.mktemp("server")
    with started(folder / "state", drain_seconds=0) as running:
        running.make_live(*rich_model.release(folder))
        yield running


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of our own, which a test may stop and start again."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("predictions"), free_port())
    server.start()
    server.create_databases(["platform"])
    yield server
    server.stop()


@pytest.fixture
def url(postgres: EmbeddedPostgres) -> str:
    """The database, emptied."""
    with psycopg.connect(postgres.url("platform")) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    return postgres.url("platform")
