"""From the journal to the table: every acknowledged row arrives once, whatever is killed, stopped, damaged or full."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ml_platform import settings
from ml_platform.local import processes
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.resources.predictions import PredictionStore
from ml_platform.serving import journal, shipping
from ml_platform.serving.journal import Answered, Journal, read, segments
from ml_platform.serving.prediction_table import PredictionTable
from ml_platform.serving.shipper import Shipper, alone, in_words
from ml_platform.serving.shipping import Progress, read_progress
from ml_platform.serving.tail import LEFTOVER_S, Rest, Tail
from ml_platform.settings import Settings
from ml_platform_tests.serving import journaled
from ml_platform_tests.serving.journaled import NOW_US, answered

GIB = 2**30
DAY_US = 86_400_000_000
PATIENCE_S = 30.0
START_AND_LEAVE = """
from ml_platform import settings
from ml_platform.serving.shipping import spawn
print(spawn(settings.load()).pid, flush=True)
"""
EARLIER_TABLE = """
create table predictions (
    request_id uuid not null, row smallint not null, at timestamptz not null, model text not null,
    version text not null, colour text not null, key text, inputs jsonb not null, output jsonb not null,
    latency_ms real not null, primary key (request_id, row)
);
create index predictions_model_at on predictions (model, at);
insert into predictions values (gen_random_uuid(), 0, now(), 'm', '1', 'blue', null, '{}', '{}', 1);
"""


@pytest.fixture
def here(tmp_path: Path, url: str) -> Settings:
    """The settings of a platform with nothing in its journal."""
    return replace(settings.load(), state=tmp_path, platform_url=url)


@contextmanager
def writing(here: Settings, limit: int = GIB) -> Iterator[Journal]:
    """A worker's journal, finished at the end of the block."""
    log = Journal(here.journal, limit)
    yield log
    log.close()


def write(here: Settings, *requests: Answered) -> None:
    """The requests are in a finished segment."""
    with writing(here) as log:
        log.append(requests)


def ship(here: Settings, days: int = 90) -> Progress:
    """A shipper has looked at everything once and has ended."""
    here.journal.mkdir(parents=True, exist_ok=True)
    table = PredictionTable(here.platform_url)
    Shipper(here.journal, table, days).run(lambda: True, never)
    table.close()
    return read_progress(here.journal)


@contextmanager
def shipping_process(here: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A shipper as the model server starts it, at work; gone after the block."""
    begun = time.time()
    process = shipping.spawn(here)
    try:
        wait_for(lambda: read_progress(here.journal).written_at > begun, "the shipper is at work")
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """It holds, soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.02)


def never(_: float) -> None:
    """A pause that must not be."""
    pytest.fail("it waits")


def sql(here: Settings, query: str) -> list[tuple[Any, ...]]:
    """What the database answers; nothing while there is no table yet."""
    with psycopg.connect(here.platform_url) as connection, suppress(psycopg.errors.UndefinedTable):
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []
    return []


def ids(here: Settings) -> list[str]:
    """The request ids in the table, once for each row."""
    return [row[0] for row in sql(here, "select request_id from predictions order by at, request_id, row")]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
REQUESTS = st.builds(
    Answered,
    request_id=TEXTS,
    at_us=st.integers(0, 2**62),
    model=TEXTS,
    version=TEXTS,
    colour=TEXTS,
    latency_us=st.integers(0, 2**40),
    keys=st.lists(st.none() | TEXTS, max_size=2),
    rows=st.lists(st.binary(max_size=12), max_size=3),
    answers=st.binary(max_size=12),
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3))
def test_a_segment_cut_anywhere_has_the_complete_records_before_the_cut(requests: list[Answered]) -> None:
    """What a killed writer leaves is a prefix: nothing whole is missed, nothing half is read or taken for damage."""
    with tempfile.TemporaryDirectory() as folder:
        log = Journal(Path(folder), GIB)
        log.append(requests)
        log.close()
        (path,) = segments(Path(folder))
        data = path.read_bytes()
        ends = [end for _, end in read(data)]
        for cut in range(len(data), -1, -1):
            os.truncate(path, cut)
            tail = Tail(path)
            found, tail.offset = tail.next()
            whole = [end for end in ends if end <= cut]

            assert msgspec.msgpack.encode(found) == msgspec.msgpack.encode(requests[: len(whole)])
            assert tail.offset == (whole[-1] if whole else 0)
            assert tail.rest() is (Rest.NOTHING if cut in (0, *ends) else Rest.TORN)
            tail.close()


