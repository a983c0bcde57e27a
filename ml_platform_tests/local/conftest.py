"""Real processes for the tests of the local platform."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running server with an empty state folder of its own."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("state"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An empty state folder."""
    return tmp_path / "a folder with spaces"
