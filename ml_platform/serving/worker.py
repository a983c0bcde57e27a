"""The worker: one process that answers on the server's socket until it is told to stop, then drains."""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ml_platform.serving.app import Server
from ml_platform.serving.journal import Journal
from ml_platform.serving.slots import Slots
from ml_platform.settings import Settings, SettingsError

HEADER_SECONDS = 10.0
HEADER_BYTES = 64 * 1024
FOLLOW_S = 0.25
SYNC_S = 1.0
LOG = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        said = {"at": moment, "level": record.levelname, "process": record.process, "message": record.getMessage()}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


class PatientProtocol(HttpToolsProtocol):
    """HTTP that waits for a request's headers, but neither for ever nor for any amount of them."""

    _timer: asyncio.TimerHandle | None = None
    _in_headers = False
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to headers that are not complete yet."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
            elif self._timer is None:
                self._await_headers()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Its headers are here."""
        self._in_headers = False
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to come."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._refuse, b"408 Request Timeout")

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """Told to stop, it first asks its clients to connect elsewhere, so that none is cut off while it asks."""

    def __init__(self, config: uvicorn.Config, app: Server, parent: int | None, drain_seconds: float) -> None:
        """Remember whom to follow into the end."""
        super().__init__(config)
        self._app = app
        self._parent = parent
        self._drain_seconds = drain_seconds
        self._stop_at = float("inf")
        self._chores: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer, and look after slots and journal beside that."""
        await super().startup(sockets)
        self._chores = [asyncio.create_task(self._follow()), asyncio.create_task(self._sync())]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends it at once."""
        if self._app.draining or sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
        else:
            self._drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop."""
        if self._parent is not None and os.getppid() != self._parent and not self._app.draining:
            self._drain()
        if self._app.draining and (time.monotonic() > self._stop_at or not self.server_state.connections):
            self.should_exit = True
        return await super().on_tick(counter)

    def _drain(self) -> None:
        self._app.draining = True
        self._stop_at = time.monotonic() + self._drain_seconds

    async def _follow(self) -> None:
        """Models that another worker loaded are loaded here before somebody asks for them."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await asyncio.to_thread(self._app.slots.follow)
            except Exception:
                LOG.exception("cannot follow the other workers")

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            await asyncio.to_thread(self._app.journal.sync)


def serve(here: Settings, door: socket.socket, parent: int | None = None) -> None:
    """Answer until told to stop.

    Args:
        here: the settings.
        door: the listening socket.
        parent: the process that started this one as one of several workers, if so.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    folder = here.state / "serving"
    journal = Journal(folder / "journal", here.journal_mib * 2**20)
    app = Server(
        slots=Slots(folder / "slots.json", journal),
        journal=journal,
        token=here.require("serving_token"),
        tokens=model_tokens(here.serving_tokens),
        several_processes=parent is not None,
    )
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=10,
    )
    try:
        DrainingServer(config, app, parent, here.drain_seconds).run(sockets=[door])
    finally:
        journal.close()


def model_tokens(file: str) -> Mapping[str, str]:
    """The tokens in a JSON file `{"model": "token"}`; none when no file is named.

    Raises:
        SettingsError: when it is not there or holds something else.
    """
    if not file:
        return {}
    try:
        found: Any = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"ML_PLATFORM_SERVING_TOKENS names {file}, which cannot be read ({error})"
        raise SettingsError(msg) from None
    if not isinstance(found, dict) or not all(isinstance(token, str) and token for token in found.values()):
        msg = f'ML_PLATFORM_SERVING_TOKENS: {file} must hold {{"model": "token", ...}}'
        raise SettingsError(msg)
    return found
