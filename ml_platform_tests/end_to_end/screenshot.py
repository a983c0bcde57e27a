"""Take the README's picture of the asset graph: `python -m ml_platform_tests.end_to_end.screenshot`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.settings import PROJECT
from ml_platform_tests.end_to_end import browser as browsers
from ml_platform_tests.end_to_end import running

PICTURE = PROJECT / "docs" / "images" / "asset-graph.png"
MODEL = "loan_approval"
WIDTH, HEIGHT, SHOWN = 1400, 900, 400
MAX_BYTES = 300_000


def main() -> None:
    """The picture is in its place: one model of a platform of its own, every room green."""
    command = browsers.find()
    if command is None:
        sys.exit("there is no Chromium or Chrome here: install one (Debian: apt install chromium)")
    expect.set_options(timeout=browsers.PATIENCE_SECONDS * 1000)
    with tempfile.TemporaryDirectory() as folder, running.started(Path(folder) / "state") as up:
        up.answer_one_row(MODEL, 5)
        up.look_for_drift(MODEL)
        with browsers.opened(command) as browser, browsers.page_of(browser, WIDTH, HEIGHT) as (page, _):
            _show(page, f"{up.page.url}/locations/ml_platform/asset-groups/{MODEL}/lineage")
            PICTURE.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=PICTURE, clip={"x": 0, "y": 0, "width": WIDTH, "height": SHOWN})
    size = PICTURE.stat().st_size
    sys.stdout.write(f"{PICTURE.relative_to(PROJECT)}: {size:,} bytes\n")
    if size > MAX_BYTES:
        sys.exit(f"that is more than the {MAX_BYTES:,} bytes a README should load")


def _show(page: Page, address: str) -> None:
    """The whole graph is drawn in the upper part of the page, over its full width, every room green."""
    page.goto(address)
    page.get_by_text("Hide navigation").click()
    page.reload()
    browsers.wait_until_green(page, [*ROOMS, "drift_report"])
    page.mouse.move(WIDTH / 2, HEIGHT - 150)
    page.mouse.down()
    page.mouse.move(WIDTH / 2, HEIGHT - 380, steps=10)
    page.mouse.up()


if __name__ == "__main__":
    main()
