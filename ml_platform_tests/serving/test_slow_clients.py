"""Clients that are slow, idle or gone cost nobody anything; this server waits one second for a request."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from threading import Event

import pytest
from uvicorn.server import ServerState

from ml_platform.serving.connection import PatientProtocol, ServerConfig
from ml_platform.serving.http import Response
from ml_platform_tests.serving.models import ROW
from ml_platform_tests.serving.running import Connection, ModelServer, get, post, wait_until

HEAD = b"POST /models/wide/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
PATIENCE_S = 1.0


@pytest.fixture(autouse=True)
def unharmed(server: ModelServer) -> Iterator[None]:
    """Nobody is connected any more, and the server is well."""
    yield
    wait_until(lambda: server.connections() == 0)
    assert server.predict("wide", ROW).status == 200


def _slowly(first: bytes, piece: bytes) -> Callable[[Connection, Event], None]:
    """Send something, then piece after piece until told to stop."""

    def send(connection: Connection, stop: Event) -> None:
        connection.send(first)
        while piece and not stop.wait(0.05):
            connection.send(piece)

    return send


@pytest.mark.parametrize(
    ("first", "piece", "status"),
    [
        (b"GET /heal", b"", 408),
        (b"GET /healthz HTTP/1.1\r\nx: ", b"a", 408),
        (b"GET /healthz HTTP/1.1\r\n", b"x: a\r\n", 408),
        (HEAD, b"", 408),
        (HEAD + b'{"rows":', b" ", 408),
        (HEAD.replace(b"content-length: 1000", b"transfer-encoding: chunked"), b"1\r\n \r\n", 408),
        (HEAD.replace(b"content-length: 1000", b"transfer-encoding: chunked") + b"0\r\nx: ", b"a", 408),
        (HEAD.replace(b"wide", b"none"), b" ", 404),
        (b"", b"", 0),
        (b"", b"\r\n", 0),
        (get("/healthz"), b"\r\n", 200),
    ],
    ids=["no headers", "a slow header", "slow headers", "no body", "a slow body", "slow chunks", "a slow trailer",
         "a body that was not waited for", "nothing", "empty lines", "empty lines afterwards"],
)  # fmt: skip
def test_who_sends_slowly_is_waited_for_only_so_long(
    server: ModelServer, first: bytes, piece: bytes, status: int
) -> None:
    """Then told, if anything was asked and not answered, and hung up on; others are served at full speed meanwhile."""
    stop = Event()
    with ThreadPoolExecutor(1) as threads, server.connect() as connection:
        began = time.monotonic()
        sending = threads.submit(_slowly(first, piece), connection, stop)
        try:
            for _ in range(20):
                assert server.predict("wide", ROW).status == 200
            if status:
                assert connection.read().status == status
            assert connection.is_closed()
            assert time.monotonic() - began > 0.9 * PATIENCE_S
        finally:
            stop.set()
        sending.result()


def test_two_hundred_idle_connections_do_no_harm(server: ModelServer) -> None:
    """Those that never ask are hung up on, those that have asked are kept."""
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(200)]
        for connection in idle[::2]:
            assert connection.ask(get("/healthz")).status == 200
        for _ in range(100):
            assert server.predict("wide", ROW).status == 200
        for connection in idle[1::2]:
            assert connection.is_closed()
        for connection in idle[::2]:
            assert connection.ask(get("/healthz")).status == 200


def test_clients_that_hang_up_are_not_missed(server: ModelServer) -> None:
    """In the middle of a header, of a body, or while they wait."""
    whole = post("/models/strict/predict", {"rows": [{"kind": "text 1"}] * 500})
    for length in (10, 80, 300, len(whole)):
        for _ in range(5):
            with server.connect() as connection:
                connection.send(whole[:length])


def test_who_does_not_take_the_answer_does_not_hold_up_others(server: ModelServer) -> None:
    """A client may ask and never read; it is hung up on, and nothing is kept for it."""
    large = post("/models/wide/predict", {"rows": [ROW] * 5000})

    def ask_until_hung_up_on(connection: Connection) -> None:
        with suppress(ConnectionError):
            while True:
                connection.socket.sendall(large)

    with ThreadPoolExecutor(1) as threads, server.connect() as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking = threads.submit(ask_until_hung_up_on, deaf)
        while not asking.done():
            assert server.predict("wide", ROW).status == 200
        asking.result()


def test_who_leaves_a_small_rest_of_the_answer_is_hung_up_on_too() -> None:
    """Less than what makes the server pause, so that nothing but hanging up shows it that nobody takes the rest."""

    class Answering:
        draining = False

        async def answer(self, _scope: object, _receive: object) -> Response:
            return Response(bytes(40_000))

    async def ask_and_never_read() -> None:
        config = ServerConfig(Answering(), request_seconds=0.1)  # type: ignore[arg-type]
        config.load()
        ours, deaf = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        hung_up = asyncio.Event()

        class Watched(PatientProtocol):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                hung_up.set()

        with deaf:
            made = Watched(config, ServerState(), {})
            await asyncio.get_running_loop().create_connection(lambda: made, sock=ours)
            deaf.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            await hung_up.wait()

    asyncio.run(asyncio.wait_for(ask_and_never_read(), 20))
