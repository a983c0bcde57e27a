"""Proof: a few cheap looks at a batch that show that pandera would find nothing wrong in it, or leave it open."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

import polars as pl

from ml_platform.modeling.schema import RULES, Field, Rule, anchored, within

Test = Callable[[pl.Series], bool]
"""True when the column is sound for certain."""

POLARS_RULES: dict[str, Any] = RULES | {
    "isin": lambda v, x: v.is_in(frozenset(x)),
    "notin": lambda v, x: ~v.is_in(frozenset(x)),
    "str_matches": lambda v, x: v.str.contains(anchored(x)),
    "str_length": lambda v, x: within(v.str.len_chars(), x),
}
"""The rules as pandera's Polars back end writes them, over a column's expression."""

LEAST: Callable[[pl.Series], Any] = pl.Series.min
GREATEST: Callable[[pl.Series], Any] = pl.Series.max
ENDS = {
    "greater_than_or_equal_to": (LEAST,),
    "greater_than": (LEAST,),
    "less_than_or_equal_to": (GREATEST,),
    "less_than": (GREATEST,),
    "in_range": (LEAST, GREATEST),
}
"""Which numbers must keep a rule so that all do, but for NaN; finding them is cheaper than looking at each."""

EXACT = 2**53
"""Up to here, every whole number is a float."""
FEW = 8
"""Up to so many values, comparing a column with each is cheaper than looking its values up."""


def tests_of(fields: Sequence[Field]) -> dict[str, tuple[Test, ...]]:
    """For each column the tests that together prove that it keeps all that the field asks for."""
    return {field.name: tuple(_tests(field)) for field in fields}


def is_proved(rows: pl.DataFrame, tests: Mapping[str, Sequence[Test]]) -> bool:
    """Whether the rows are sound for certain; False says only that pandera must look."""
    try:
        return all(_passes(rows[name], of_column) for name, of_column in tests.items())
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        return False  # a rule that does not fit its column's type: pandera has the words for it


def _passes(column: pl.Series, tests: Sequence[Test]) -> bool:
    return all(test(column) for test in tests)


def _tests(field: Field) -> list[Test]:
    tests = [test for rule in field.rules for test in _rule_tests(field, rule)]
    if field.dtype.startswith("float") and (tests or not field.nullable):
        # The least and the greatest pass over NaN; the sum does not, and is cheaper than asking each number.
        tests.append(lambda column: not math.isnan(column.sum()))
    if not field.nullable:
        tests.append(lambda column: column.null_count() == 0)
    return tests


def _rule_tests(field: Field, rule: Rule) -> list[Test]:
    if rule.name in ENDS and _is_exact(field, rule.value[:2] if rule.name == "in_range" else [rule.value]):
        return [_end_test(end, lambda value: RULES[rule.name](value, rule.value)) for end in ENDS[rule.name]]
    if rule.name == "isin" and _is_exact(field, rule.value):
        allowed = frozenset(rule.value)
        if field.dtype == "int64" and len(allowed) == max(allowed) - min(allowed) + 1:
            return [_end_test(end, allowed.__contains__) for end in (LEAST, GREATEST)]
        if len(allowed) <= FEW and {*map(type, allowed)} == {float}:
            return [lambda column: reduce(or_, [column == value for value in allowed]).all()]
    keeps = POLARS_RULES[rule.name]
    return [lambda column: bool(column.to_frame().select(keeps(pl.col(field.name), rule.value).all()).item())]


def _end_test(end: Callable[[pl.Series], Any], is_sound: Callable[[Any], Any]) -> Test:
    """A column without values has no end, and nothing that could be wrong."""
    return lambda column: (value := end(column)) is None or bool(is_sound(value))


def _is_exact(field: Field, bounds: Sequence[Any]) -> bool:
    """Whether Python compares the bounds with the column's values as Polars does."""
    types: dict[str, tuple[type, ...]] = {"int64": (int,), "float64": (int, float)}
    return bool(bounds) and all(type(b) in types.get(field.dtype, ()) and abs(b) <= EXACT for b in bounds)
