"""Start the model server: `python -m ml_platform.serving`. It keeps its workers and the log's shipper running."""

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from ml_platform import settings
from ml_platform.serving import logs
from ml_platform.serving.tokens import check_tokens
from ml_platform.settings import Settings, SettingsError

RESTART_S = 1.0
BACKLOG = 2048
ENDING_S = 15.0
"""What a child may take to end beyond draining."""
LOG = logging.getLogger(__name__)


class Children:
    """Processes that are started again whenever they end, until the family stops."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._stopping = threading.Event()
        self._running: list[tuple[threading.Thread, list[subprocess.Popen[bytes]]]] = []

    def keep(self, name: str, command: Sequence[str], door: int | None = None) -> None:
        """Keep a process running that inherits the listening socket, if given."""
        started: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=self._keep, args=(name, command, door, started), daemon=True)
        self._running.append((thread, started))
        thread.start()

    def ask_to_end(self) -> None:
        """All are told to end, and none is started again."""
        self._stopping.set()
        for _, started in self._running:
            if started:
                started[-1].terminate()

    def stop(self, seconds: float) -> None:
        """All have ended within the time, or were killed."""
        self.ask_to_end()
        deadline = time.monotonic() + seconds
        for thread, started in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))
            if started and started[-1].poll() is None:
                started[-1].kill()

    def _keep(
        self, name: str, command: Sequence[str], door: int | None, started: list[subprocess.Popen[bytes]]
    ) -> None:
        while not self._stopping.is_set():
            child = subprocess.Popen(command, pass_fds=() if door is None else (door,))  # noqa: S603 - our own modules
            started.append(child)
            if self._stopping.is_set():
                child.terminate()
            code = child.wait()
            if not self._stopping.wait(RESTART_S):
                LOG.warning("%s ended (%s) and is started again", name, code)


def main() -> None:
    """Serve until SIGTERM; requests under way are answered first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--door", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logs.begin()
    try:
        here = settings.load()
        if given.worker is not None:
            _serve_as(given.worker, here, socket.socket(fileno=given.door), given.parent)
        else:
            _serve_all(here)
    except SettingsError as error:
        LOG.error("%s", error)  # noqa: TRY400 - it names the remedy; where it was raised tells nothing
        sys.exit(1)


def _serve_all(here: Settings) -> None:
    """The family, from its first child to the end of the last."""
    here.require("serving_token")
    check_tokens(here.serving_tokens)
    door = _door(here)
    shipping, working = Children(), Children()
    if here.platform_url:
        command = [sys.executable, "-m", "ml_platform.serving.shipper", "--parent", str(os.getpid())]
        shipping.keep("the shipper", command)
    else:
        LOG.warning("ML_PLATFORM_PLATFORM_URL is not set: answers stay in the journal until a server has it")
    try:
        if here.serving_workers == 1:
            _serve(here, door)
        else:
            _serve_together(here, door, working)
    finally:
        # What the workers answered last is shipped, too.
        working.stop(here.drain_seconds + ENDING_S)
        shipping.stop(ENDING_S)


def _serve(here: Settings, door: socket.socket, parent: int | None = None) -> None:
    from ml_platform.serving.worker import serve  # noqa: PLC0415 - the parent of several workers stays small

    serve(here, door, parent)


def _serve_as(worker: int, here: Settings, door: socket.socket, parent: int) -> None:
    """Serve as one of several workers; one that is started again counts on where the one before it stopped."""
    from prometheus_client import values  # noqa: PLC0415 - as above

    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
    _serve(here, door, parent)


def _serve_together(here: Settings, door: socket.socket, children: Children) -> None:
    """Several workers share the socket; this process only looks after them."""
    metrics = here.state / "serving" / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    # A handler can run while this thread holds a lock of its own: all that it may do is to write to a pipe.
    told, tell = os.pipe()
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, lambda *_: os.write(tell, b"."))
    for worker in range(here.serving_workers):
        mine = ("--worker", str(worker), "--door", str(door.fileno()), "--parent", str(os.getpid()))
        children.keep(f"worker {worker}", [sys.executable, "-m", "ml_platform.serving", *mine], door.fileno())
    os.read(told, 1)
    door.close()
    children.ask_to_end()
    threading.Thread(target=_pass_on, args=(told, children), daemon=True).start()


def _pass_on(told: int, children: Children) -> None:
    """Whoever is in a hurry says so again."""
    while os.read(told, 1):
        children.ask_to_end()


def _door(here: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        SettingsError: when its address cannot be had.
    """
    url = here.require("serving_url")
    address = urlsplit(url)
    host = address.hostname or "127.0.0.1"
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, address.port or here.serving_port))
    except OSError as error:
        msg = f"ML_PLATFORM_SERVING_URL is {url}, where this server cannot listen ({error.strerror}): choose another"
        raise SettingsError(msg) from None
    door.listen(BACKLOG)
    door.set_inheritable(True)
    return door


if __name__ == "__main__":
    main()
