"""The worker: one process that answers on the server's socket until it is told to stop, then drains."""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from types import FrameType

import uvicorn

from ml_platform.serving.app import Server
from ml_platform.serving.connection import PatientProtocol, ServerConfig
from ml_platform.serving.journal import Journal
from ml_platform.serving.slots import Slots
from ml_platform.serving.tokens import model_tokens
from ml_platform.settings import Settings

FOLLOW_S = 0.25
SYNC_S = 1.0
LAST_S = 1.0
"""How long a connection that was just let in has to ask, when this worker is about to end."""
LOG = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """Told to stop, it first asks its clients to connect elsewhere, so that none is cut off while it asks."""

    def __init__(self, config: ServerConfig, app: Server, parent: int | None, drain_seconds: float) -> None:
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to drain; a second signal ends that, a third does not even wait for answers."""
        LOG.info("%s: %s", signal.Signals(sig).name, "ending at once" if self._app.draining else "draining")
        if self.should_exit:
            self.force_exit = True
        elif self._app.draining:
            self.should_exit = True
        else:
            self._drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop."""
        if self._parent is not None and os.getppid() != self._parent and not self._app.draining:
            LOG.warning("the parent is gone: draining")
            self._drain()
        if time.monotonic() > self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whoever was let in is answered, those included who came last and have not asked yet."""
        await self._close_door(sockets or [])
        deadline = time.monotonic() + LAST_S
        # Connections are uvicorn's and tell nobody.
        while time.monotonic() < deadline and any(map(_may_ask, self.server_state.connections)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    def _drain(self) -> None:
        self._app.draining = True
        self._stop_at = time.monotonic() + self._drain_seconds

    async def _close_door(self, sockets: list[socket.socket]) -> None:
        """Nobody can connect any more; who has connected and was not let in yet is let in."""
        doors = [door.dup() for door in sockets]
        for server in self.servers:
            server.close()
        for door in sockets:
            door.close()
        await asyncio.sleep(0)  # The loop closes its own on its next round.
        loop = asyncio.get_running_loop()
        last: list[socket.socket] = []
        for door in doors:
            door.settimeout(0)
            try:
                while True:
                    last.append(door.accept()[0])
            except OSError:  # Nobody is left outside.
                door.close()
        for guest in last:
            await loop.connect_accepted_socket(lambda: PatientProtocol(self.config, self.server_state, {}, loop), guest)

    async def _follow(self) -> None:
        """Models that another worker loaded are loaded here before somebody asks for them."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                self._app.slots.follow()
                await self._app.slots.settle()
            except Exception:
                LOG.exception("cannot follow the other workers")

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            try:
                await asyncio.to_thread(self._app.journal.sync)
            except Exception:
                LOG.exception("cannot sync the journal")


def _may_ask(connection: object) -> bool:
    return isinstance(connection, PatientProtocol) and connection.may_ask


def serve(here: Settings, door: socket.socket, parent: int | None = None) -> None:
    """Answer until told to stop.

    Args:
        here: the settings.
        door: the listening socket.
        parent: the process that started this one as one of several workers, if so.
    """
    journal = Journal(here.journal, here.journal_mib * 2**20)
    app = Server(
        slots=Slots(here.state / "serving" / "slots.json", journal, here.hash_key),
        journal=journal,
        token=here.require("serving_token"),
        tokens=model_tokens(here.serving_tokens),
        several_processes=parent is not None,
    )
    gc.collect()
    gc.freeze()  # What is here stays for ever: looking through it again and again would only delay answers.
    try:
        DrainingServer(ServerConfig(app, here.request_seconds), app, parent, here.drain_seconds).run(sockets=[door])
    finally:
        journal.close()
