"""A real company database and real datasets for the tests of the doors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.source import SourceDatabase


@dataclass
class Company:
    """The company's side of the database: whoever writes the rows that models learn from."""

    url: str
    connection: psycopg.Connection[tuple[Any, ...]] = field(repr=False)

    def execute(self, query: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in its own transaction; its rows, if it has any."""
        cursor = self.connection.execute(query, values or None)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A second connection with a transaction that stays open until the test commits it."""
        with psycopg.connect(self.url) as other:
            yield other


@pytest.fixture(scope="session")
def company_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own with an empty database."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("source"), free_port())
    server.start()
    server.create_databases(["company"])
    yield server.url("company")
    server.stop()


@pytest.fixture
def company(company_url: str) -> Iterator[Company]:
    """The database, emptied."""
    with psycopg.connect(company_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("DROP SCHEMA IF EXISTS risk CASCADE")
        yield Company(company_url, connection)


@pytest.fixture
def source(company_url: str) -> SourceDatabase:
    """The door to it."""
    return SourceDatabase(url=company_url)


@pytest.fixture
def datasets(tmp_path: Path) -> DatasetStore:
    """An empty dataset store."""
    return DatasetStore(root=str(tmp_path / "datasets"))