@hypothesis_settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_flipped_bit_never_makes_another_record(data: st.DataObject) -> None:
    """The records before it are read, and none that was not written."""
    requests = [answered("one"), answered("two"), answered("three")]
    with tempfile.TemporaryDirectory() as folder:
        log = Journal(Path(folder), GIB)
        log.append(requests)
        log.close()
        (path,) = segments(Path(folder))
        whole = bytearray(path.read_bytes())
    ends = [end for _, end in read(bytes(whole))]
    at = data.draw(st.integers(0, len(whole) - 1))

    whole[at] ^= 1 << data.draw(st.integers(0, 7))

    found = [one.request_id for one, _ in read(bytes(whole))]
    assert found == ["one", "two", "three"][: sum(end <= at for end in ends)]


def test_a_request_is_in_the_table_as_it_was_answered(here: Settings) -> None:
    """Each row with its key, its input, its output and the microsecond; the drift report reads it from there."""
    at_us = NOW_US - DAY_US
    write(here, answered("r", at_us, count=2), answered("no keys", keys=()))

    progress = ship(here)

    (first, second, _) = sql(here, "select * from predictions order by at, row")
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    assert first[:7] == ("r", 0, at, "loans", "3", "blue", "key 0")
    assert first[7:] == ({"amount": 0, "note": "a\tb \\ é"}, {"label": 0}, 1.5)
    assert (second[1], second[6], second[8]) == (1, "key 1", {"label": 1})
    assert sql(here, "select key from predictions where request_id = 'no keys'") == [(None,)]
    store = PredictionStore(url=here.platform_url)
    read = store.served("loans", "3", at - timedelta(hours=1), at, 10)
    assert sorted(read.inputs["amount"]) == sorted(read.answers["label"]) == [0, 1]
    assert store.traffic("loans", at, timedelta(hours=1), 2) == [2, 0]
    assert (progress.shipped_rows, progress.waiting_bytes, progress.error) == (3, 0, "")
    assert segments(here.journal) == []


def test_a_live_segment_is_shipped_as_it_grows_and_deleted_only_when_finished(here: Settings) -> None:
    """The same shipper goes on where it stopped."""
    with writing(here) as log:
        log.append([answered("a")])
        table = PredictionTable(here.platform_url)
        rounds = iter([False, False, True])

        def pause(_: float) -> None:
            assert len(segments(here.journal)) == 1
            log.append([answered(f"after {len(ids(here))}")])

        Shipper(here.journal, table, 90).run(lambda: next(rounds), pause)
        table.close()
        progress = read_progress(here.journal)

        assert sorted(ids(here)) == ["a", "after 1", "after 2"]
        assert (progress.shipped_rows, progress.repeated_rows) == (3, 0)
        assert len(segments(here.journal)) == 1
    ship(here)
    assert segments(here.journal) == []


def test_a_record_larger_than_what_is_read_at_once(here: Settings) -> None:
    """A request of ten thousand rows, between two small ones."""
    write(here, answered("small"), answered("large", count=10_000), answered("last"))

    assert ship(here).shipped_rows == 10_002


