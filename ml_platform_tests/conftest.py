"""Fixtures that all tests share, and which tests may run at the same time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform_tests import platform as whole

END_TO_END, PLATFORM, DEMO = "end_to_end", "platform", "demo"
LONGEST_FIRST = (END_TO_END, PLATFORM, DEMO)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a whole platform stay in one process, so that it starts once; the longest begin first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: [*LONGEST_FIRST, _group(item)].index(_group(item)))


def _group(item: pytest.Item) -> str:
    """What runs in one process, in order: the tests of one platform, otherwise those of one file."""
    if END_TO_END in item.path.parts:
        return END_TO_END
    if item.path.stem == "test_demo":
        return DEMO
    return PLATFORM if PLATFORM in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose models are in the catalogue besides the project's own."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[whole.Platform]:
    """One real platform for all tests of this process; tests that change a model for good use one of their own."""
    with whole.running(tmp_path_factory.mktemp("platform"), models_folder) as running:
        yield running
