"""A model server with one model of every type and rule."""

from collections.abc import Iterator

import pytest

from ml_platform_tests.serving import rich_model
from ml_platform_tests.serving.server import ModelServer, started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """The rich model is live, and no other."""
    folder = tmp_path_factory.mktemp("server")
    with started(folder / "state", drain_seconds=0) as running:
        running.make_live(*rich_model.release(folder))
        yield running
