"""Fixtures of the tests that run the real server: bundles made once, and a server for those that leave it as it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_platform.modeling.promotion import Release
from ml_platform_tests.serving import models
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
