"""The connection: HTTP from clients that may be slow, broken or hostile; none of them costs the others anything."""

import asyncio
import json
import resource
from collections import deque
from http import HTTPStatus
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ml_platform.serving.app import Server
from ml_platform.serving.http import MAX_BODY
from ml_platform.serving.metrics import REFUSED

HEADER_BYTES = 64 * 1024
ARRIVING_BYTES = 4 * MAX_BODY
"""What a body may take on the wire: one sent in tiny chunks is larger there."""
MOST_PIPELINED = 100
MOST_CONNECTIONS = 10_000
KEEP_ALIVE_S = 75
STALLS = 3
"""An answer that nobody takes is kept for as many times what a request may take to arrive."""
SPARE_FILES = 100
UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})


class ServerConfig(uvicorn.Config):
    """What uvicorn shall do, and how much a connection may ask for."""

    def __init__(self, app: Server, request_seconds: float) -> None:
        """Everything is as this server needs it.

        Args:
            app: answers.
            request_seconds: how long a request's headers may take to arrive, and its body after them.
        """
        super().__init__(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=10,
        )
        self.request_seconds = request_seconds
        self.most_connections = _most_connections()


class _Flow(FlowControl):
    """While requests are queued behind each other, no more of them are read."""

    def __init__(self, transport: asyncio.Transport, queue: "deque[Any]") -> None:
        super().__init__(transport)
        self._queue = queue

    def resume_reading(self) -> None:
        if not self._queue:
            super().resume_reading()


class _Corked:
    """A transport that sends the head of an answer together with its body, which is written right after it.

    Closing it waits for the client to take what was written, as closing any does, but not for ever.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._transport = transport
        self._loop = loop
        self._patience = patience
        self._head = b""
        self._closing: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            self._head += data
            self.flush()
        else:
            self._head = data
            self._loop.call_soon(self.flush)

    def close(self) -> None:
        self.flush()
        self._transport.close()
        if self._closing is None:
            self._closing = self._loop.call_later(self._patience, self._transport.abort)

    def closed(self) -> None:
        if self._closing is not None:
            self._closing.cancel()

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class PatientProtocol(HttpToolsProtocol):
    """HTTP that waits for requests, but neither for ever nor for any amount of them."""

    config: ServerConfig
    is_arriving = False
    """A request has begun and is not here as a whole."""
    _in_headers = False
    _arrived = 0
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    _keep_alive = True

    @property
    def may_ask(self) -> bool:
        """Whether somebody has connected and not asked yet, or is at it."""
        return self._answering is None or self.is_arriving

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        corked = _Corked(transport, self.loop, STALLS * self.config.request_seconds)
        super().connection_made(cast("asyncio.Transport", corked))
        self.flow = _Flow(transport, self.pipeline)
        if len(self.connections) > self.config.most_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again")
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to come."""
        self._clear_deadline()
        super().connection_lost(exc)
        cast("_Corked", self.transport).closed()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has said all it wants to say still gets the answers to it."""
        cast("_Corked", self.transport).flush()
        if not self._is_answering() or self._waits_for_body():
            return False
        self._hang_up_afterwards()
        return True

    def data_received(self, data: bytes) -> None:
        """Read what has come, and see that the rest comes in time."""
        had_begun = self.is_arriving
        self._unset_keepalive_if_required()
        left = data
        while left and not self.transport.is_closing():
            left = self._fed(left)
        if had_begun and self.is_arriving:
            self._count(len(data))
        if self._deadline is None and (self.is_arriving or self._is_idle()):
            self._set_deadline()

    def on_message_begin(self) -> None:
        """A request has begun."""
        super().on_message_begin()
        self.is_arriving = self._in_headers = True
        self._arrived = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes behind a chunked body is not kept."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its headers are here.

        Raises:
            ValueError: when too many requests are queued on this connection.
        """
        if self.parser.should_upgrade():
            return  # It is read again as a request that does not ask for it.
        self._in_headers = False
        self._clear_deadline()
        if len(self.pipeline) >= MOST_PIPELINED:
            msg = "too many requests"
            raise ValueError(msg)
        super().on_headers_complete()
        if self.expect_100_continue:  # It may never send the body, if it is refused without having sent it.
            self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_message_complete(self) -> None:
        """All of it is here."""
        if self.parser.should_upgrade():
            return
        self.is_arriving = False
        self._clear_deadline()
        if self.expect_100_continue and not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer: it has some time for that."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLS * self.config.request_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _fed(self, data: bytes) -> bytes:
        """Let the parser read; what it has left is to be read as well."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self.parser.get_method() == b"CONNECT":
                self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this is no proxy")
                return b""
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            return head + rest
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is not HTTP as it should be")
        return b""

    def _head_without_upgrade(self) -> bytes:
        """The request's head; there is nothing that this server could upgrade to, and some clients ask every time."""
        options = b",".join(value for name, value in self.headers if name == b"connection").lower()
        kept = [(name, value) for name, value in self.headers if name not in UPGRADE]
        if b"close" in options:
            kept.append((b"connection", b"close"))
        version = self.parser.get_http_version().encode()
        lines = b"".join(b"%b: %b\r\n" % header for header in kept)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, lines)

    def _count(self, arrived: int) -> None:
        self._arrived += arrived
        if self._in_headers and self._arrived > HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEADER_BYTES} bytes of headers")
        elif self._arrived > ARRIVING_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.config.request_seconds, self._expire)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        """What should have come by now has not."""
        self._deadline = None
        if self._is_answering() and not self._waits_for_body():
            self._set_deadline()  # It is we who are slow: the next request is not read before this one is answered.
        elif self.is_arriving:
            what = "headers" if self._in_headers else "body"
            seconds = self.config.request_seconds
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the {what} did not arrive within {seconds:g} s")
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _is_idle(self) -> bool:
        """Nothing is asked, and nothing tells it to hang up: bytes came that are no request, or the end of one."""
        return not self._is_answering() and self.timeout_keep_alive_task is None

    def _waits_for_body(self) -> bool:
        """The request that is being answered is the one that is not here as a whole."""
        return self.is_arriving and not self._in_headers and self._answering is self.cycle

    def _refuse(self, status: HTTPStatus, error: str) -> None:
        """Answer what cannot be read, after whatever is being answered, and hang up."""
        self._clear_deadline()
        if self.transport.is_closing():
            return
        REFUSED.labels("", status.value).inc()
        if self._is_answering():
            if not self._waits_for_body() or self.cycle.response_started:
                self._hang_up_afterwards()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._in_headers or not self.is_arriving or not self.cycle.response_started:
            self._write_refusal(status, error)
        self.transport.close()

    def _hang_up_afterwards(self) -> None:
        """The requests before the one that is refused are answered."""
        if self.pipeline and self.is_arriving and not self._in_headers:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._answering
        if last is not None:
            last.keep_alive = False

    def _write_refusal(self, status: HTTPStatus, error: str) -> None:
        body = json.dumps({"error": error}).encode()
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status.value, status.phrase.encode(), len(body)) + body)


def _most_connections() -> int:
    """As many as the system allows after asking it for more; some files are needed for other things."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - SPARE_FILES, soft // 2)
    return MOST_CONNECTIONS
