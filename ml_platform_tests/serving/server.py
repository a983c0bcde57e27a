"""A real model server process with small models, for tests that need nothing else of the platform."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep

import httpx

from ml_platform import settings
from ml_platform.local import services
from ml_platform.local.processes import free_port
from ml_platform.modeling.promotion import Colour, Release
from ml_platform.resources.serving import LocalServing
from ml_platform.settings import Settings

START_S = 60.0


@dataclass(frozen=True)
class ModelServer:
    """A running server, and what the platform and a client do with it."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.settings.serving_url

    @property
    def door(self) -> LocalServing:
        """The platform's door to it."""
        return LocalServing(url=self.url, token=self.settings.serving_token)

    def make_live(self, release: Release, bundle: Path) -> None:
        """Load a release and send traffic to it."""
        seen = self.door.observe(release.model)
        colour = seen.live.other if seen.live else Colour.BLUE
        seen = self.door.load(release, bundle, colour, seen.revision)
        self.door.switch(release.model, colour, seen.revision)

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """Send a request."""
        return httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=30, trust_env=False)

    def drain(self) -> None:
        """Tell it to stop; it goes on answering for a while."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def started(state: Path, **given: str | int) -> Iterator[ModelServer]:
    """A server on a state folder, to the end of the block.

    Args:
        state: what it keeps; it may have been served from before.
        given: other settings.
    """
    state.mkdir(parents=True, exist_ok=True)
    port = free_port()
    here = replace(settings.load(), state=state, serving_port=port, serving_url=f"http://127.0.0.1:{port}",
                   serving_token="the platform's", **given)  # type: ignore[arg-type]  # fmt: skip
    log = state / "model_server.log"
    environment = {**os.environ, **services.QUIET, **here.as_environment()}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "ml_platform.serving"]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    server = ModelServer(here, process, log)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _wait(server: ModelServer) -> None:
    give_up = monotonic() + START_S
    while monotonic() < give_up and server.process.poll() is None:
        try:
            if server.ask("GET", "/v2/health/live").is_success:
                return
        except httpx.TransportError:
            sleep(0.05)
    raise AssertionError(server.log.read_text())
