"""The decision ledger: the door to what was decided about each model, when and why; it only ever grows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import dagster as dg
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.promotion import Release
from ml_platform.resources.unavailable import UnavailableError

INSERT = """
insert into decisions
    (key, at, model, kind, outcome, reason, actor, evidence, dagster_run, mlflow_run, version, digest)
values (%(key)s, %(at)s, %(model)s, %(kind)s, %(outcome)s, %(reason)s, %(actor)s, %(evidence)s, %(dagster_run)s,
    %(mlflow_run)s, %(version)s, %(digest)s)
on conflict (key) do nothing
"""
# One writer at a time: numbers then become visible in their order, and whoever reads on from one misses none.
LOCK = "select pg_advisory_xact_lock(hashtext('ml_platform decisions'))"
NEWEST = "select * from decisions where model = %s order by id desc limit %s"
# A storm of refusals would otherwise push what counts out of sight.
COUNTING = """
select * from decisions where model = %s and not (kind = 'trigger' and outcome = 'refused') order by id desc limit %s
"""
SINCE = "select * from decisions where model = %s and at >= %s order by id desc limit 10000"
BY_KEY = "select * from decisions where key = %s"
SERVED = "select * from decisions where model = %s and outcome = 'live' and at <= %s order by at desc, id desc limit 1"
LIVES = """
select model, array_agg(version order by id desc) as versions from decisions
where model = any(%s) and outcome = 'live' group by model
"""
LAST_LIVE = "select id, version, digest from decisions where model = %s and outcome = 'live' order by id desc limit 1"
AFTER = "select * from decisions where id > %s order by id limit %s"
REMEMBERED = 1000
NAMES = tuple(field.name for field in fields(Entry))


class DecisionLedger(dg.ConfigurableResource[None]):
    """The table `decisions` of the platform's database, through a role that may only read and add.

    Every method raises `UnavailableError` when the database cannot be reached.
    """

    url: str

    def record(self, entry: Entry) -> bool:
        """Add a decision, unless it is there already.

        Returns:
            Whether it is new.
        """
        with self._writing() as connection:
            return connection.execute(INSERT, _as_row(entry)).rowcount == 1

    def decide(self, model: str, judge: Callable[[Sequence[Entry]], Entry]) -> Entry:
        """Decide on what was decided before, one decision of a model at a time, and add the outcome.

        Args:
            model: the model.
            judge: from its history, newest first and without refused triggers, to the decision. One that is there
                already is given back as it was taken.
        """
        with self._writing() as connection:
            entry = judge(_entries(connection.execute(COUNTING, (model, REMEMBERED))))
            if connection.execute(INSERT, _as_row(entry)).rowcount == 0:
                (entry,) = _entries(connection.execute(BY_KEY, (entry.key,)))
            return entry

    def record_live(self, release: Release, entry: Entry) -> bool:
        """Add that a release answers from now on, unless that is what the ledger says already.

        Args:
            release: what answers.
            entry: the rest of the decision; its key becomes unique by what answered before.

        Returns:
            Whether it is new.
        """
        with self._writing() as connection:
            before = connection.execute(LAST_LIVE, (release.model,)).fetchone()
            if before and (before["version"], before["digest"]) == (release.version, release.digest):
                return False
            key = f"{release.model} live after {before['id'] if before else 'nothing'}"
            live = replace(entry, key=key, outcome=Outcome.LIVE, version=release.version, digest=release.digest)
            return connection.execute(INSERT, _as_row(live)).rowcount == 1

    def history(self, model: str, limit: int = 100) -> list[Entry]:
        """The newest decisions about a model, newest first."""
        with self._connection() as connection:
            return _entries(connection.execute(NEWEST, (model, limit)))

    def standing(self, model: str) -> list[Entry]:
        """What the governor decides on: the newest decisions about a model, newest first, without refused triggers."""
        with self._connection() as connection:
            return _entries(connection.execute(COUNTING, (model, REMEMBERED)))

    def since(self, model: str, moment: datetime) -> list[Entry]:
        """The decisions about a model from a moment on, newest first."""
        with self._connection() as connection:
            return _entries(connection.execute(SINCE, (model, moment)))

    def served(self, model: str, at: datetime) -> Entry | None:
        """The decision that made live what answered at that time; None when nothing did."""
        with self._connection() as connection:
            found = _entries(connection.execute(SERVED, (model, at)))
        return found[0] if found else None

    def lives(self, models: Sequence[str]) -> dict[str, list[str]]:
        """The versions that have answered, newest first, by model."""
        with self._connection() as connection:
            found = connection.execute(LIVES, (list(models),)).fetchall()
        return {row["model"]: row["versions"] for row in found}

    def after(self, position: int, limit: int) -> list[tuple[int, Entry]]:
        """The decisions about all models after a position, oldest first, each with its own position."""
        with self._connection() as connection:
            found = connection.execute(AFTER, (position, limit)).fetchall()
        return [(row["id"], _entry(row)) for row in found]

    @contextmanager
    def _writing(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """One transaction that no other writer comes between."""
        with self._connection() as connection:
            connection.execute(LOCK)
            yield connection

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """One transaction."""
        try:
            with psycopg.connect(self.url, connect_timeout=10, row_factory=dict_row) as connection:
                yield connection
        except psycopg.OperationalError as error:
            msg = f"the decision ledger cannot be reached ({type(error).__name__}): is the platform's database running?"
            raise UnavailableError(msg) from None


def _as_row(entry: Entry) -> dict[str, Any]:
    return vars(entry) | {"evidence": Jsonb(dict(entry.evidence))}


def _entries(rows: psycopg.Cursor[dict[str, Any]]) -> list[Entry]:
    return [_entry(row) for row in rows]


def _entry(row: dict[str, Any]) -> Entry:
    values = {name: row[name] for name in NAMES}
    return Entry(**values | {"kind": Kind(row["kind"]), "outcome": Outcome(row["outcome"])})