@pytest.mark.parametrize("later_us", [0, 1, 2 * 3_600_000_000, 20 * 3_600_000_000, -20 * 3_600_000_000])
@pytest.mark.parametrize("together", [True, False])
def test_a_request_id_that_was_sent_again_is_there_once(here: Settings, later_us: int, *, together: bool) -> None:
    """Also at another time, on the next day, in one batch or in two."""
    first, again = answered("r", count=2), answered("r", NOW_US + later_us, count=3)
    if together:
        write(here, first, again)
    else:
        write(here, first)
        ship(here)
        write(here, again)

    progress = ship(here)

    assert sorted(sql(here, "select request_id, row from predictions")) == [("r", 0), ("r", 1), ("r", 2)]
    assert (progress.shipped_rows, progress.repeated_rows) == (3, 2)


def test_each_day_has_its_partition_and_old_ones_are_dropped(here: Settings) -> None:
    """Records may be days old after an outage; those older than the retention go."""
    today = datetime.fromtimestamp(NOW_US / 1e6, UTC).date()
    at = [NOW_US - days * DAY_US for days in (0, 1, 8, 9, 100)]
    write(here, *(answered(f"r{i}", one) for i, one in enumerate(at)))

    ship(here, days=8)

    there = sql(here, "select inhrelid::regclass::text from pg_inherits where inhparent = 'predictions'::regclass")
    assert sorted(name for (name,) in there) == [f"predictions_{today - timedelta(days=d):%Y%m%d}" for d in (8, 1, 0)]
    assert ids(here) == ["r2", "r1", "r0"]


