"""The decision ledger on a real PostgreSQL: it only grows, each decision is there once, and what served is known."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.promotion import Release
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.ledger_table import install
from ml_platform.resources.unavailable import UnavailableError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server whose database has a ledger."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("ledger"), free_port())
    server.start()
    server.create_databases(["platform"])
    yield server
    server.stop()


def _writer(server: EmbeddedPostgres, password: str = "first") -> str:
    parts = urlsplit(server.url("platform"))
    return urlunsplit(parts._replace(netloc=f"ledger_writer:{password}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
def ledger(postgres: EmbeddedPostgres) -> DecisionLedger:
    """An empty ledger."""
    with psycopg.connect(postgres.url("platform")) as connection:
        connection.execute("drop table if exists decisions")
    install(postgres.url("platform"), _writer(postgres))
    return DecisionLedger(url=_writer(postgres))


def _entry(key: str, **given: object) -> Entry:
    plain = Entry(key=key, at=NOW, model="m", kind=Kind.GATE, outcome=Outcome.LOST, reason="a tie")
    return replace(plain, **given)  # type: ignore[arg-type]


def _release(version: str) -> Release:
    return Release(model="m", version=version, digest=f"d{version}", run_id="r", data_version="1", code_revision="c")


def _keys(entries: Sequence[Entry]) -> list[str]:
    return [entry.key for entry in entries]


def test_a_decision_comes_back_as_it_was_written(ledger: DecisionLedger) -> None:
    """With its evidence and links; written again it is there once."""
    entry = _entry(
        "a", actor="ada", evidence={"interval": [-0.01, 0.11]}, dagster_run="d", mlflow_run="m", version="3", digest="x"
    )

    assert ledger.record(entry)
    assert not ledger.record(replace(entry, reason="something else"))

    assert ledger.history("m") == [entry]
    assert ledger.history("other") == []


@pytest.mark.parametrize(
    "statement",
    ["update decisions set reason = ''", "delete from decisions", "truncate decisions", "drop table decisions",
     "alter table decisions disable trigger all", "create table mine (i int)"],
)  # fmt: skip
def test_the_role_that_writes_cannot_change_anything(ledger: DecisionLedger, statement: str) -> None:
    """It may read and add."""
    ledger.record(_entry("a"))

    with psycopg.connect(ledger.url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement", ["update decisions set reason = ''", "delete from decisions", "truncate decisions"]
)
def test_nobody_changes_a_decision_by_mistake(
    ledger: DecisionLedger, postgres: EmbeddedPostgres, statement: str
) -> None:
    """The owner of the table is refused as well."""
    ledger.record(_entry("a"))

    with psycopg.connect(postgres.url("platform")) as connection, pytest.raises(psycopg.Error, match="only ever added"):
        connection.execute(statement.encode())


def test_setting_up_again_keeps_what_is_there(ledger: DecisionLedger, postgres: EmbeddedPostgres) -> None:
    """Also with a new password, as after a lost state folder."""
    ledger.record(_entry("a"))
    install(postgres.url("platform"), _writer(postgres, "second"))

    assert _keys(DecisionLedger(url=_writer(postgres, "second")).history("m")) == ["a"]
    with pytest.raises(UnavailableError, match="ledger"):
        ledger.history("m")


def test_two_who_decide_at_once_see_each_other(ledger: DecisionLedger) -> None:
    """Of twenty who each would start the first run of the hour, one does."""

    def judge(number: int) -> Outcome:
        def decide(history: Sequence[Entry]) -> Entry:
            started = any(entry.outcome is Outcome.STARTED for entry in history)
            outcome = Outcome.REFUSED if started else Outcome.STARTED
            return _entry(f"trigger {number}", kind=Kind.TRIGGER, outcome=outcome)

        return ledger.decide("m", decide).outcome

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(judge, range(20)))

    assert outcomes.count(Outcome.STARTED) == 1
    assert outcomes.count(Outcome.REFUSED) == 19


def test_a_decision_that_was_taken_stands(ledger: DecisionLedger) -> None:
    """Asked again under the same key, the first answer is given."""
    first = ledger.decide("m", lambda _: _entry("a", reason="first"))

    assert ledger.decide("m", lambda _: _entry("a", reason="second")) == first


def test_refusals_do_not_push_out_what_counts(ledger: DecisionLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of refused triggers leaves the one that started visible to the next decision."""
    monkeypatch.setattr("ml_platform.resources.ledger.REMEMBERED", 3)
    ledger.record(_entry("start", kind=Kind.TRIGGER, outcome=Outcome.STARTED))
    for number in range(10):
        ledger.record(_entry(f"storm {number}", kind=Kind.TRIGGER, outcome=Outcome.REFUSED))

    decided = ledger.decide("m", lambda history: _entry("next", reason=" ".join(_keys(history))))

    assert decided.reason == "start"


def test_what_served_at_a_time_is_one_question(ledger: DecisionLedger) -> None:
    """The last release that went live until then, by promotion, rollback or repair."""
    for hours, version, kind in ((0, "1", Kind.PROMOTION), (2, "2", Kind.PROMOTION), (4, "1", Kind.ROLLBACK)):
        live = _entry("", kind=kind, outcome=Outcome.LIVE, at=NOW + timedelta(hours=hours))
        assert ledger.record_live(_release(version), live)
        assert not ledger.record_live(_release(version), live), "the ledger says so already"

    def at(hours: int) -> tuple[str | None, Kind] | None:
        entry = ledger.served("m", NOW + timedelta(hours=hours))
        return (entry.version, entry.kind) if entry else None

    assert [at(hours) for hours in (-1, 0, 1, 2, 3, 5)] == [
        None, ("1", Kind.PROMOTION), ("1", Kind.PROMOTION), ("2", Kind.PROMOTION), ("2", Kind.PROMOTION),
        ("1", Kind.ROLLBACK),
    ]  # fmt: skip


def test_a_reader_goes_on_where_it_stopped(ledger: DecisionLedger) -> None:
    """In the order of writing, over all models."""
    for key, model in (("a", "m"), ("b", "n"), ("c", "m")):
        ledger.record(_entry(key, model=model))

    (first, second) = ledger.after(0, 2)

    assert (first[1].key, second[1].key) == ("a", "b")
    assert _keys([entry for _, entry in ledger.after(second[0], 10)]) == ["c"]


def test_a_database_that_is_not_there_is_said_without_the_password() -> None:
    """As every door says it."""
    with pytest.raises(UnavailableError) as caught:
        DecisionLedger(url="postgresql://who:secret@127.0.0.1:1/platform").history("m")

    assert "secret" not in str(caught.value)
