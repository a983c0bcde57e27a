"""Ingestion misses no row and doubles none, whatever happens on either side."""

import multiprocessing
import random
import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import unquote

import hypothesis.strategies as st
import polars as pl
import psycopg
import pytest
from deltalake.exceptions import CommitFailedError
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from ml_platform.modeling.spec import PostgresTable
from ml_platform.resources import ingest as ingesting
from ml_platform.resources import source as sources
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ingest import Ingested, ingest
from ml_platform.resources.source import SourceDatabase, SourceError, SourceUnavailableError
from ml_platform_tests.resources.conftest import Company

LOANS = PostgresTable("loans", key="id", changed_at="changed_at")
NAME = "loan_approval/raw_data"
Ingest = Callable[..., Ingested]


@pytest.fixture
def loans(company: Company) -> Company:
    """The company with a table of a hundred loans."""
    company.execute("CREATE TABLE loans (id bigint PRIMARY KEY, amount float8, city text, changed_at timestamptz)")
    company.execute("INSERT INTO loans SELECT g, g * 10, 'city ' || g, '2026-01-01' FROM generate_series(1, 100) g")
    return company


@pytest.fixture
def pull(source: SourceDatabase, datasets: DatasetStore) -> Ingest:
    """Ingest the loans."""

    def do(table: PostgresTable = LOANS, *, full: bool = False) -> Ingested:
        return ingest(source, datasets, table, NAME, full=full)

    return do


def stored(datasets: DatasetStore) -> list[tuple[object, ...]]:
    """The dataset's rows, in the order of the key."""
    return datasets.read(NAME).sort("id").rows()


def counts(done: Ingested) -> tuple[int, int, int]:
    """What an ingestion says it did: new, updated, deleted."""
    return done.rows_new, done.rows_updated, done.rows_deleted


