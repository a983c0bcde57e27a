"""A real source database, and an empty catalogue to write to."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
import sklearn.ensemble  # noqa: F401 - threads can be limited once they are loaded
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ml_platform import settings
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.training import ModelCode
from ml_platform.scaffolding.new_model import Wish, write

LOANS = """
CREATE TABLE loans (
    loan_id bigint PRIMARY KEY, amount float8 NOT NULL, purpose text, approved boolean, rating int NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO loans
SELECT i, i % 97, (ARRAY['car', 'house', NULL])[i % 3 + 1], i % 7 > 3, i % 5 FROM generate_series(1, 300) i
"""


@dataclass(frozen=True)
class Source:
    """A source database with one table, `loans`, and what a user does with it."""

    url: str
    catalogue: Path

    def sql(self, statement: str) -> None:
        """Run statements."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode())

    def new_model(self, name: str = "model", table: str = "loans", task: Task | None = None, **given: str) -> str:
        """What `new-model` says."""
        here = replace(settings.load(), source_url=self.url, models=str(self.catalogue), dagster_page="")
        return "\n".join(write(Wish(name=name, table=table, task=task, **given), here))

    def text(self, file: str, name: str = "model") -> str:
        """A file of the new model."""
        return (self.catalogue / name / file).read_text(encoding="utf-8")

    def spec(self, name: str = "model") -> ModelSpec:
        """The spec of the new model."""
        package = f"{self.catalogue.name}.{name}"
        spec: ModelSpec = importlib.import_module(f"{package}.spec").MODEL
        return replace(spec, package=package)

    def code(self, name: str = "model") -> ModelCode:
        """The code of the new model, held to its spec."""
        return ModelCode.of(self.spec(name))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models on a busy machine: scikit-learn's threads would wait for each other most of the time."""
    with threadpool_limits(limits=1, user_api="openmp"):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server with an empty database."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("source"), free_port())
    postgres.start()
    postgres.create_databases(["company"])
    yield postgres
    postgres.stop()


@pytest.fixture
def source(server: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """The loans, and nothing else."""
    catalogue = tmp_path / "new_models"
    monkeypatch.syspath_prepend(str(tmp_path))
    source = Source(server.url("company"), catalogue)
    source.sql(f"DROP SCHEMA public CASCADE; CREATE SCHEMA public; {LOANS}")
    yield source
    for name in [name for name in sys.modules if name.partition(".")[0] == catalogue.name]:
        del sys.modules[name]
