"""A server that is told to end answers everybody it let in, tells them to connect elsewhere, and is gone in time."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import ROW
from ml_platform_tests.serving.running import ModelServer, get, post, running, wait_until

ASK = post("/models/wide/predict", {"rows": [ROW]})
A_LITTLE_S = 10.0


@pytest.fixture
def folder(tmp_path: Path, releases: Releases) -> Path:
    """The state of a server that has a model live."""
    with running(tmp_path) as before:
        before.promote(*releases.first)
    return tmp_path


@pytest.fixture
def brief(folder: Path) -> Iterator[ModelServer]:
    """A server that drains no longer than it must."""
    with running(folder) as server:
        yield server


@pytest.fixture
def patient(folder: Path) -> Iterator[ModelServer]:
    """A server that drains for longer than any test."""
    with running(folder, drain_seconds=600) as server:
        yield server


def _keep_asking(server: ModelServer, *, on_one_connection: bool) -> int:
    """Ask until told to connect elsewhere; how often that was answered.

    Raises:
        AssertionError: when an answer is anything but a prediction.
        OSError: when there is none.
    """
    answered, connection = 0, server.connect()
    while True:
        answer = connection.ask(ASK)
        assert answer.status == 200, answer
        answered += 1
        if answer.headers.get("connection") == "close":
            assert connection.is_closed()
            return answered
        if not on_one_connection:
            connection.close()
            connection = server.connect()


def test_under_load_nobody_is_cut_off(folder: Path) -> None:
    """Neither those who keep a connection nor those who come new."""
    with running(folder, drain_seconds=2) as server, ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(_keep_asking, server, on_one_connection=i % 2 == 0) for i in range(8)]
        wait_until(lambda: server.metrics().get(("ml_platform_requests_total", "blue", "wide", "1"), 0) > 200)
        began = time.monotonic()
        assert server.stop() == 0
        taken = time.monotonic() - began
        answered = [client.result() for client in clients]

    assert min(answered) > 0
    assert 2 <= taken < 2 + A_LITTLE_S


def test_while_it_drains_it_says_so_and_answers(patient: ModelServer) -> None:
    """Also those who connect only then; a second signal ends it though a connection is open."""
    with patient.connect() as idle:
        assert idle.ask(get("/healthz")).json["status"] == "ok"
        patient.process.send_signal(signal.SIGTERM)
        wait_until(lambda: patient.get("/healthz").json["status"] == "draining")
        answer = patient.ask(ASK)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert patient.stop() == 0
        assert idle.is_closed()


def test_a_request_that_is_half_sent_is_answered(brief: ModelServer) -> None:
    """It is as good as under way."""
    with brief.connect() as halfway:
        halfway.send(ASK[:-5])
        brief.process.send_signal(signal.SIGTERM)
        wait_until(brief.is_closed)
        answer = halfway.ask(ASK[-5:])

        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert brief.process.wait(A_LITTLE_S) == 0


def test_who_was_let_in_last_is_answered(brief: ModelServer) -> None:
    """The door is closed, and the request comes then."""
    with brief.connect() as last:
        brief.process.send_signal(signal.SIGTERM)
        wait_until(brief.is_closed)
        answer = last.ask(ASK)

        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert brief.process.wait(A_LITTLE_S) == 0


def test_an_interrupt_is_no_accident(brief: ModelServer) -> None:
    """Ctrl-C ends it as gently, and without a traceback."""
    with brief.connect() as idle:
        assert idle.ask(ASK).status == 200
        brief.process.send_signal(signal.SIGINT)
        assert brief.process.wait(A_LITTLE_S) == 0

    assert not any(line["level"] in ("ERROR", "CRITICAL") for line in brief.log())


def test_a_client_that_never_finishes_does_not_keep_it(folder: Path) -> None:
    """It has as long as any other."""
    with running(folder, request_seconds=1) as server, server.connect() as slow, server.connect() as silent:
        slow.send(ASK[:-5])
        silent.send(b"GET /h")
        assert server.get("/healthz").status == 200
        assert server.stop() == 0
