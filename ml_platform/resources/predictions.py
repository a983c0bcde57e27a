"""Predictions: the door to what was served, as the model server logs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import msgspec
import polars as pl
import psycopg

from ml_platform.modeling.answers import as_logged
from ml_platform.resources.unavailable import UnavailableError

SERVED = """
select inputs::text, output::text from predictions
where model = %s and version = %s and at > %s and at <= %s
order by at desc limit %s
"""
# A negative number of windows cannot be: rows of the future are left out.
TRAFFIC = """
select floor(extract(epoch from %(until)s - at) / %(seconds)s)::int as ago, count(*) from predictions
where model = %(model)s and at > %(since)s and at <= %(until)s group by 1
"""
ANSWERED = """
select key, output::text from predictions
where model = %s and version = %s and at > %s and at <= %s
order by at desc limit %s
"""


@dataclass(frozen=True)
class Answered:
    """How many rows were answered, and the newest answer to each key that a client named."""

    rows: int
    by_key: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Served:
    """Rows as they were logged: what was asked, one column per input that any row has, and what was answered."""

    inputs: pl.DataFrame
    answers: pl.DataFrame

    def __len__(self) -> int:
        """How many rows."""
        return len(self.answers)


class PredictionStore(dg.ConfigurableResource[None]):
    """The platform's database, read only. Every method raises `UnavailableError` when it cannot be reached."""

    url: str

    def served(self, model: str, version: str, since: datetime, until: datetime, limit: int) -> Served:
        """The newest served rows of a version, at most `limit`; no rows when nothing was served."""
        found = self._asked(SERVED, (model, version, since, until, limit))
        if not found:
            return Served(pl.DataFrame(), pl.DataFrame())
        inputs = [msgspec.json.decode(row[0]) for row in found]
        return Served(
            inputs=pl.from_dicts(inputs, infer_schema_length=None, strict=False),
            answers=as_logged([msgspec.json.decode(row[1]) for row in found]),
        )

    def answered(self, model: str, version: str, since: datetime, until: datetime, limit: int) -> Answered:
        """The newest answers of a version, at most `limit`."""
        found = self._asked(ANSWERED, (model, version, since, until, limit))
        newest = {key: output for key, output in reversed(found) if key is not None}
        return Answered(rows=len(found), by_key={key: msgspec.json.decode(output) for key, output in newest.items()})

    def traffic(self, model: str, until: datetime, window: timedelta, windows: int) -> list[int]:
        """The rows that any version served in each of so many windows before `until`, newest first."""
        given = {"model": model, "until": until, "since": until - window * windows, "seconds": window.total_seconds()}
        found = dict(self._asked(TRAFFIC, given))
        return [found.get(ago, 0) for ago in range(windows)]

    def _asked(self, query: str, given: Any) -> list[tuple[Any, ...]]:
        """The rows; none before anything was served."""
        with _reaching(), psycopg.connect(self.url, connect_timeout=10) as connection:
            try:
                return connection.execute(query.encode(), given).fetchall()
            except psycopg.errors.UndefinedTable:
                return []


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        msg = f"the platform's database cannot be reached ({type(error).__name__}); is it running?"
        raise UnavailableError(msg) from None
