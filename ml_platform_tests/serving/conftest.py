"""What the tests of serving share: real servers with real bundles, and a real database."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.modeling.promotion import Release
from ml_platform_tests.serving import models, rich_model
from ml_platform_tests.serving.running import ModelServer, running

Made = tuple[Release, Path]


@dataclass(frozen=True)
class Releases:
    """Two versions of a model in ONNX Runtime, which answer differently, and one that scikit-learn must serve."""

    first: Made
    second: Made
    strict: Made


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Bundles that no test changes."""
    folder = tmp_path_factory.mktemp("bundles")
    return Releases(models.wide(folder, "1"), models.wide(folder, "2", seed=7), models.strict(folder))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[ModelServer]:
    """A server with both models live. It is impatient, so that slow clients need not be waited for."""
    with running(tmp_path_factory.mktemp("server"), request_seconds=1) as running_server:
        running_server.promote(*releases.first)
        running_server.promote(*releases.strict)
        yield running_server


@pytest.fixture(scope="module")
def rich_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """One model of every type and rule is live, and no other."""
    folder = tmp_path_factory.mktemp("server")
    with running(folder / "state") as running_server:
        running_server.promote(*rich_model.release(folder))
        yield running_server


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
