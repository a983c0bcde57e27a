"""Start the model server: `python -m ml_platform.serving`. It keeps its workers and the log's shipper running."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from ml_platform import settings
from ml_platform.settings import Settings

RESTART_S = 1.0
BACKLOG = 2048


class Children:
    """Processes that are started again whenever they end, until the family stops."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._stopping = threading.Event()
        self._running: list[tuple[threading.Thread, list[subprocess.Popen[bytes]]]] = []

    def keep(self, command: Sequence[str], door: int | None = None) -> None:
        """Keep a process running that inherits the listening socket, if given."""
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=self._keep, args=(command, door, started), daemon=True)
        self._running.append((thread, started))
        thread.start()

    def stop(self, seconds: float) -> None:
        """Ask all to end, the last started first, and wait."""
        self._stopping.set()
        for thread, started in reversed(self._running):
            if started:
                started[-1].terminate()
            thread.join(seconds)
            if started and started[-1].poll() is None:
                started[-1].kill()

    def _keep(self, command: Sequence[str], door: int | None, started: list[subprocess.Popen[bytes]]) -> None:
        while not self._stopping.is_set():
            child = subprocess.Popen(command, pass_fds=() if door is None else (door,))  # noqa: S603 - our own modules
            started.append(child)
            if self._stopping.is_set():
                child.terminate()
            child.wait()
            self._stopping.wait(RESTART_S)


def main() -> None:
    """Serve until SIGTERM; requests under way are answered first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    worker = parser.parse_args().worker
    here = settings.load()
    if worker is not None:
        _serve(here, socket.socket(fileno=worker), os.getppid())
        return
    door = _door(here)
    children = Children()
    children.keep([sys.executable, "-m", "ml_platform.serving.shipper", "--parent", str(os.getpid())])
    try:
        if here.serving_workers == 1:
            _serve(here, door)
        else:
            _serve_together(here, door, children)
    finally:
        children.stop(here.drain_seconds + 15)


def _serve(here: Settings, door: socket.socket, parent: int | None = None) -> None:
    from ml_platform.serving.worker import serve  # noqa: PLC0415 - the parent of several workers stays small

    serve(here, door, parent)


def _serve_together(here: Settings, door: socket.socket, children: Children) -> None:
    """Several workers share the socket; this process only looks after them."""
    metrics = here.state / "serving" / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    for _ in range(here.serving_workers):
        command = [sys.executable, "-m", "ml_platform.serving", "--worker", str(door.fileno())]
        children.keep(command, door.fileno())
    done = threading.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: done.set())
    done.wait()


def _door(here: Settings) -> socket.socket:
    """The listening socket."""
    address = urlsplit(here.require("serving_url"))
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind((address.hostname or "127.0.0.1", address.port or 8080))
    door.listen(BACKLOG)
    door.set_inheritable(True)
    return door


if __name__ == "__main__":
    main()
