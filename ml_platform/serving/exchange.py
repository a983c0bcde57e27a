"""The exchange: a request to the server and its answer in one piece, without ASGI's messages in between."""

import asyncio
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ml_platform.serving.app import Server
from ml_platform.serving.http import RETRY, Header, Response

STOPPED = Response.of({"error": "this server has stopped; ask again"}, HTTPStatus.SERVICE_UNAVAILABLE, RETRY)


class ExchangeProtocol(HttpToolsProtocol):
    """HTTP whose requests, one after the other, are answered by a `Server`."""

    _answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        task = self.loop.create_task(self._exchange(cycle, app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _exchange(self, cycle: RequestResponseCycle, server: Server) -> None:
        try:
            response = await server.answer(cycle.scope, cycle.receive)  # type: ignore[arg-type]  # its dicts are typed
            if self.flow.write_paused:
                await self.flow.drain()
        except asyncio.CancelledError:  # It took longer than this server may take to stop.
            response = STOPPED
        if response is None or self.transport.is_closing():
            return
        if server.draining:
            cycle.keep_alive = False
        cycle.response_started = cycle.response_complete = True
        head_only = cycle.scope["method"] == "HEAD"
        self._write(response, keep_alive=cycle.keep_alive, head_only=head_only)
        if not cycle.keep_alive:
            self._hang_up()
        self.on_response_complete()

    def _hang_up(self) -> None:
        self.transport.close()

    def _write(self, response: Response, *, keep_alive: bool, head_only: bool = False) -> None:
        headers: Iterable[Header] = (*self.server_state.default_headers, *response.headers)
        lines = [b"%b: %b\r\n" % header for header in headers]
        if not keep_alive:
            lines.append(b"connection: close\r\n")
        end = b"content-length: %d\r\n\r\n" % len(response.body)
        body = b"" if head_only else response.body
        self.transport.write(b"".join((STATUS_LINE[response.status], *lines, end, body)))


class _Flow(FlowControl):
    """While requests are queued behind each other, no more of them are read."""

    def __init__(self, transport: asyncio.Transport, queue: "deque[Any]") -> None:
        super().__init__(transport)
        self._queue = queue

    def resume_reading(self) -> None:
        if not self._queue:
            super().resume_reading()