def test_the_first_load_takes_everything(loans: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """Every row arrives, and the report says why, how many and how fresh."""
    done = pull()

    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")
    assert counts(done) == (100, 0, 0)
    assert (done.full, done.full_reason, done.rows_total) == (True, "first load", 100)
    assert done.watermark == datetime(2026, 1, 1, tzinfo=UTC)
    assert done.columns[1] == ("amount", "double precision")


def test_an_increment_takes_inserted_and_updated_rows(loans: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """A row whose content did not change is not counted, though it was written again."""
    pull()
    loans.execute("UPDATE loans SET amount = -1 WHERE id <= 3")
    loans.execute("UPDATE loans SET amount = amount WHERE id = 50")
    loans.execute("INSERT INTO loans VALUES (101, NULL, NULL, '2026-02-01')")

    done = pull()

    assert counts(done) == (1, 3, 0)
    assert (done.full, done.table.version, done.table.rows) == (False, 1, 101)
    assert done.watermark == datetime(2026, 2, 1, tzinfo=UTC)
    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")


def test_nothing_new_makes_no_version(loans: Company, pull: Ingest) -> None:
    """Nothing is committed, so nothing downstream believes there is new data."""
    first = pull()
    loans.execute("CREATE TABLE other ()")

    second = pull()

    assert second.table == first.table
    assert counts(second) == (0, 0, 0)
    assert second.cursor.xmin > first.cursor.xmin


@pytest.mark.parametrize("savepoint", [False, True])
def test_a_late_commit_is_not_missed(
    loans: Company,
    pull: Ingest,
    datasets: DatasetStore,
    savepoint: bool,
) -> None:
    """A transaction that wrote an old `changed_at` before our pull and committed after it is found by the next."""
    pull()
    with loans.transaction() as late:
        if savepoint:
            late.execute("INSERT INTO loans VALUES (999, 0, 'first', '2025-01-01')")
            late.execute("SAVEPOINT inside")
        late.execute("INSERT INTO loans VALUES (1000, 1, 'late', '2020-01-01')")
        late.execute("UPDATE loans SET city = 'late' WHERE id = 7")
        loans.execute("INSERT INTO loans VALUES (2000, 1, 'early', '2026-06-01')")
        assert counts(pull()) == (1, 0, 0)
        late.commit()

    done = pull()

    assert counts(done) == (1 + savepoint, 1, 0)
    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")


def test_a_full_sync_finds_deleted_rows(loans: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """An increment cannot see that a row is gone; a full sync does, and counts all three kinds of change."""
    pull()
    loans.execute("DELETE FROM loans WHERE id <= 5")
    loans.execute("UPDATE loans SET city = NULL WHERE id = 6")
    assert counts(pull()) == (0, 1, 0)
    loans.execute("UPDATE loans SET city = 'back' WHERE id = 6")
    loans.execute("INSERT INTO loans VALUES (500, 1, 'new', now())")

    done = pull(full=True)

    assert counts(done) == (1, 1, 5)
    assert done.full_reason == "asked for"
    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")


def test_old_versions_stay_readable(loans: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """A model trained on a version can be trained on it again, and the store can stream it."""
    before = pull()
    loans.execute("UPDATE loans SET amount = 0")
    pull()

    old = datasets.read(NAME, before.table.version)

    assert old["amount"].sum() == 50_500
    assert sum(frame.height for frame in datasets.batches(NAME, before.table.version)) == 100
    assert datasets.at(NAME, 0) == before.table


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE loans ADD income numeric", "its columns changed"),
        ("ALTER TABLE loans DROP city", "its columns changed"),
        ("ALTER TABLE loans ALTER amount TYPE text", "its columns changed"),
        ("TRUNCATE loans", "the table was truncated or rewritten, or its partitions changed"),
        ("DROP TABLE loans; CREATE TABLE loans (LIKE copy)", "the table was dropped and created again"),
    ],
)
def test_a_changed_table_is_read_in_full(
    loans: Company, pull: Ingest, datasets: DatasetStore, change: str, reason: str
) -> None:
    """What row versions cannot tell is read afresh, with the reason said."""
    pull()
    loans.execute("CREATE TABLE copy (LIKE loans INCLUDING ALL)")
    loans.connection.execute(change.encode())

    done = pull()

    assert done.full_reason == reason
    assert stored(datasets) == [tuple(row) for row in loans.execute("SELECT * FROM loans ORDER BY id")]
    assert pull().full is False


def test_schema_changes_are_told(loans: Company, pull: Ingest) -> None:
    """The report says what happened to each column, once."""
    pull()
    loans.execute("ALTER TABLE loans ADD income numeric, DROP city, ALTER amount TYPE integer")

    done = pull()

    assert done.schema_changes == [
        "column income (numeric) was added",
        "column city (text) was removed",
        "column amount was double precision, is integer",
    ]
    assert pull().schema_changes == []


def test_a_view_is_read_in_full_every_time(loans: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """A view's rows carry no transaction id."""
    loans.execute("CREATE VIEW big AS SELECT * FROM loans WHERE amount > 500")
    view = PostgresTable("big", key="id", changed_at="changed_at")
    pull(view)

    done = pull(view)

    assert "a view" in (done.full_reason or "")
    assert len(stored(datasets)) == 50


def test_partitions_are_followed(company: Company, pull: Ingest, datasets: DatasetStore) -> None:
    """Rows of a partition attached later are older than the cursor, and still arrive."""
    company.execute("CREATE TABLE loans (id bigint, changed_at timestamptz) PARTITION BY RANGE (id)")
    company.execute("CREATE TABLE low PARTITION OF loans FOR VALUES FROM (0) TO (100)")
    company.execute("CREATE TABLE high AS SELECT 100 AS id, now() AS changed_at WITH NO DATA")
    company.execute("ALTER TABLE high ALTER id TYPE bigint")
    company.execute("INSERT INTO high VALUES (150, now())")
    company.execute("INSERT INTO low VALUES (50, now())")
    assert counts(pull()) == (1, 0, 0)
    company.execute("INSERT INTO low VALUES (51, now())")
    assert (counts(done := pull()), done.full) == ((1, 0, 0), False)
    company.execute("ALTER TABLE loans ATTACH PARTITION high FOR VALUES FROM (100) TO (200)")

    assert counts(pull()) == (1, 0, 0)
    assert [row[0] for row in stored(datasets)] == [50, 51, 150]


@pytest.mark.parametrize("table", ["kinds", "kinds_seen"])
def test_types_become_few(company: Company, datasets: DatasetStore, source: SourceDatabase, table: str) -> None:
    """Every PostgreSQL type arrives as one of six, with its value kept, from a table as from a view."""
    company.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
    company.execute("CREATE DOMAIN percent AS numeric(5, 2)")
    company.execute("""
        CREATE TABLE kinds AS SELECT 1::smallint AS id, 2::int AS i, 3::bigint AS b, 1.5::real AS r, 2.5::float8 AS f,
        3.25::numeric(10, 2) AS n, 4.5::percent AS p, true AS yes, 'x'::text AS t, 'ab'::char(4) AS c, 'sad'::mood AS m,
        '{"a": 1}'::jsonb AS j, '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid AS u, date '2026-03-01' AS d,
        timestamp '2026-03-01 12:00' AS naive, timestamptz '2026-03-01 12:00+02' AS aware, ARRAY[1, 2] AS a,
        interval '1 day' AS s
    """)
    company.execute("CREATE VIEW kinds_seen AS SELECT * FROM kinds")

    ingest(source, datasets, PostgresTable(table, key="id"), "kinds/raw", full=False)

    frame = datasets.read("kinds/raw")
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert frame.row(0) == (
        *(1, 2, 3, 1.5, 2.5, 3.25, 4.5, True, "x", "ab", "sad", '{"a": 1}'),
        *("6ecd8c99-4036-403d-bf84-cf8400f67836", date(2026, 3, 1), noon, noon.replace(hour=10), "{1,2}", "1 day"),
    )
    assert {frame.schema[name] for name in ("id", "i", "b")} == {pl.Int64()}
    assert {frame.schema[name] for name in ("r", "f", "n", "p")} == {pl.Float64()}
    assert frame.schema["naive"] == pl.Datetime("us", "UTC")


def test_gaps_stay_where_they_are(
    company: Company, datasets: DatasetStore, source: SourceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NULLs and odd texts come packed from a table as they come row by row from its view."""
    monkeypatch.setattr(sources, "PACKED_PAGES", 3)
    company.execute(r"""
        CREATE TABLE gappy AS SELECT g AS id, nullif(g % 3, 0)::smallint AS i, nullif(g % 500, g)::bigint AS late,
        nullif(g % 5, 0) / 3::float8 AS f, nullif(g % 7, 0)::real AS r, nullif(g % 11, 0)::numeric AS n,
        nullif(g % 2 = 0, g % 3 = 0) AS b, date '2026-01-01' - nullif(g % 13, 0) * 10000 AS d,
        timestamptz '1969-12-31 23:59:59.999999Z' + nullif(g % 17, 0) * interval '1 us' AS t, NULL::date AS never,
        NULL::text AS nothing, '' AS blank,
        (ARRAY['', NULL, E'\x01\x1f\n\\', 'äöü€😀', repeat('x', g)])[1 + g % 5] AS text, ARRAY[g, NULL] AS a
        FROM generate_series(1, 2000) g
    """)
    company.execute("CREATE VIEW gappy_seen AS SELECT * FROM gappy")

    for table in ("gappy", "gappy_seen"):
        ingest(source, datasets, PostgresTable(table, key="id"), f"{table}/raw", full=False)

    packed = datasets.read("gappy/raw").sort("id")
    assert packed["text"].null_count() == 400
    assert packed["t"].min() == datetime(1970, 1, 1, tzinfo=UTC)
    assert packed.equals(datasets.read("gappy_seen/raw").sort("id"))


@pytest.mark.parametrize("table", ["words", "words_seen"])
def test_text_is_unicode_whatever_the_database_keeps(company: Company, datasets: DatasetStore, table: str) -> None:
    """A database in another encoding is converted by PostgreSQL."""
    company.execute("DROP DATABASE IF EXISTS old")
    company.execute("CREATE DATABASE old ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    url = company.url.rsplit("/", 1)[0] + "/old"
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE words AS SELECT 1 AS id, 'Zürich' AS city")
        connection.execute("CREATE VIEW words_seen AS SELECT * FROM words")

    ingest(SourceDatabase(url=url), datasets, PostgresTable(table, key="id"), "words/raw", full=False)

    assert datasets.read("words/raw")["city"].to_list() == ["Zürich"]


def test_odd_names_are_quoted(company: Company, source: SourceDatabase, datasets: DatasetStore) -> None:
    """Schemas, capitals, spaces, quotes and percent signs in names are only names."""
    company.execute("CREATE SCHEMA risk")
    company.execute("""CREATE TABLE risk."Loan ""Book" ("the %s id" text PRIMARY KEY, "order" int)""")
    company.execute("""INSERT INTO risk."Loan ""Book" VALUES ('o''neil', 1), ('%s', 2)""")
    table = PostgresTable('risk."Loan ""Book"', key="the %s id")
    assert counts(ingest(source, datasets, table, NAME, full=False)) == (2, 0, 0)
    company.execute("""UPDATE risk."Loan ""Book" SET "order" = 3""")

    done = ingest(source, datasets, table, NAME, full=False)

    assert counts(done) == (0, 2, 0)
    assert datasets.read(NAME)["order"].to_list() == [3, 3]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (PostgresTable("loan", key="id"), r"no table loan .*correct source.table \(there is loans\)"),
        (PostgresTable("loans", key="idd"), r"table loans has no column idd: correct source.key \(there is id\)"),
        (PostgresTable("loans", key="id", changed_at="changed"), r"correct source.changed_at \(there is changed_at"),
        (PostgresTable("loans", key="city"), r"table loans, key city: 1 rows without one; .*add a primary key"),
        (PostgresTable("loans", key="changed_at"), r"key changed_at: 1 values that several rows share"),
    ],
)
def test_a_wrong_spec_is_explained(loans: Company, pull: Ingest, table: PostgresTable, message: str) -> None:
    """The message names the table, the column and what to correct."""
    loans.execute("UPDATE loans SET city = NULL WHERE id = 1")

    with pytest.raises(SourceError, match=message):
        pull(table)


def test_no_permission_is_explained(loans: Company, company_url: str, datasets: DatasetStore) -> None:
    """The message says who must grant what."""
    loans.execute("DO $$ BEGIN CREATE ROLE guest LOGIN PASSWORD 'sesame'; EXCEPTION WHEN duplicate_object THEN END $$")
    loans.execute("GRANT USAGE ON SCHEMA public TO guest")
    host = company_url.rsplit("@", 1)[1]

    with pytest.raises(SourceError, match=r"loans.*GRANT SELECT on it to guest"):
        ingest(SourceDatabase(url=f"postgresql://guest:sesame@{host}"), datasets, LOANS, NAME, full=False)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"database": "nowhere"}, SourceError),
        ({"password": "wrong%21secret"}, SourceError),
        ({"port": "1"}, SourceUnavailableError),
        ({"port": "nonsense"}, SourceUnavailableError),
    ],
)
def test_the_password_never_shows(
    loans: Company, datasets: DatasetStore, wrong: dict[str, str], expected: type[Exception]
) -> None:
    """Neither in an error nor in the representation, and the message still says which database it is."""
    parts = re.fullmatch(
        r"postgresql://(?P<user>.*):(?P<password>.*)@(?P<host>.*):(?P<port>.*)/(?P<database>.*)", loans.url
    )
    assert parts
    given = parts.groupdict() | wrong
    broken = SourceDatabase(url="postgresql://{user}:{password}@{host}:{port}/{database}".format(**given))

    with pytest.raises(expected) as caught:
        ingest(broken, datasets, LOANS, NAME, full=False)
    with pytest.raises(expected) as asked:
        broken.columns("loans")

    said = f"{caught.value} {asked.value} {broken!r} {broken} {[broken]}"
    assert given["password"] not in said
    assert unquote(given["password"]) not in said
    assert f"127.0.0.1:{given['port']}/{given['database']}" in said


def test_several_hosts_may_be_given(loans: Company, datasets: DatasetStore) -> None:
    """As PostgreSQL's own clients take them: the first that answers serves."""
    several = SourceDatabase(url=loans.url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1"))

    assert ingest(several, datasets, LOANS, NAME, full=False).rows_total == 100
    assert [column.name for column in several.columns("loans")] == ["id", "amount", "city", "changed_at"]


LONG = "UPDATE loans SET city = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 2000) g) WHERE id = 1"


@pytest.mark.parametrize("packed", [True, False])
def test_the_server_goes_away_meanwhile(
    loans: Company, source: SourceDatabase, datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """A connection cut in the middle is worth another try; nothing was committed, and the next pull completes."""
    monkeypatch.setattr(sources, "PACKED_PAGES" if packed else "RANGE_PAGES", 8)
    if not packed:
        loans.execute(LONG)
    loans.execute("INSERT INTO loans SELECT g, g, 'x', now() FROM generate_series(1000, 60000) g")

    def cut(_rows: int) -> None:
        """Cut off every reader, again and again: the last connection may not be there yet."""
        loans.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    monkeypatch.setattr(ingesting, "SAY_EVERY_SECONDS", 0)
    with pytest.raises(SourceUnavailableError):
        ingest(source, datasets, LOANS, NAME, full=False, say=cut)
    assert datasets.latest(NAME) is None

    assert ingest(source, datasets, LOANS, NAME, full=False).rows_total == 59_101


CUT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


@pytest.mark.parametrize("packed", [True, False])
def test_the_snapshot_goes_away_before_it_is_read(loans: Company, source: SourceDatabase, packed: bool) -> None:
    """Readers that come too late for the snapshot say that the server was lost, not that the table is wrong."""
    if not packed:
        loans.execute(LONG)

    def read_too_late() -> None:
        with source.pull(LOANS, None) as pull:
            loans.execute(CUT)
            list(pull.everything())

    with pytest.raises(SourceUnavailableError):
        read_too_late()


def test_many_changes_are_not_gathered(
    loans: Company, pull: Ingest, datasets: DatasetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When most rows changed, reading everything keeps the memory bounded."""
    pull()
    monkeypatch.setattr(ingesting, "GATHERED_ROWS", 50)
    loans.execute("UPDATE loans SET amount = 0 WHERE id <= 60")

    done = pull()

    assert (done.full_reason, counts(done)) == ("most rows changed", (0, 60, 0))
    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")


@pytest.mark.parametrize("packed", [True, False])
def test_ranges_cover_the_table(loans: Company, pull: Ingest, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Connections that share a snapshot and divide the pages miss no row and read none twice."""
    monkeypatch.setattr(sources, "PACKED_PAGES" if packed else "RANGE_PAGES", 3)
    if not packed:
        loans.execute(LONG)
    loans.execute("INSERT INTO loans SELECT g, g, repeat('x', 50), now() FROM generate_series(101, 20000) g")

    done = pull()

    assert (done.rows_total, done.rows_new) == (20_000, 20_000)
    loans.execute("DELETE FROM loans WHERE id % 2 = 0")
    assert counts(pull(full=True)) == (0, 0, 10_000)


def test_changed_rows_are_counted_cheaply(loans: Company, pull: Ingest, source: SourceDatabase) -> None:
    """By `changed_at` where there is one, else by row version; never beyond what was asked for."""
    done = pull()
    untimed = PostgresTable("loans", key="id")
    loans.execute("UPDATE loans SET changed_at = '2026-05-05' WHERE id <= 10")

    assert source.count_changed(LOANS, done.cursor, done.watermark, 1000) == 10
    assert source.count_changed(LOANS, done.cursor, done.watermark, 3) == 3
    assert source.count_changed(untimed, done.cursor, None, 1000) == 10
    assert source.count_changed(untimed, pull().cursor, None, 1000) == 0
    assert source.count_changed(untimed, None, None, 1000) == 100


def test_two_writers_cannot_double_rows(datasets: DatasetStore) -> None:
    """Whoever started from an older version fails, and changes nothing."""
    none = pl.DataFrame(schema={"id": pl.Int64})
    first = datasets.overwrite(NAME, pl.DataFrame({"id": [1]}))
    second = datasets.upsert(first, pl.DataFrame({"id": [2]}), none, "id")

    with pytest.raises(CommitFailedError):
        datasets.upsert(first, pl.DataFrame({"id": [2]}), none, "id")
    with pytest.raises(CommitFailedError):
        datasets.upsert(first, none, pl.DataFrame({"id": [1]}), "id")

    assert datasets.latest(NAME) == second
    assert stored(datasets) == [(1,), (2,)]


FORKSERVER = multiprocessing.get_context("forkserver")


def ingest_in_child(url: str, root: str, full: bool) -> None:
    """What the process to be killed does; small ranges make many moments."""
    sources.PACKED_PAGES = 64
    ingest(SourceDatabase(url=url), DatasetStore(root=root), LOANS, NAME, full=full)


def killed_after(seconds: float, company: Company, datasets: DatasetStore, *, full: bool) -> bool:
    """Ingest in a forked process and kill it; whether it had finished before."""
    FORKSERVER.set_forkserver_preload([__name__])
    process = FORKSERVER.Process(target=ingest_in_child, args=(company.url, datasets.root, full))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == 0


def test_killed_half_way_nothing_is_lost_or_doubled(
    loans: Company, pull: Ingest, datasets: DatasetStore, source: SourceDatabase
) -> None:
    """Killed at any moment, the dataset is the old version or the new one, and the next ingestion completes it."""
    chance = random.Random(7)
    loans.execute("INSERT INTO loans SELECT g, g, 'x', now() FROM generate_series(101, 100000) g")
    killed_after(30, loans, DatasetStore(root=f"{datasets.root}-warm"), full=True)
    finished = []
    for attempt in range(16):
        before = datasets.read(NAME).sort("id") if datasets.exists(NAME) else None
        finished.append(killed_after(chance.uniform(0.02, 1.0), loans, datasets, full=attempt % 2 == 0))
        now = pl.DataFrame(loans.execute("SELECT * FROM loans ORDER BY id"), stored_schema(source), orient="row")
        if datasets.exists(NAME):
            found = datasets.read(NAME).sort("id")
            assert found.equals(now) or (before is not None and found.equals(before))
        loans.execute("UPDATE loans SET amount = amount + 1 WHERE id %% 100 = %s", attempt)
        loans.execute("INSERT INTO loans VALUES (%s, 0, 'new', now())", 200_000 + attempt)

    pull()

    assert False in finished
    assert stored(datasets) == loans.execute("SELECT * FROM loans ORDER BY id")


def stored_schema(source: SourceDatabase) -> dict[str, pl.DataType]:
    """The polars types of the loans."""
    kinds: dict[str, pl.DataType] = {
        "bigint": pl.Int64(),
        "double precision": pl.Float64(),
        "text": pl.String(),
        "timestamp with time zone": pl.Datetime("us", "UTC"),
    }
    return {column.name: kinds[column.type] for column in source.columns("loans")}


UPSERT = "INSERT INTO facts VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET value = excluded.value"
FACTS = PostgresTable("facts", key="id")
KEYS = st.integers(1, 8)
# Keys of their own: the open transaction must not make the others wait.
LATE_KEYS = st.integers(101, 104)
VALUES = st.one_of(st.none(), st.integers(-3, 3))


class History(RuleBasedStateMachine):
    """Random writes, an open transaction, and pulls in between, against a plain dict."""

    company: Company
    folder: Path

    def __init__(self) -> None:
        """An empty table, an empty dataset, and one transaction that stays open for a while."""
        super().__init__()
        self.company.execute("DROP TABLE IF EXISTS facts")
        self.company.execute("CREATE TABLE facts (id int PRIMARY KEY, value int)")
        self.other = psycopg.connect(self.company.url)
        self.truth: dict[int, int | None] = {}
        self.pending: dict[int, int | None] = {}
        self.datasets = DatasetStore(root=str(self.folder / str(time.monotonic_ns())))

    @rule(key=KEYS, value=VALUES)
    def write(self, key: int, value: int | None) -> None:
        """A committed row."""
        self.company.execute(UPSERT, key, value)
        self.truth[key] = value

    @rule(key=KEYS)
    def delete(self, key: int) -> None:
        """A row that is gone."""
        self.company.execute("DELETE FROM facts WHERE id = %s", key)
        self.truth.pop(key, None)

    @rule(key=LATE_KEYS, value=VALUES, savepoint=st.booleans())
    def write_uncommitted(self, key: int, value: int | None, savepoint: bool) -> None:
        """A row nobody sees yet."""
        if savepoint:
            self.other.execute("SAVEPOINT inside")
        self.other.execute(UPSERT, (key, value))
        self.pending[key] = value

    @rule(keep=st.booleans())
    def end_transaction(self, keep: bool) -> None:
        """The late rows become visible, or never were."""
        if keep:
            self.other.commit()
            self.truth |= self.pending
        else:
            self.other.rollback()
        self.pending = {}

    @rule(full=st.booleans())
    def pull(self, full: bool) -> None:
        """Every committed row is there as it is; after a full sync, no other."""
        done = ingest(SourceDatabase(url=self.company.url), self.datasets, FACTS, "facts/raw", full=full)
        found = dict(self.datasets.read("facts/raw").rows())
        assert len(found) == done.rows_total
        assert self.truth.items() <= found.items()
        assert found == self.truth or not done.full

    def teardown(self) -> None:
        """The open transaction ends."""
        self.other.close()


def test_any_history_is_followed(company: Company, tmp_path: Path) -> None:
    """Whatever the company does, in whatever order it commits, the dataset equals the table."""
    History.company, History.folder = company, tmp_path
    tries = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))

    run_state_machine_as_test(History, settings=tries)