def test_the_table_of_an_earlier_version_is_kept(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Under another name, which the log tells."""
    sql(here, EARLIER_TABLE)
    write(here, answered("new"))

    ship(here)

    assert ids(here) == ["new"]
    assert sql(here, "select count(*) from predictions_unpartitioned") == [(1,)]
    assert "predictions_unpartitioned" in caplog.text


def test_the_character_that_postgresql_cannot_hold_is_replaced(here: Settings) -> None:
    """In ids, keys, names and values; a text that only speaks of it stays as it is."""
    row = rb'{"a\u0000": "\u0000x", "b": "\\u0000", "c": "\\\u0000"}'
    write(here, answered("r\0", keys=["k\0"], rows=[row], answers=rb'[{"label": "\u0000"}]'), answered("other"))

    progress = ship(here)

    (found,) = sql(here, "select request_id, key, inputs, output from predictions where request_id != 'other'")
    assert found == ("r�", "k�", {"a�": "�x", "b": "\\u0000", "c": "\\�"}, {"label": "�"})
    assert (progress.shipped_rows, progress.refused_rows) == (2, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"rows": [rb'{"a": "\ud800"}']},
        {"rows": [b'{"a": '], "keys": ()},
        {"rows": [b'{"a": "\xff"}']},
        {"rows": [b'{"a": 1e999999}']},
        {"answers": b"[{]"},
        {"at_us": 2**62},
        {"at_us": -1},
        {"request_id": random.Random(1).randbytes(4000).hex()},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_row_that_postgresql_refuses_is_set_aside_and_the_others_go_through(
    here: Settings, bad: dict[str, Any]
) -> None:
    """With the reason, for its owner only, and it is not tried again."""
    write(here, *(answered(f"r{i}") for i in range(20)), answered("bad", **{"request_id": "bad"} | bad), answered("z"))

    progress = ship(here)

    assert (progress.shipped_rows, progress.refused_rows, progress.error) == (21, 1, "")
    (file,) = here.journal.glob("*.refused")
    (kept,) = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert kept["reason"]
    assert kept["model"] == "loans"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert segments(here.journal) == []


def test_what_was_refused_before_a_crash_is_set_aside_once(here: Settings) -> None:
    """The next shipper reads the segment again from its beginning."""
    with writing(here) as log:
        log.append([answered("good"), answered("bad", rows=[b"{"])])
        ship(here)
        ship(here)

    (file,) = here.journal.glob("*.refused")
    assert len(file.read_bytes().splitlines()) == 1


def test_a_torn_end_is_dropped_and_damage_is_kept_aside(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """The complete records before either are shipped."""
    for name in ("torn", "zeros", "damaged"):
        write(here, answered(f"{name} 1"), answered(f"{name} 2"))
    torn, zeros, damaged = segments(here.journal)
    os.truncate(torn, torn.stat().st_size - 3)
    with zeros.open("ab") as file:
        file.write(bytes(4096))
    data = bytearray(damaged.read_bytes())
    data[len(data) - 10] ^= 1
    damaged.write_bytes(data)

    progress = ship(here)

    assert sorted(ids(here)) == ["damaged 1", "torn 1", "zeros 1", "zeros 2"]
    assert (progress.torn_segments, progress.damaged_segments) == (2, 1)
    assert damaged.with_suffix(".damaged").read_bytes() == data
    assert segments(here.journal) == []
    assert "is damaged at byte" in caplog.text


def test_a_segment_that_cannot_be_read_does_not_hold_up_the_others(here: Settings) -> None:
    """It stands in the way of nothing but itself, and is told."""
    unreadable = here.journal / "0-1.journal"
    unreadable.mkdir(parents=True)
    write(here, answered("r"))

    progress = ship(here)

    assert ids(here) == ["r"]
    assert progress.error
    assert segments(here.journal) == [unreadable]


def test_segments_that_never_began_are_removed_once_their_writer_is_gone(here: Settings) -> None:
    """Those of a process that lives, or that are young, are left alone."""
    here.journal.mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    old, young, living = (
        here.journal / name for name in (f"1-{gone.pid}.new", f"2-{gone.pid}.new", f"3-{os.getpid()}.new")
    )
    for path in (old, young, living):
        path.touch()
    for path in (old, living):
        os.utime(path, (0, time.time() - LEFTOVER_S - 1))

    ship(here)

    assert [path.exists() for path in (old, young, living)] == [False, True, True]


def test_a_full_journal_costs_rows_that_are_counted_and_no_answer(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the shipper has made room, rows are kept again."""
    monkeypatch.setattr(journal, "MEASURE_S", 0.0)
    with writing(here, limit=4000) as log:
        for i in range(100):
            log.append([answered(f"r{i}")])
        kept = 100 - log.dropped_rows
    assert 5 < kept < 50

    ship(here)
    with writing(here, limit=4000) as log:
        log.append([answered("later")])

    assert log.dropped_rows == 0
    assert ship(here).shipped_rows == kept + 1


def test_one_shipper_at_a_time(here: Settings) -> None:
    """A second one waits, and gives up when it shall end."""
    with alone(here.journal, pytest.fail, never) as first:
        ends = iter([False, True])
        with alone(here.journal, lambda: next(ends), lambda _: None) as second:
            assert (first, second) == (True, False)
    with alone(here.journal, pytest.fail, never) as third:
        assert third


def test_what_a_killed_writer_acknowledged_is_in_the_table_once(here: Settings) -> None:
    """Two workers are killed in the middle of writing, while the shipper follows them."""
    with shipping_process(here) as shipper:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", journaled.__name__, str(here.journal), name], stdout=subprocess.PIPE, text=True
            )
            for name in ("a", "b")
        ]
        acknowledged = []
        for worker in workers:
            assert worker.stdout is not None
            acknowledged += [worker.stdout.readline().strip() for _ in range(500)]
            worker.kill()
            # The last line may have been cut off: that one was not acknowledged.
            acknowledged += [line.strip() for line in worker.stdout if line.endswith("\n")]
            worker.wait()
        shipper.terminate()
        assert shipper.wait(10) == 0

    found = ids(here)

    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) <= len(workers)
    assert segments(here.journal) == []


