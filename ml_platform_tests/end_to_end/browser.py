"""A real browser: Chromium or Chrome of this machine, or Debian's, installed where we may."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ARE_GREEN = """names => names.every(name => [...document.querySelectorAll('div')].some(box => {
  const [red, green, blue] = getComputedStyle(box).backgroundColor.match(/[\\d.]+/g).map(Number)
  return box.textContent === name && green > red && green > blue }))"""
INSTALL_SECONDS, PATIENCE_SECONDS = 400, 180


def find() -> str | None:
    """The browser's command; Debian's Chromium is installed first if there is none and we may."""
    return _found() or _installed()


def _found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _installed() -> str | None:
    """Debian's Chromium, which only root may install, and only where there is apt-get."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return None
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        try:
            done = subprocess.run(
                [apt, *step], env=environment, capture_output=True, check=False, timeout=INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            return None
    return _found()


@contextmanager
def opened(command: str) -> Iterator[Browser]:
    """The browser runs."""
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else list(ARGUMENTS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=arguments)
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, width: int = 1400, height: int = 900) -> Iterator[tuple[Page, list[str]]]:
    """An empty page, and the addresses beyond this machine that it asked for."""
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        page, strangers = context.new_page(), list[str]()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.on("request", lambda request: None if _is_near(request.url) else strangers.append(request.url))
        yield page, strangers


def wait_until_green(page: Page, names: Sequence[str]) -> None:
    """In the graph on the page each of these assets has a green box."""
    page.wait_for_function(ARE_GREEN, arg=list(names))


def _is_near(url: str) -> bool:
    address = urlsplit(url)
    return address.scheme in {"data", "blob", "about"} or address.hostname in {"127.0.0.1", "localhost"}
