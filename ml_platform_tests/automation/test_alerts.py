"""Alerts reach people through a real webhook; a channel that is dead breaks nothing and loses nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import dagster as dg
import msgspec
import pytest

from ml_platform.automation.alerts import alerts_sensor, failures_sensor, why_failed
from ml_platform.definitions import resources_for
from ml_platform.local.processes import free_port
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.resources.alert_channel import AlertChannel
from ml_platform_tests.platform import Platform

MODEL = "loan_approval"
OFF = dg.DefaultSensorStatus.STOPPED
SECRET = "kept-to-oneself"


@dataclass
class Webhook:
    """What people were told."""

    url: str
    told: list[dict[str, Any]]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A server that takes Apprise's JSON."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(msgspec.json.decode(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Webhook(f"json://user:{SECRET}@127.0.0.1:{server.server_port}", told)
    finally:
        server.shutdown()
        server.server_close()


def _tick(platform: Platform, urls: str, cursor: str | None) -> dg.SensorResult:
    here = replace(platform.settings, alert_urls=urls)
    doors = resources_for(here)
    with (
        pytest.MonkeyPatch.context() as patch,
        dg.build_sensor_context(platform.instance, cursor=cursor, resources=doors) as context,
    ):
        patch.setenv("ML_PLATFORM_ALERT_URLS", urls)
        answer = alerts_sensor(here, OFF)(context)
    assert isinstance(answer, dg.SensorResult)
    return answer


def _drifted(platform: Platform, number: int) -> None:
    entry = Entry(
        key=f"drift {number} {datetime.now(UTC)}", at=datetime.now(UTC), model=MODEL, kind=Kind.DRIFT,
        outcome=Outcome.DRIFTED, reason="income moved",
    )  # fmt: skip
    platform.ledger.record(entry)


def _ok(platform: Platform) -> None:
    now = datetime.now(UTC)
    platform.ledger.record(
        Entry(key=f"ok {now}", at=now, model=MODEL, kind=Kind.DRIFT, outcome=Outcome.OK, reason="no window drifted")
    )


@pytest.fixture
def cursor(platform: Platform) -> str | None:
    """Everything so far has been told."""
    _ok(platform)
    cursor = None
    while (after := _tick(platform, "", cursor).cursor) not in (None, cursor):
        cursor = after
    return cursor


def test_a_decision_is_told_once(platform: Platform, cursor: str | None) -> None:
    """With what happened, what to do, and the link; the next look has nothing to tell."""
    with webhook() as listening:
        _drifted(platform, 1)
        first = _tick(platform, listening.url, cursor)
        _drifted(platform, 2)
        second = _tick(platform, listening.url, first.cursor)

    (message,) = listening.told
    assert message["title"] == f"{MODEL}: its requests drifted"
    assert "income moved" in message["message"]
    assert f"/asset-groups/{MODEL}" in message["message"]
    assert second.cursor != first.cursor


def test_a_dead_channel_is_tried_again_and_says_no_secret(platform: Platform, cursor: str | None) -> None:
    """The tick ends well, the position stays, and when somebody listens again the alert arrives."""
    _drifted(platform, 1)
    dead = _tick(platform, f"json://user:{SECRET}@127.0.0.1:{free_port()}", cursor)
    with webhook() as listening:
        _tick(platform, listening.url, cursor)

    assert dead.cursor is None
    assert str(dead.skip_reason and dead.skip_reason.skip_message) == "no alert channel answers; 1 alerts wait"
    assert len(listening.told) == 1


def test_one_of_two_channels_is_enough(platform: Platform, cursor: str | None) -> None:
    """The one that failed is named without its address."""
    _drifted(platform, 1)
    with webhook() as listening:
        said = _tick(platform, f"json://user:{SECRET}@127.0.0.1:{free_port()} {listening.url}", cursor)

    assert len(listening.told) == 1
    words = said.skip_reason.skip_message if said.skip_reason else ""
    assert "not reached: json (number 1 in ML_PLATFORM_ALERT_URLS)" in (words or "")
    assert SECRET not in (words or "")


def test_a_url_that_means_nothing_is_a_channel_that_fails() -> None:
    """It never raises."""
    assert AlertChannel("nothing://at-all").send("a", "b") == ["nothing (number 1 in ML_PLATFORM_ALERT_URLS)"]
    assert AlertChannel("").send("a", "b") == []


def test_a_failed_check_is_in_the_ledger_in_its_own_words(platform: Platform) -> None:
    """A refresh that a blocking check stopped: which room, which check, what it saw."""
    spec = platform.spec(MODEL)
    strict = replace(spec, quality=replace(spec.quality, min_rows=10_000_000))
    result = platform.refresh(MODEL, ["raw_data", "validated_data"], spec=strict)
    run = platform.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert not result.success

    (event,) = platform.instance.all_logs(result.run_id, of_type={dg.DagsterEventType.RUN_FAILURE})
    assert event.dagster_event is not None
    sensor = failures_sensor([spec], OFF)
    context = dg.build_run_status_sensor_context(
        sensor.name, event.dagster_event, platform.instance, run, resources=resources_for(platform.settings)
    ).for_run_failure()
    sensor(context)

    entry = platform.ledger.history(MODEL, 1)[0]
    assert (entry.kind, entry.outcome, entry.dagster_run) == (Kind.RUN, Outcome.FAILED, result.run_id)
    assert entry.reason == f"refresh: {why_failed(platform.instance, run)}"
    assert "check" in entry.reason
    assert "10000000" in entry.reason.replace(",", "")
