"""One real platform for all tests of this folder."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from ml_platform_tests.end_to_end import running
from ml_platform_tests.end_to_end.running import Up

DRIFTING = "student_dropout"


@pytest.fixture(scope="package")
def platform_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`ml-platform up` from an empty folder, with a space in its name."""
    with running.started(tmp_path_factory.mktemp("up") / "the state") as up:
        yield up


@pytest.fixture
def up(platform_up: Up) -> Up:
    """The platform, running and with nothing under way."""
    if not platform_up.is_running():
        platform_up.start()
    platform_up.wait_until_quiet()
    return platform_up


@pytest.fixture(scope="package")
def drifted(platform_up: Up) -> str:
    """The model whose requests have drifted, with two reports that say so: one alone starts no refresh."""
    platform_up.answer_one_row(DRIFTING, 200)
    platform_up.look_for_drift(DRIFTING)
    platform_up.look_for_drift(DRIFTING)
    return DRIFTING


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed browser test leaves a picture of each tab it saw in its temporary folder, and says where."""
    report = yield
    used: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed and report.when == "call" and "page" in used:
        for number, tab in enumerate(used["page"].context.pages):
            picture = used["tmp_path"] / f"page-{number}.png"
            tab.screenshot(path=picture)
            report.sections.append(("What the browser showed", str(picture)))
    return report
