"""Metrics count exactly what happened, and the log says what happened in lines of JSON, without what was sent."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ml_platform.serving import logs
from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import KNOWN, ROW
from ml_platform_tests.serving.running import TOKEN, ModelServer, post, running, wait_until

SECRET = "nobody-shall-read-this"
WIDE_BLUE = ("blue", "wide", "1")


@pytest.fixture
def fresh(tmp_path: Path, releases: Releases) -> Iterator[ModelServer]:
    """A server that has counted nothing yet."""
    with running(tmp_path) as server:
        server.promote(*releases.first)
        yield server


def test_everything_is_counted_once(fresh: ModelServer, releases: Releases) -> None:
    """Answers, rows, batches, and refusals by status and model."""
    for _ in range(3):
        assert fresh.predict("wide", ROW).status == 200
    assert fresh.predict("wide", *[ROW] * 5).status == 200
    assert fresh.predict("wide", {**ROW, "size": -1}).status == 422
    assert fresh.ask(post("/models/wide/predict", b"{")).status == 422
    assert fresh.ask(post("/models/wide/predict", b"", content_type="text/plain")).status == 415
    assert fresh.predict("unheard-of", ROW).status == 404
    assert fresh.ask(b"\0").status == 400

    found = fresh.metrics()

    assert found["ml_platform_requests_total", *WIDE_BLUE] == 4
    assert found["ml_platform_rows_total", *WIDE_BLUE] == 8
    assert found["ml_platform_request_seconds_count", *WIDE_BLUE] == 4
    assert 0 < found["ml_platform_request_seconds_sum", *WIDE_BLUE] < 60
    assert found["ml_platform_batch_rows_count", *WIDE_BLUE] == 4
    assert found["ml_platform_batch_rows_sum", *WIDE_BLUE] == 8
    assert found["ml_platform_batch_rows_bucket", "blue", "1.0", "wide", "1"] == 3
    refused = {name[1:]: value for name, value in found.items() if name[0] == "ml_platform_refused_total"}
    assert refused == {("wide", "422"): 2, ("wide", "415"): 1, ("", "404"): 1, ("", "400"): 1}
    assert found["ml_platform_model_info", *WIDE_BLUE] == 1
    assert found[("ml_platform_log_dropped_rows_total",)] == 0
    fresh.promote(*releases.second)
    assert fresh.predict("wide", ROW).status == 200
    found = fresh.metrics()
    assert found["ml_platform_model_info", *WIDE_BLUE] == 0
    assert found["ml_platform_model_info", "green", "wide", "2"] == 1
    assert found["ml_platform_requests_total", "green", "wide", "2"] == 1


def test_what_waits_for_the_database_is_measured(fresh: ModelServer) -> None:
    """Also when it becomes less and nobody asks for anything."""
    waiting = ("ml_platform_log_waiting_bytes",)
    assert fresh.predict("wide", *[ROW] * 100).status == 200
    segments = list((fresh.folder / "serving" / "journal").glob("*.journal"))
    assert fresh.metrics()[waiting] == sum(segment.stat().st_size for segment in segments) > 0

    for segment in segments:
        segment.unlink()

    wait_until(lambda: fresh.metrics()[waiting] == 0)


def test_a_full_log_is_counted_and_costs_no_answer(tmp_path: Path, releases: Releases) -> None:
    """The rows that it has no place for."""
    with running(tmp_path, journal_mib=1) as server:
        server.promote(*releases.first)
        for _ in range(4):
            assert server.predict("wide", *[ROW] * 5000).status == 200
        found = server.metrics()

    assert found["ml_platform_rows_total", *WIDE_BLUE] == 20_000
    assert found[("ml_platform_log_dropped_rows_total",)] in (15_000, 20_000)


def test_metrics_are_as_prometheus_wants_them(server: ModelServer) -> None:
    """With a help text each."""
    answer = server.get("/metrics")
    ours = [f for f in text_string_to_metric_families(answer.body.decode()) if f.name.startswith("ml_platform_")]

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert all(family.documentation for family in ours)
    assert len(ours) >= 8


def test_the_log_is_json_and_keeps_secrets(server: ModelServer) -> None:
    """Tracebacks included, and neither bodies nor tokens are in it, though a model's error quotes a row."""
    assert server.predict("strict", {"kind": SECRET}).status == 422
    assert server.predict("wide", {**ROW, "size": SECRET}).status == 422
    assert server.predict("wide", {**ROW, "note": SECRET}).status == 200
    assert server.ask(post(f"/models/{SECRET}/predict", SECRET.encode())).status == 404
    assert server.ask(post("/models/wide/predict", {}, authorization=f"Bearer {SECRET}")).status == 422
    assert server.ask(post("/models/wide/predict", b"", content_type=SECRET)).status == 415
    assert server.ask(f"{SECRET} / HTTP/1.1\r\n\r\n".encode()).status == 400

    log = server.log()
    text = (server.folder / "log").read_text(encoding="utf-8")

    assert all({"at", "level", "process", "message"} <= line.keys() for line in log)
    assert any("strict version 1 cannot answer: ValueError" in line["message"] for line in log)
    assert SECRET not in text
    assert TOKEN not in text


def test_an_attack_does_not_flood_the_log(server: ModelServer) -> None:
    """A few lines of a kind are enough."""
    before = len(server.log())
    for i in range(200):
        assert server.predict("strict", {"kind": f"unseen {i}"}).status == 422
        assert server.ask(b"\0").status == 400

    assert len(server.log()) - before < 100
    assert server.predict("strict", KNOWN).status == 200


def test_what_was_left_out_of_the_log_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next line of its kind."""
    now = 0.0
    monkeypatch.setattr("ml_platform.serving.logs.time.monotonic", lambda: now)
    sparing = logs.Sparing()

    def shown(message: str) -> list[int]:
        records = [logging.LogRecord("n", logging.INFO, "", 0, message, (i,), None) for i in range(50)]
        return [getattr(record, "left_out", 0) for record in records if sparing.filter(record)]

    assert shown("one %s") == [0] * logs.MOST_ALIKE
    assert shown("another %s") == [0] * logs.MOST_ALIKE
    now = 11.0
    assert shown("one %s") == [30] + [0] * (logs.MOST_ALIKE - 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ML_PLATFORM_SERVING_URL": ""}, "ML_PLATFORM_SERVING_URL"),
        ({"ML_PLATFORM_SERVING_TOKEN": ""}, "ML_PLATFORM_SERVING_TOKEN"),
        ({"ML_PLATFORM_SERVING_TOKENS": "/nowhere"}, "ML_PLATFORM_SERVING_TOKENS"),
        ({"ML_PLATFORM_SERVING_WORKERS": "none"}, "ML_PLATFORM_SERVING_WORKERS"),
        ({}, "ML_PLATFORM_SERVING_URL"),
    ],
    ids=["no address", "no token", "no tokens", "no number", "a port that is taken"],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(
    server: ModelServer, changed: dict[str, str], named: str
) -> None:
    """It names the setting."""
    ended = subprocess.run(
        [sys.executable, "-m", "ml_platform.serving"], env={**server.variables, **changed}, stderr=subprocess.PIPE,
        check=False, timeout=60,
    )  # fmt: skip

    assert ended.returncode == 1
    (server.folder / "elsewhere").mkdir(exist_ok=True)
    (server.folder / "elsewhere" / "log").write_bytes(ended.stderr)
    lines = ModelServer(server.folder / "elsewhere", 0, {}).log()
    assert named in lines[-1]["message"]
    assert "error" not in lines[-1]
