"""The status says which models are not live, which are paused and which are held back, and why."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from ml_platform.local import status
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.models.catalogue import model
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.ledger_table import install

MODEL = "loan_approval"
SPEC = replace(model(MODEL), retrain=replace(model(MODEL).retrain, max_losers=2))


@pytest.fixture
def ledger(postgres: EmbeddedPostgres) -> Iterator[DecisionLedger]:
    """An empty ledger on a real server."""
    postgres.create_databases(["platform"])
    server = urlsplit(postgres.url("platform"))
    writer = urlunsplit(server._replace(netloc=f"ledger_writer:word@{server.netloc.rpartition('@')[2]}"))
    install(postgres.url("platform"), writer)
    yield DecisionLedger(url=writer)
    with psycopg.connect(postgres.url("platform")) as connection:
        connection.execute("drop table decisions")


def _decide(ledger: DecisionLedger, kind: Kind, outcome: Outcome, reason: str, **more: str) -> None:
    key = f"{len(ledger.history(MODEL))}"
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ledger.record(Entry(key=key, at=at, model=MODEL, kind=kind, outcome=outcome, reason=reason, **more))  # type: ignore[arg-type]  # texts only


def _said(ledger: DecisionLedger, *live: str) -> list[str]:
    return list(status.of_models([SPEC], ledger, live))


def test_nothing_is_said_of_a_model_that_is_live_and_refreshes_itself(ledger: DecisionLedger) -> None:
    """And of one that nothing was decided about, that it is not live."""
    assert _said(ledger, MODEL) == []
    assert _said(ledger) == [f"{MODEL}: not live"]


def test_a_model_that_is_not_live_says_what_is_in_its_way(ledger: DecisionLedger) -> None:
    """The newest decision does, unless it was a favourable one."""
    _decide(ledger, Kind.GATE, Outcome.LOST, "it misses the floor")
    _decide(ledger, Kind.DRIFT, Outcome.OK, "no drift")
    assert _said(ledger) == [f"{MODEL}: not live: it misses the floor"]

    _decide(ledger, Kind.GATE, Outcome.WON, "it meets the floor")
    assert _said(ledger) == [f"{MODEL}: not live"]


def test_a_pause_is_shown_with_who_and_why_until_it_ends(ledger: DecisionLedger) -> None:
    """However many wishes were refused since."""
    _decide(ledger, Kind.AUTOMATION, Outcome.PAUSED, "the source is being migrated", actor="anna")
    for _ in range(3):
        _decide(ledger, Kind.TRIGGER, Outcome.REFUSED, "new rows; but anna paused the model")

    (line,) = _said(ledger, MODEL)

    assert "paused by anna since 2026-03-01 12:00: the source is being migrated" in line
    assert f"ml-platform resume {MODEL}" in line
    _decide(ledger, Kind.AUTOMATION, Outcome.RESUMED, "done", actor="anna")
    assert _said(ledger, MODEL) == []


def test_an_open_circuit_is_shown(ledger: DecisionLedger) -> None:
    """Nothing refreshes the model by itself any more, and nobody paused it."""
    _decide(ledger, Kind.GATE, Outcome.LOST, "a tie")
    assert _said(ledger, MODEL) == []

    _decide(ledger, Kind.GATE, Outcome.LOST, "a tie")

    (line,) = _said(ledger, MODEL)
    assert "2 challengers in a row were rejected" in line
