"""Fixtures that all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform_tests import platform as whole


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose models are in the catalogue besides the project's own."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[whole.Platform]:
    """One real platform for all tests of this process; tests that change a model for good use one of their own."""
    with whole.running(tmp_path_factory.mktemp("platform"), models_folder) as running:
        yield running
