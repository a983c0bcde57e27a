"""Whole columns are held to the schema as single requests are: the same rows pass, for the same reasons."""

from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_platform.modeling.ingestion import Column
from ml_platform.modeling.row_rules import faults, misfits
from ml_platform.modeling.schema import BadRowsError, read_rows
from ml_platform.modeling.validation import as_columns
from ml_platform_tests.modeling.test_schema import FIELDS, SOUND, VALUES

TYPES = {
    "amount": pl.Float64(),
    "share": pl.Float64(),
    "count": pl.Int64(),
    "code": pl.Int64(),
    "not_seven": pl.Int64(),
    "kind": pl.String(),
    "name": pl.String(),
    "note": pl.String(),
    "flag": pl.Boolean(),
    "when": pl.String(),
    "either": pl.String(),
    "initial": pl.String(),
    "tail": pl.String(),
    "ratio": pl.Float64(),
}
WIDER = VALUES | {
    "amount": st.none() | st.floats(allow_nan=False, min_value=-10, max_value=200) | st.just(float("inf")),
    "count": st.none() | st.integers(-2, 12) | st.just(2**60),
    "flag": st.none() | st.booleans(),
}
TABLE = (
    Column("amount", "numeric"),
    Column("share", "real"),
    Column("count", "smallint"),
    Column("code", "bigint"),
    Column("not_seven", "integer"),
    Column("kind", "text"),
    Column("name", "character varying"),
    Column("note", "uuid"),
    Column("flag", "boolean"),
    Column("when", "timestamp without time zone"),
    Column("either", "text"),
    Column("initial", "text"),
    Column("tail", "text"),
    Column("ratio", "double precision"),
)


def _problems_of_requests(rows: list[dict[str, Any]]) -> set[tuple[int, str, str]]:
    try:
        read_rows(rows, FIELDS)
    except BadRowsError as error:
        return {(p.row, p.field, p.rule) for p in error.problems}
    return set()


def _problems_of_columns(rows: list[dict[str, Any]]) -> set[tuple[int, str, str]]:
    frame = pl.DataFrame(rows, schema=TYPES).with_columns(
        pl.col("when").str.to_datetime(time_unit="us", time_zone="UTC")
    )
    found = faults(frame, as_columns(frame, FIELDS), FIELDS)
    return {(row, field, rule) for row, field, rule, _ in found.iter_rows()}


@settings(deadline=None, max_examples=200)
@given(rows=st.lists(st.fixed_dictionaries(WIDER), min_size=1, max_size=6))
@example(rows=[SOUND])
def test_a_row_of_a_table_passes_if_and_only_if_a_request_with_it_would(rows: list[dict[str, Any]]) -> None:
    """A value of the wrong type has that one problem; a request's other rules are not asked then."""
    of_requests = [{(i, f, r) for _, f, r in _problems_of_requests([row])} for i, row in enumerate(rows)]
    of_columns = _problems_of_columns(rows)

    assert {row for row, *_ in of_columns} == {i for i, problems in enumerate(of_requests) if problems}
    assert set().union(*of_requests) <= of_columns


def test_a_table_fits_when_its_columns_can_be_read_as_the_fields() -> None:
    """Whole numbers may stand for numbers, not the other way round."""
    assert misfits(FIELDS, TABLE) == []


@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("amount", "text", "column amount is text, not a number"),
        ("amount", "boolean", "column amount is boolean, not a number"),
        ("count", "double precision", "column count is double precision, not a whole number"),
        ("flag", "integer", "column flag is integer, not true or false"),
        ("kind", "bigint", "column kind is bigint, not text"),
        ("when", "date", "column when is date, not a time"),
        ("when", None, "column when is missing (a time)"),
    ],
)
def test_a_column_that_does_not_fit_is_named_with_what_it_is_and_should_be(
    name: str, type_: str | None, said: str
) -> None:
    """In the words of PostgreSQL, and of people."""
    table = [column for column in TABLE if column.name != name]

    assert misfits(FIELDS, [*table, *([Column(name, type_)] if type_ else [])]) == [said]
