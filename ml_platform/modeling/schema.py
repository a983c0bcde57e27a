"""Schema: a model's pandera schema compiled to plain data, which serving can carry without pandera."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import DTYPES, Column, Kind

Row = Mapping[str, Any]
LARGEST = sys.float_info.max
LONGEST = 2**32 - 1
"""How long a text can be."""


class Logged(StrEnum):
    """What the prediction log keeps of a column: its values, a keyed hash of each, or nothing."""

    PLAIN = "plain"
    HASHED = "hashed"
    EXCLUDED = "excluded"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One check on a value, by pandera's name, with its parameters."""

    name: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column of the schema. `logged` decides no answer, but a bundle must not be made to log more than agreed."""

    name: str
    kind: Kind
    dtype: str
    nullable: bool
    rules: tuple[Rule, ...] = ()
    description: str = ""
    logged: Logged = Logged.PLAIN

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return self.dtype.startswith(("int", "uint"))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with one value: where it stands, the rule it breaks, and the value itself."""

    row: int
    field: str
    rule: str
    value: str


class BadRowsError(ValueError):
    """Rows that break the schema."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems; the first is the message."""
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(f"row {first.row}, field {first.field!r}: {first.rule} (got {first.value})")


def anchored(pattern: str) -> str:
    """The pattern as pandera asks it of a text: from its start."""
    return pattern if pattern.startswith("^") else f"^{pattern}"


def _matches(texts: NDArray[np.object_], pattern: str) -> NDArray[np.bool_]:
    """Asked of Polars, as pandera does: in Python's `re`, `$` matches before a final newline too, `^a|b` elsewhere."""
    import polars as pl  # noqa: PLC0415 - only patterns need it

    return pl.Series(list(texts), dtype=pl.String).str.contains(anchored(pattern)).to_numpy()


def limits_of_length(allowed: int | list[int | None]) -> tuple[int | None, int | None]:
    """The least and the greatest length that `str_length` allows: the one there is, or the first two of several."""
    return (allowed, allowed) if isinstance(allowed, int) else (allowed[0], allowed[1])


def within(lengths: Any, allowed: int | list[int | None]) -> Any:
    """Whether lengths of texts, as an array or an expression, are allowed by `str_length`."""
    low, high = limits_of_length(allowed)
    return (lengths >= (low or 0)) & (lengths <= (LONGEST if high is None else high))


RULES: dict[str, Any] = {
    "greater_than_or_equal_to": lambda v, x: v >= x,
    "greater_than": lambda v, x: v > x,
    "less_than_or_equal_to": lambda v, x: v <= x,
    "less_than": lambda v, x: v < x,
    "equal_to": lambda v, x: v == x,
    "not_equal_to": lambda v, x: v != x,
    "isin": lambda v, x: np.isin(v, list(x)),
    "notin": lambda v, x: ~np.isin(v, list(x)),
    "in_range": lambda v, x: (v >= x[0] if x[2] else v > x[0]) & (v <= x[1] if x[3] else v < x[1]),
    "str_matches": _matches,
    "str_length": lambda v, x: within(np.array([len(t) for t in v], dtype=np.int64), x),
}
"""What each of pandera's row-local checks means, over an array without missing values."""


def read_rows(rows: Sequence[Row], fields: Sequence[Field]) -> dict[str, Column]:
    """The rows of a request as columns.

    Args:
        rows: n mappings from field name to a JSON value.
        fields: what the rows must have; a nullable field may be left out.

    Returns:
        One array of n rows per field.

    Raises:
        BadRowsError: with every problem found.
    """
    names = {f.name for f in fields}
    problems = [
        Problem(row=i, field=name, rule="unknown field", value=repr(row[name])[:80])
        for i, row in enumerate(rows)
        for name in row.keys() - names
    ]
    columns = {f.name: _read_column(f, [row.get(f.name) for row in rows], problems) for f in fields}
    if problems:
        raise BadRowsError(sorted(problems, key=lambda p: (p.row, p.field)))
    return columns


def _read_column(field: Field, values: list[Any], problems: list[Problem]) -> Column:
    """The values as one array; what is wrong with them is added to `problems`."""
    bad = len(problems)
    for i, value in enumerate(values):
        rule = _type_problem(field, value)
        if rule:
            problems.append(Problem(row=i, field=field.name, rule=rule, value=repr(value)[:80]))
    if len(problems) > bad:
        return np.empty(0)
    column = _as_array(field, values)
    for i, rule in _rule_problems(field, column):
        problems.append(Problem(row=i, field=field.name, rule=rule, value=repr(values[i])[:80]))
    return column


def _type_problem(field: Field, value: object) -> str | None:
    if value is None:
        return None if field.nullable else "must not be missing"
    if field.kind is Kind.TEXT:
        return _text_problem(value)
    if field.kind is Kind.TIME:
        return None if isinstance(value, str) and as_time(value) is not None else "must be an ISO 8601 time"
    if field.dtype == "bool":
        return None if isinstance(value, bool) else "must be true or false"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if not abs(value) <= LARGEST:
        return "must be a finite number"
    if field.is_whole and (isinstance(value, float) or abs(value) > 2**53):
        return "must be a whole number"
    return None


def _text_problem(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be text"
    return "must not hold NUL characters" if "\0" in value else None  # No database could have had it.


def as_time(value: str) -> np.datetime64 | None:
    """An ISO 8601 time in UTC; without an offset it is taken as UTC. None when it is none, or outside the calendar."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only times need it

    try:
        read = datetime.fromisoformat(value)
        return np.datetime64(read.astimezone(UTC).replace(tzinfo=None) if read.tzinfo else read, "us")
    except (ValueError, OverflowError):  # The first and the last day there are may lie beyond them in UTC.
        return None


def _as_array(field: Field, values: list[Any]) -> Column:
    if field.kind is Kind.NUMBER:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    array = np.empty(len(values), dtype=DTYPES[field.kind])
    for i, value in enumerate(values):
        array[i] = as_time(value) if field.kind is Kind.TIME and value is not None else value
    return array


def _rule_problems(field: Field, column: Column) -> list[tuple[int, str]]:
    """The rows that break a rule of the field, with the rule in words."""
    missing = _missing(field.kind, column)
    present = np.flatnonzero(~missing)
    found: list[tuple[int, str]] = []
    for rule in field.rules:
        holds = np.asarray(RULES[rule.name](column[present], rule.value), dtype=bool)
        found += [(int(i), f"{rule.name} {rule.value}") for i in present[~holds]]
    return found


def _missing(kind: Kind, column: Column) -> NDArray[np.bool_]:
    if kind is Kind.TEXT:
        return np.array([v is None for v in column], dtype=bool)
    return np.isnan(column) if kind is Kind.NUMBER else np.isnat(column)