def test_a_shipper_killed_at_any_moment_leaves_each_row_once(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one goes on."""
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 100_000)
    with writing(here) as log:
        for i in range(3000):
            log.append([answered(f"r{i}-{j}", count=2) for j in range(2)])
        for _ in range(5):
            with shipping_process(here) as shipper, suppress(subprocess.TimeoutExpired):
                shipper.wait(random.uniform(0, 0.2))
                pytest.fail("the shipper ended by itself")
    ship(here)

    assert sql(here, "select count(*), count(distinct (request_id, row)) from predictions") == [(12_000, 12_000)]


def test_nothing_is_lost_while_the_database_is_away(here: Settings, postgres: EmbeddedPostgres) -> None:
    """The shipper says so, without the password, and goes on when it is back."""
    with shipping_process(here), writing(here) as log:
        log.append([answered("before")])
        wait_for(lambda: ids(here) == ["before"], "shipped before")
        postgres.stop()
        log.append([answered("meanwhile")])
        wait_for(lambda: bool(read_progress(here.journal).error), "an error in the progress")
        progress = read_progress(here.journal)
        assert progress.waiting_bytes > 0
        assert postgres.password not in progress.error
        postgres.start()
        log.append([answered("after")])
        wait_for(lambda: len(ids(here)) == 3, "shipped after")
        wait_for(lambda: not read_progress(here.journal).error, "no error any more")

    assert sorted(ids(here)) == ["after", "before", "meanwhile"]


def test_no_password_is_ever_said(here: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a wrong one nor one that breaks the address."""
    write(here, answered("r"))
    for wrong in (
        here.platform_url.replace("ml_platform:", "ml_platform:hush-"),
        "postgresql://user:hush@hush@127.0.0.1:1/x",
        "user=hush password",
    ):
        progress = ship(replace(here, platform_url=wrong))
        assert progress.error
    assert "hush" not in caplog.text + progress.error
    assert "cannot ship now" in caplog.text
    assert in_words(psycopg.OperationalError('to "hush": Connection refused')) == "OperationalError: refused"


def test_a_shipper_that_is_told_to_end_ships_what_is_there(here: Settings) -> None:
    """The segment of a worker that still lives is kept for the next one."""
    with writing(here) as log, shipping_process(here) as shipper:
        log.append([answered(f"r{i}") for i in range(100)])
        shipper.send_signal(signal.SIGTERM)

        assert shipper.wait(10) == 0
        assert len(ids(here)) == 100
        assert len(segments(here.journal)) == 1


def test_a_shipper_whose_parent_is_gone_ships_what_is_there_and_ends(here: Settings) -> None:
    """A killed model server leaves no process behind, and the next one finds nothing unfinished."""
    write(here, answered("r"))
    environment = os.environ | here.as_environment()
    started = subprocess.run(
        [sys.executable, "-c", START_AND_LEAVE], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    pid = int(started.stdout.split()[0])

    assert processes.wait_until_gone(pid, processes.started(pid), PATIENCE_S)
    assert ids(here) == ["r"]


def test_it_ends_in_time_though_the_database_hangs(here: Settings) -> None:
    """Somebody holds the lock; what is not shipped waits for the next shipper."""
    with psycopg.connect(here.platform_url) as other:
        other.execute("select pg_advisory_lock(hashtext('predictions'))")
        with shipping_process(here) as shipper:
            write(here, answered("r"))
            waiting = (
                "select count(*) from pg_stat_activity where wait_event = 'advisory' and datname = current_database()"
            )
            wait_for(lambda: sql(here, waiting) == [(1,)], "the shipper waits for the lock")
            shipper.terminate()
            assert shipper.wait(8) is not None
    assert len(segments(here.journal)) == 1


def test_it_is_small(here: Settings) -> None:
    """It runs beside every model server: no numpy, no model, a few dozen MiB at most, also at work."""
    script = (
        "import sys, ml_platform.serving.shipper;"
        "print(sorted({'numpy', 'onnxruntime', 'pandas', 'sklearn', 'dagster', 'polars'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    if sys.platform != "linux":
        return
    with writing(here) as log, shipping_process(here) as shipper:
        for i in range(200):
            log.append([answered(f"r{i}", count=50)])
        wait_for(lambda: read_progress(here.journal).shipped_rows == 10_000, "all is shipped")
        rollup = Path(f"/proc/{shipper.pid}/smaps_rollup").read_text(encoding="ascii")
        pss_kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        assert pss_kib < 40 * 1024  # Memory that it shares counts in full where nothing else of Python runs.
