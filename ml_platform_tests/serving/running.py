"""A model server of one's own: the real process on a free port, without PostgreSQL, with a few small models."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from ml_platform.local.processes import free_port
from ml_platform.modeling.promotion import Colour, Release
from ml_platform.resources.serving import LocalServing

HOST = "127.0.0.1"
TOKEN = "the-platforms-token"
PATIENCE_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What the server said to one request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """A connection that sends exactly what it is given, and reads answers one by one."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection((HOST, port), timeout=PATIENCE_S)
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are; the server may have hung up already."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ask(self, data: bytes) -> Answer:
        """Send a request and read its answer."""
        self.socket.sendall(data)
        return self.read()

    def read(self, *, has_body: bool = True) -> Answer:
        """The next answer.

        Raises:
            ConnectionError: when there is none.
        """
        while b"\r\n\r\n" not in self._left:
            self._more()
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        said = re.fullmatch(r"HTTP/1\.1 (\d{3}) [\w -]+", first)
        assert said, f"not an answer: {first!r}"
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if said[1] == "100":
            return Answer(100, headers, b"")
        length = int(headers["content-length"]) if has_body else 0
        while len(self._left) < length:
            self._more()
        body, self._left = self._left[:length], self._left[length:]
        return Answer(int(said[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait until the server hangs up; whether it did so without another word."""
        try:
            return self._left == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            msg = f"hung up after {self._left!r}"
            raise ConnectionError(msg)
        self._left += data


@dataclass
class ModelServer:
    """A running model server."""

    folder: Path
    port: int
    variables: Mapping[str, str]
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def door(self) -> LocalServing:
        """The platform's door to it."""
        return LocalServing(url=self.url, token=TOKEN)

    def start(self) -> None:
        """The process answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ml_platform.serving"], env=self.variables, stderr=log
            )
        wait_until(self._answers)

    def drain(self) -> None:
        """Ask it to end; it goes on answering for a while."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.drain()
        return self.process.wait(PATIENCE_S)

    def connect(self) -> Connection:
        """A new connection."""
        return Connection(self.port)

    def ask(self, data: bytes) -> Answer:
        """Ask on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(data)

    def is_closed(self) -> bool:
        """Whether nobody can connect any more."""
        try:
            self.connect().close()
        except ConnectionError:
            return True
        return False

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Ask with a client that people use."""
        return httpx.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=30, trust_env=False)

    def get(self, path: str) -> Answer:
        """Read a page."""
        return self.ask(get(path))

    def predict(self, model: str, *rows: Mapping[str, Any]) -> Answer:
        """Ask for predictions."""
        return self.ask(post(f"/models/{model}/predict", {"rows": rows}))

    def promote(self, release: Release, bundle: Path) -> None:
        """Make a release live, in whichever colour is idle."""
        seen = self.door.observe(release.model)
        idle = seen.live.other if seen.live else Colour.BLUE
        seen = self.door.load(release, bundle, idle, seen.revision)
        self.door.switch(release.model, idle, seen.revision)

    def workers(self) -> list[psutil.Process]:
        """The processes that answer, when there are several."""
        children = psutil.Process(self.process.pid).children()
        found = []
        for child in children:
            with suppress(psutil.Error):
                if "--worker" in child.cmdline():
                    found.append(child)
        return found

    def connections(self) -> int:
        """How many are open."""
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)

    def log(self) -> list[dict[str, Any]]:
        """Every line that it has logged; what a shipper that is not there says is not the server's.

        Raises:
            ValueError: when one is not JSON.
        """
        text = (self.folder / "log").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line]

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Every sample by name and label values."""
        text = self.get("/metrics").body.decode()
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
        with suppress(OSError):
            return self.get("/healthz").status == 200
        return False


@contextmanager
def running(folder: Path, **variables: object) -> Iterator[ModelServer]:
    """A server with these settings, until the end of the block.

    Args:
        folder: what it keeps; it may have been served from before.
        variables: other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    given = {"state": folder, "serving_url": f"http://{HOST}:{port}", "serving_token": TOKEN, "drain_seconds": 0}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ML_PLATFORM_")}
    chosen = {f"ML_PLATFORM_{name.upper()}": str(value) for name, value in (given | variables).items()}
    server = ModelServer(folder, port, inherited | chosen)
    server.start()
    try:
        yield server
    finally:
        children = psutil.Process(server.process.pid).children(recursive=True) if server.process.poll() is None else []
        server.process.kill()
        server.process.wait()
        for child in children:
            with suppress(psutil.Error):
                child.kill()


def post(path: str, body: object, **headers: str) -> bytes:
    """A request with a JSON body, or with the bytes given."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json", "content-length": str(len(data))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode() + data


def get(path: str, method: str = "GET") -> bytes:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def wait_until(happens: Callable[[], T], seconds: float = PATIENCE_S) -> T:
    """Ask until it is so; there is nothing that could tell."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found
