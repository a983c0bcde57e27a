"""Several workers on one door: what one decides all obey, and the end of any of them is nobody else's."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ml_platform.modeling.promotion import Colour, ConflictError, Serving
from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import ROW, WIDE
from ml_platform_tests.serving.running import TOKEN, Connection, ModelServer, post, running, wait_until

ASK = post("/models/wide/predict", {"rows": [ROW]})
REQUESTS = ("ml_platform_requests_total", "blue", "wide", "1")
SWITCHES = 50


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[ModelServer]:
    """Two workers with a model in both colours, the first live."""
    with running(tmp_path_factory.mktemp("pair"), serving_workers=2) as server:
        door = server.door
        door.load(*releases.first, Colour.BLUE, 0)
        door.load(*releases.second, Colour.GREEN, 1)
        door.switch(WIDE, Colour.BLUE, 2)
        yield server


@pytest.fixture
def own(tmp_path: Path, releases: Releases) -> Iterator[ModelServer]:
    """Two workers that a test may end."""
    with running(tmp_path, serving_workers=2) as server:
        server.promote(*releases.first)
        yield server


def _held(worker: psutil.Process) -> int:
    """Connections that this worker has let in."""
    return sum(c.status == psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp"))


def _connect_to_both(server: ModelServer, stack: ExitStack, each: int) -> list[Connection]:
    """Connections of which every worker has at least so many."""
    connections: list[Connection] = []

    def enough() -> bool:
        fresh = [stack.enter_context(server.connect()) for _ in range(4)]
        for connection in fresh:
            assert connection.ask(ASK).status == 200
        connections.extend(fresh)
        return all(_held(worker) >= each for worker in _both(server))

    wait_until(enough)
    return connections


def _both(server: ModelServer) -> list[psutil.Process]:
    wait_until(lambda: len(server.workers()) == 2)
    return server.workers()


class _Switching:
    """A deployer that switches back and forth; how many switches have begun, and how many were answered."""

    def __init__(self, server: ModelServer) -> None:
        self.door = server.door
        self.begun = self.answered = 0
        self.checked, self.over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Switch, each time once somebody has seen what the last one led to."""
        seen = self.door.observe(WIDE)
        try:
            for _ in range(SWITCHES):
                assert seen.live
                self.begun += 1
                seen = self.door.switch(WIDE, seen.live.other, seen.revision)
                self.checked.clear()
                self.answered += 1
                assert self.checked.wait(30)
        finally:
            self.over.set()

    def check(self, connection: Connection) -> int:
        """Ask until the switching is over; how many answers had only one colour to be.

        Raises:
            AssertionError: when an answer has the colour from before a switch that was answered already.
        """
        sure = 0
        while not self.over.is_set():
            before = self.answered
            answer = connection.ask(ASK)
            assert answer.status == 200
            if self.begun == before:
                assert answer.json["colour"] == ("blue" if before % 2 == 0 else "green")
                sure += 1
                self.checked.set()
        return sure


def test_a_switch_through_one_worker_is_obeyed_by_all(pair: ModelServer) -> None:
    """By every request that is sent after the switch was answered, on any connection."""
    switching = _Switching(pair)
    with ExitStack() as stack:
        connections = _connect_to_both(pair, stack, 4)
        threads = stack.enter_context(ThreadPoolExecutor(len(connections)))
        checking = [threads.submit(switching.check, connection) for connection in connections]
        switching.run()

        assert sum(check.result() for check in checking) >= SWITCHES
    assert pair.door.observe(WIDE).live == Colour.BLUE


def test_of_two_deployers_one_wins(pair: ModelServer, releases: Releases) -> None:
    """Whichever worker each of them meets; the other looks again."""

    def load(_: int) -> Serving | None:
        try:
            return pair.door.load(*releases.second, Colour.GREEN, seen.revision)
        except ConflictError:
            return None

    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            seen = pair.door.observe(WIDE)
            won = [outcome for outcome in threads.map(load, range(4)) if outcome]
            assert [outcome.revision for outcome in won] == [seen.revision + 1]


