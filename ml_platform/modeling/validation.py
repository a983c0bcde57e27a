"""Validation: a model's pandera schema held against rows, and compiled to the data that serving carries."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from ml_platform.modeling.columns import DTYPES, Column, Kind
from ml_platform.modeling.proof import Test, is_proved, tests_of
from ml_platform.modeling.schema import RULES, Field, Rule

Schema = type[pa.DataFrameModel]
FAILURES = {"row": pl.Int64, "column": pl.String, "rule": pl.String, "value": pl.String}


class SchemaMismatchError(ValueError):
    """A table that does not have the columns or types the model's schema asks for."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Rows that passed, rows that did not, and why: one failure per row, column and rule (`FAILURES`)."""

    good: pl.DataFrame
    bad: pl.DataFrame
    failures: pl.DataFrame


def compile_schema(schema: Schema) -> tuple[Field, ...]:
    """The schema as data: one field per column.

    Raises:
        SchemaMismatchError: when a check has no meaning for one row at a time.
    """
    return tuple(_field(name, column) for name, column in schema.to_schema().columns.items())


def validate(frame: pl.DataFrame, schema: Schema, *, first_row: int = 0) -> Validated:
    """Hold rows against the schema.

    pandera runs every check as a query of its own, which takes twenty times as long as proving that rows are sound:
    only rows without that proof are given to pandera, whose verdict it is.

    Args:
        frame: n rows with at least the schema's columns; others are dropped.
        schema: the model's pandera schema; types are widened to floats, never coerced.
        first_row: number of the first row, for the failures of a later batch.

    Raises:
        SchemaMismatchError: when a column is missing or has another type.
    """
    rows = _with_the_schemas_types(frame, schema)
    tests = _tests(schema)
    proved = tests is not None and is_proved(rows, tests)
    failures = pl.DataFrame(schema=FAILURES) if proved else _found_by_pandera(rows, schema)
    if failures.is_empty():
        return Validated(good=rows, bad=rows.clear(), failures=failures)
    is_bad = pl.Series(range(len(rows)), dtype=pl.Int64).is_in(failures["row"].unique().implode())
    return Validated(
        good=rows.filter(~is_bad), bad=rows.filter(is_bad), failures=failures.with_columns(pl.col("row") + first_row)
    )


@cache
def _tests(schema: Schema) -> dict[str, tuple[Test, ...]] | None:
    """The tests that prove that rows keep the schema; None when only pandera can tell."""
    try:
        fields = compile_schema(schema)
    except SchemaMismatchError:
        return None
    return tests_of(fields) if _asks_only_for_fields(schema.to_schema()) else None


def _asks_only_for_fields(schema: pa.DataFrameSchema) -> bool:
    """Whether it is the same schema without uniqueness, defaults, coercion, frame checks and all else not compiled."""
    columns = {
        name: pa.Column(
            c.dtype, c.checks, nullable=c.nullable, title=c.title, description=c.description, metadata=c.metadata
        )
        for name, c in schema.columns.items()
    }
    return bool(
        schema
        == pa.DataFrameSchema(
            columns, name=schema.name, title=schema.title, description=schema.description, metadata=schema.metadata
        )
    )


