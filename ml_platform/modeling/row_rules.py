"""Row rules: the compiled schema held against whole columns; a row passes where the model server would take it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.modeling import ingestion
from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.schema import RULES, Field

FAULTS = {"row": pl.Int64, "field": pl.String, "rule": pl.String, "value": pl.String}
LONGEST_VALUE = 80
# Beyond this, a whole number is not exact in the float64 that features are computed from.
LARGEST_WHOLE = 2.0**53


def misfits(fields: Sequence[Field], there: Sequence[ingestion.Column]) -> list[str]:
    """What a table with the columns `there` lacks to be answered, in words; empty when nothing."""
    columns = {column.name: column for column in there}
    found = []
    for field in fields:
        words, kinds = _wanted(field)
        column = columns.get(field.name)
        if column is None:
            found.append(f"column {field.name} is missing ({words})")
        elif column.kind not in kinds:
            found.append(f"column {field.name} is {column.type}, not {words}")
    return found


def _wanted(field: Field) -> tuple[str, frozenset[ingestion.Kind]]:
    """What a field asks for: in words, and as what a column of a table may hold."""
    kinds = ingestion.Kind
    if field.kind is Kind.TEXT:
        return "text", frozenset({kinds.TEXT})
    if field.kind is Kind.TIME:
        return ("a date", frozenset({kinds.DATE})) if field.dtype == "date" else ("a time", frozenset({kinds.TIME}))
    if field.dtype == "bool":
        return "true or false", frozenset({kinds.BOOLEAN})
    if _is_whole(field):
        return "a whole number", frozenset({kinds.INTEGER})
    return "a number", frozenset({kinds.INTEGER, kinds.NUMBER})


def _is_whole(field: Field) -> bool:
    return field.dtype.startswith(("int", "uint"))


def faults(rows: pl.DataFrame, columns: Mapping[str, Column], fields: Sequence[Field]) -> pl.DataFrame:
    """What is wrong with the rows: one fault per row, field and rule (`FAULTS`), in the words of a refused request.

    Args:
        rows: n rows with the fields' columns, whose types fit.
        columns: the same as `as_columns` gives them.
        fields: the compiled schema.
    """
    found = [pl.DataFrame(schema=FAULTS)]
    for field in fields:
        for rule, broken in _broken(field, rows[field.name], columns[field.name]):
            where = np.flatnonzero(broken)
            if len(where):
                found.append(_as_faults(field, rule, rows[field.name], where))
    return pl.concat(found)


def _as_faults(field: Field, rule: str, values: pl.Series, where: NDArray[np.intp]) -> pl.DataFrame:
    value = values.gather(where).cast(pl.String).str.head(LONGEST_VALUE).alias("value")
    constant = [pl.lit(field.name).alias("field"), pl.lit(rule).alias("rule")]
    return pl.DataFrame({"row": where, "value": value}, schema_overrides={"row": pl.Int64}).select(
        "row", *constant, "value"
    )


def _broken(field: Field, values: pl.Series, column: Column) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Every rule of a field, with the rows that break it."""
    missing = _missing(field.kind, values, column)
    if not field.nullable:
        yield "must not be missing", missing
    if field.kind is Kind.NUMBER:
        yield "must be a finite number", np.isinf(column)
        if _is_whole(field):
            yield "must be a whole number", np.abs(column) > LARGEST_WHOLE
    for rule in field.rules:
        yield f"{rule.name} {rule.value}", ~missing & ~_holds(field.kind, RULES[rule.name], rule.value, values, column)


def _missing(kind: Kind, values: pl.Series, column: Column) -> NDArray[np.bool_]:
    if kind is Kind.TEXT:
        return values.is_null().to_numpy()
    return np.isnan(column) if kind is Kind.NUMBER else np.isnat(column)


def _holds(kind: Kind, holds: Any, parameter: Any, values: pl.Series, column: Column) -> NDArray[np.bool_]:
    """Where a rule holds; what it says of missing values means nothing."""
    if kind is not Kind.TEXT:
        return np.asarray(holds(column, parameter), dtype=bool)
    # Texts repeat, and rules for them run one by one in Python: each different text is asked about once.
    distinct = values.drop_nulls().unique()
    kept = np.asarray(holds(np.array(distinct.to_list(), dtype=object), parameter), dtype=bool)
    return values.is_in(distinct.filter(pl.Series(kept, dtype=pl.Boolean)).implode()).fill_null(value=True).to_numpy()