def test_what_one_worker_loaded_the_other_answers_at_once(own: ModelServer, releases: Releases) -> None:
    """A request for it waits until it is loaded there, too; nobody is told that there is no such model."""
    ask = post("/models/other/predict", {"rows": [ROW]})
    by_colour = post("/models/other/colours/blue/predict", {"rows": [ROW]}, authorization=f"Bearer {TOKEN}")
    release, folder = releases.second
    with ExitStack() as stack:
        connections = _connect_to_both(own, stack, 2)
        seen = own.door.load(replace(release, model="other"), folder, Colour.BLUE, 0)
        assert {connection.ask(by_colour).status for connection in connections} == {200}
        own.door.switch("other", Colour.BLUE, seen.revision)
        assert {connection.ask(ask).status for connection in connections} == {200}


def test_a_killed_worker_is_replaced_and_what_it_counted_is_not_lost(own: ModelServer) -> None:
    """The other one answers meanwhile."""
    with ExitStack() as stack:
        connections = _connect_to_both(own, stack, 2)
        counted = own.metrics()[REQUESTS]
        assert counted == len(connections)
        killed, left = _both(own)
        ports = {c.raddr.port for c in left.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED}
        spared = [c for c in connections if c.socket.getsockname()[1] in ports]
        killed.kill()
        while killed in own.workers() or len(own.workers()) < 2:
            for connection in spared:
                assert connection.ask(ASK).status == 200
                counted += 1
        replaced = _both(own)
        assert left in replaced
        assert killed not in replaced
        wait_until(lambda: _connects_to(own, next(w for w in replaced if w != left)))
        assert own.metrics()[REQUESTS] == counted
        assert sorted(file.name for file in (own.folder / "serving" / "metrics").glob("counter*")) == [
            "counter_0.db", "counter_1.db",
        ]  # fmt: skip
    assert any("worker" in line["message"] and "started again" in line["message"] for line in own.log())


def _connects_to(server: ModelServer, worker: psutil.Process) -> bool:
    """Whether one of some new connections is let in by this worker."""
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect()).send(b"GET")
        return _held(worker) > 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_family_is_gentle(own: ModelServer, sig: signal.Signals) -> None:
    """Every worker answers what was begun, and none is left."""
    with ExitStack() as stack:
        connections = _connect_to_both(own, stack, 2)
        workers = _both(own)
        for connection in connections:
            connection.send(ASK[:-5])
        own.process.send_signal(sig)
        wait_until(own.is_closed)
        for connection in connections:
            answer = connection.ask(ASK[-5:])
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert own.process.wait(30) == 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert not any(line["level"] in ("ERROR", "CRITICAL") for line in own.log())


def test_workers_do_not_outlive_a_killed_parent(own: ModelServer) -> None:
    """The next server can have the door."""
    workers = _both(own)
    own.process.kill()
    own.process.wait()

    assert psutil.wait_procs(workers, timeout=30)[1] == []
    own.start()
    assert own.predict("wide", ROW).status == 200


def test_a_broken_bundle_costs_only_its_own_model(tmp_path: Path, releases: Releases) -> None:
    """The server starts, says which model it is, and answers for the other."""
    release, whole = releases.first
    folder = tmp_path / release.digest
    shutil.copytree(whole, folder)
    other, intact = releases.second
    with running(tmp_path) as server:
        server.promote(release, folder)
        server.promote(replace(other, model="other"), intact)
        os.truncate(folder / "model.onnx", 100)
        server.stop()
        server.start()

        answer = server.predict("wide", ROW)
        assert answer.status == 503
        assert "log" in answer.json["error"]
        assert server.predict("other", ROW).status == 200
        health = server.get("/healthz").json
        assert (health["status"], health["broken"]) == ("broken", ["wide"])
        assert server.get("/models/wide").status == 503
    assert any("wide version 1 cannot be served" in line["message"] for line in server.log())