def _found_by_pandera(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    try:
        schema.validate(rows, lazy=True)
    except SchemaErrors as error:
        return _failures(error.failure_cases)
    return pl.DataFrame(schema=FAILURES)


def as_columns(frame: pl.DataFrame, fields: tuple[Field, ...]) -> dict[str, Column]:
    """The named fields of validated rows as the columns that features are computed from."""
    return {f.name: _as_column(frame[f.name], f.kind) for f in fields}


def kind_of(dtype: pl.DataType) -> Kind | None:
    """What a column of this type holds; None for a type the platform does not know."""
    if dtype.is_numeric() or dtype == pl.Boolean:
        return Kind.NUMBER
    if dtype == pl.String:
        return Kind.TEXT
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        return Kind.TIME
    return None


def _field(name: str, column: pa.Column) -> Field:
    dtype = pl.Series(dtype=column.dtype.type).dtype
    kind = kind_of(dtype)
    if kind is None:
        msg = f"schema, column {name!r}: type {dtype} is not supported; use a number, text, bool, date or datetime"
        raise SchemaMismatchError(msg)
    rules = tuple(_rule(name, check) for check in column.checks)
    return Field(
        name=name,
        kind=kind,
        dtype="bool" if dtype == pl.Boolean else str(dtype).lower(),
        nullable=bool(column.nullable),
        rules=rules,
        description=column.description or "",
    )


def _rule(column: str, check: pa.Check) -> Rule:
    if check.name is None or not _is_a_rule(check):
        msg = (
            f"schema, column {column!r}: check {check.name!r} cannot be held against one request; use one of "
            f"{', '.join(RULES)} without further options, or make it a dataframe check, which only training uses"
        )
        raise SchemaMismatchError(msg)
    values = list((check.statistics or {}).values())
    value: Any = values[0] if len(values) == 1 else values
    return Rule(name=check.name, value=list(value) if isinstance(value, set | tuple) else value)


def _is_a_rule(check: pa.Check) -> bool:
    """Whether it is pandera's own check, without options that change its verdict, such as `ignore_na`."""
    if check.name not in RULES or not check.statistics:
        return False
    words = {"error": check.error, "title": check.title, "description": check.description}
    plain = getattr(pa.Check, check.name)(**check.statistics, **words)
    # The function is left out: it changes when a back end is first used. `native` already tells pandera's from others.
    return bool({**vars(check), "_check_fn": None} == {**vars(plain), "_check_fn": None})


@cache
def _types(schema: Schema) -> dict[str, pl.DataType]:
    return {name: pl.Series(dtype=c.dtype.type).dtype for name, c in schema.to_schema().columns.items()}


def _with_the_schemas_types(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    wanted, columns = _types(schema), frame.columns
    missing = [name for name in wanted if name not in columns]
    if missing:
        msg = f"columns missing from the table: {', '.join(missing)}; add them there or remove them from schema.py"
        raise SchemaMismatchError(msg)
    rows = frame if columns == list(wanted) else frame[list(wanted)]
    for (name, dtype), given in zip(wanted.items(), rows.dtypes, strict=True):
        if given == dtype:
            continue
        if not (given.is_numeric() and dtype.is_numeric() and (dtype.is_float() or given.is_integer())):
            msg = f"column {name!r} is {given} in the table, but schema.py says {dtype}; change one of them"
            raise SchemaMismatchError(msg)
        rows = rows.with_columns(pl.col(name).cast(dtype))
    return rows


def _failures(cases: pl.DataFrame) -> pl.DataFrame:
    whole = cases.filter(pl.col("index").is_null())
    if len(whole):
        first = whole.row(0, named=True)
        msg = f"column {first['column']!r} breaks {first['check']} as a whole: {first['failure_case']}"
        raise SchemaMismatchError(msg)
    rule = pl.when(pl.col("schema_context") == "DataFrameSchema").then(pl.lit("(row)")).otherwise(pl.col("column"))
    return cases.select(
        pl.col("index").cast(pl.Int64).alias("row"),
        rule.alias("column"),
        pl.col("check").alias("rule"),
        pl.col("failure_case").alias("value"),
    )


def _as_column(series: pl.Series, kind: Kind) -> Column:
    if kind is Kind.NUMBER:
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if kind is Kind.TEXT:
        return series.to_numpy().astype(object) if not series.null_count() else _texts(series)
    return series.cast(pl.Datetime("us")).to_numpy().astype(DTYPES[Kind.TIME])


def _texts(series: pl.Series) -> Column:
    import numpy as np  # noqa: PLC0415

    column = np.empty(len(series), dtype=object)
    column[:] = series.to_list()
    return column
