"""The page, seen and clicked by a real browser."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ml_platform.assets.lifecycle import ROOMS
from ml_platform_tests.end_to_end import browser as browsers
from ml_platform_tests.end_to_end.running import RUN_SECONDS, Up

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

MODEL = "loan_approval"
RELOADS, RELOAD_SECONDS = 6, 20


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; without one nothing here can run, which in CI is a failure."""
    command = browsers.find()
    if command is None:
        message = "the browser tests did not run: install Chromium or Chrome (Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=browsers.PATIENCE_SECONDS * 1000)
    with browsers.opened(command) as running:
        yield running


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:  # noqa: ARG001 - a failure leaves its picture in tmp_path
    """An empty page; nothing that it shows comes from beyond this machine."""
    with browsers.page_of(browser) as (page, strangers):
        yield page
    assert strangers == []


def test_the_graph_shows_every_room_of_a_model(up: Up, page: Page) -> None:
    """The group of a model has the eight rooms, the predictions and the drift report, by name."""
    page.goto(_graph(up, MODEL))

    for name in (*ROOMS, "predictions", "drift_report"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_materialize_all_refreshes_a_model_and_turns_green(up: Up, page: Page) -> None:
    """One click on the model's group starts one run over all its assets; its page turns green."""
    page.goto(_graph(up, MODEL))
    expect(page.get_by_text("deployment", exact=True).first).to_be_visible()

    page.get_by_role("button", name=re.compile("Materialize all")).click()
    page.locator("a[href^='/runs/']", has_text="View").first.click()
    page.wait_for_url("**/runs/*")

    run_id = page.url.rpartition("/")[2]
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_SECONDS * 1000)
    assert {"raw_data", "evaluation", "drift_report"} <= up.rooms_made(run_id)
    page.goto(f"{up.page.url}/runs")
    expect(page.get_by_role("link", name=run_id[:8]).first).to_be_visible()
    page.goto(_graph(up, MODEL))
    browsers.wait_until_green(page, [*ROOMS, "drift_report"])


def test_the_trained_model_shows_its_pictures(up: Up, page: Page) -> None:
    """The metadata of trained_model has its scores, and pictures that are drawn."""
    page.goto(_asset(up, MODEL, "trained_model"))

    expect(page.get_by_text("holdout_roc_auc").first).to_be_visible()
    page.get_by_text("[Show Markdown]").first.click()
    picture = page.get_by_role("dialog").locator("img").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100


@pytest.mark.parametrize(
    ("room", "link", "content"),
    [
        ("trained_model", "/runs/", "holdout_roc_auc"),
        ("registered_model", "/versions/", "@ champion"),
    ],
)
def test_the_links_to_mlflow_open(up: Up, page: Page, room: str, link: str, content: str) -> None:
    """The address in the metadata is clicked: MLflow's page of the run, or of the version, is there with content."""
    page.goto(_asset(up, MODEL, room))

    with page.expect_popup() as opened:
        page.locator(f"a[href*='{link}'][href*=':{up.ports['mlflow']}/']").first.click()

    # MLflow's page does not renew itself: a run that has just ended says so after a reload.
    _see_after_reloads(opened.value, content)


def test_the_link_to_the_drift_report_opens_evidentlys_report(up: Up, drifted: str, page: Page) -> None:
    """The report of requests that drifted is drawn on the page behind its link."""
    page.goto(_asset(up, drifted, "drift_report"))

    with page.expect_popup() as opened:
        page.locator(f"a[href*=':{up.ports['mlflow']}/']").first.click()

    _see(opened.value, "report.html")
    report = opened.value.frame_locator("iframe").get_by_text("Dataset Drift is detected").first
    expect(report).to_be_visible()


def _see_after_reloads(page: Page, content: str) -> None:
    """The page shows the content, at the latest after a few reloads."""
    for _ in range(RELOADS):
        with suppress(AssertionError):
            expect(page.get_by_text(content).first).to_be_visible(timeout=RELOAD_SECONDS * 1000)
            return
        page.reload()
    expect(page.get_by_text(content).first).to_be_visible()


def _see(tab: Page, content: str) -> None:
    """MLflow's page has this content. Rarely its first load crashes in the browser; a reload helps."""
    crashed = tab.get_by_text("Something went wrong")
    expect(tab.get_by_text(content).or_(crashed).first).to_be_visible()
    if crashed.count():
        tab.reload()
    expect(tab.get_by_text(content).first).to_be_visible()


def _graph(up: Up, model: str) -> str:
    return f"{up.page.url}/locations/ml_platform/asset-groups/{model}/lineage"


def _asset(up: Up, model: str, room: str) -> str:
    return f"{up.page.url}/assets/{model}/{room}?view=events"
