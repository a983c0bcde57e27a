"""The connection: HTTP from clients that may be slow, broken or hostile; none of them costs the others anything."""

import asyncio
import resource
from http import HTTPStatus

import httptools
import uvicorn

from ml_platform.serving.app import Server
from ml_platform.serving.exchange import ExchangeProtocol
from ml_platform.serving.http import MAX_BODY, Response
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
            app,  # type: ignore[arg-type]  # PatientProtocol asks it as it is, not as ASGI would.
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


class PatientProtocol(ExchangeProtocol):
    """HTTP that waits for requests, but neither for ever nor for any amount of them."""

    config: ServerConfig
    is_arriving = False
    """A request has begun and is not here as a whole."""
    _in_headers = False
    _arrived = 0
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _closing: asyncio.TimerHandle | None = None
    _keep_alive = True

    @property
    def may_ask(self) -> bool:
        """Whether somebody has connected and not asked yet, or is at it."""
        return self._answering is None or self.is_arriving

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.config.most_connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again")
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to come."""
        self._clear_deadline()
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has said all it wants to say still gets the answers to it."""
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

    def timeout_keep_alive_handler(self) -> None:
        """It has had its answer for a while, and asks nothing more."""
        if not self.transport.is_closing():
            self._hang_up()

    def _hang_up(self) -> None:
        """Closing waits for the client to take what was written, but not for ever."""
        super()._hang_up()
        if self._closing is None:
            self._closing = self.loop.call_later(STALLS * self.config.request_seconds, self.transport.abort)

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
            self._hang_up()

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
            self._write(Response.of({"error": error}, status), keep_alive=False)
        self._hang_up()

    def _hang_up_afterwards(self) -> None:
        """The requests before the one that is refused are answered."""
        if self.pipeline and self.is_arriving and not self._in_headers:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._answering
        if last is not None:
            last.keep_alive = False


def _most_connections() -> int:
    """As many as the system allows after asking it for more; some files are needed for other things."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(soft - SPARE_FILES, soft // 2)
    return MOST_CONNECTIONS
