"""Reading: rows of a request, from JSON to the columns that features are computed from, held against the schema.

The schema is compiled once into a decoder that only lets sound rows through. What it does not let through is read again
by `modeling.schema.read_rows`, which knows every rule and names every fault: that decides.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.schema import RULES, BadRowsError, Field, Problem, Rule, as_time, limits_of_length, read_rows

Values = tuple[Any, ...]
"""One row in the reader's order: numbers first, then texts and times, as JSON has them; None is missing."""
WHOLE_LIMIT = 2**53
UNNAMEABLE = re.compile(r'["\\\x00-\x1f]')
"""What msgspec cannot have in a field's name."""
SLOW_ROWS = 100
"""Rows that are held against the schema at a time when some are bad: a client is told of the first few faults."""
LOW, HIGH = ("greater_than_or_equal_to", "greater_than"), ("less_than_or_equal_to", "less_than")


class RowReader:
    """Reads rows of one schema."""

    def __init__(self, fields: Sequence[Field]) -> None:
        """Build the decoder."""
        self._fields = fields
        self._ordered = [f for f in fields if f.kind is Kind.NUMBER] + [f for f in fields if f.kind is not Kind.NUMBER]
        self._number_names = [f.name for f in fields if f.kind is Kind.NUMBER]
        self._numbers = len(self._number_names)
        self._texts = [i for i, field in enumerate(self._ordered) if field.kind is Kind.TEXT and _chosen(field) is None]
        self._left: list[tuple[int, Rule]] = []
        members = []
        for i, field in enumerate(self._ordered):
            kind, left = _json_type(field)
            self._left += [(i, rule) for rule in left]
            members.append((f"f{i}", kind | None, None) if field.nullable else (f"f{i}", kind))
        names = {f"f{i}": field.name for i, field in enumerate(self._ordered)}
        self._is_fast = not any(UNNAMEABLE.search(field.name) for field in fields)
        row = msgspec.defstruct("Row", members, rename=names if self._is_fast else None, kw_only=True,
                                forbid_unknown_fields=True, gc=False)  # fmt: skip
        self._decode = msgspec.json.Decoder(row).decode

    def read(self, rows: Sequence[bytes | msgspec.Raw]) -> list[Values]:
        """The values of n JSON objects.

        Raises:
            BadRowsError: with the problems found, those of the first bad rows when there are many.
        """
        decode, astuple = self._decode, msgspec.structs.astuple
        if not self._is_fast:
            return self._read_slowly(rows)
        try:
            values = [astuple(decode(row)) for row in rows]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._read_slowly(rows)
        return values if self._holds(values) else self._read_slowly(rows)

    def columns(self, values: Sequence[Values]) -> dict[str, Column]:
        """The columns of n rows, by field."""
        numbers = np.array([row[: self._numbers] for row in values], dtype=np.float64)
        numbers = numbers.reshape(len(values), self._numbers)
        columns: dict[str, Column] = dict(zip(self._number_names, numbers.T, strict=True))
        for i, field in enumerate(self._ordered[self._numbers :], self._numbers):
            column = np.empty(len(values), dtype=object if field.kind is Kind.TEXT else "datetime64[us]")
            found = [row[i] for row in values]
            column[:] = found if field.kind is Kind.TEXT else [None if v is None else as_time(v) for v in found]
            columns[field.name] = column
        return columns

    def _holds(self, values: Sequence[Values]) -> bool:
        """Whether the rules hold that the decoder's types cannot express."""
        for i, rule in self._left:
            present = [row[i] for row in values if row[i] is not None]
            if present and (
                self._ordered[i].kind is Kind.TIME or not np.all(RULES[rule.name](np.array(present), rule.value))
            ):
                return False
        if any(row[i] is not None and "\0" in row[i] for i in self._texts for row in values):
            return False
        return all(
            as_time(row[i]) is not None
            for i, field in enumerate(self._ordered[self._numbers :], self._numbers)
            if field.kind is Kind.TIME
            for row in values
            if row[i] is not None
        )

    def _read_slowly(self, rows: Sequence[bytes | msgspec.Raw]) -> list[Values]:
        values: list[Values] = []
        for start in range(0, len(rows), SLOW_ROWS):
            values += self._read_few(rows[start : start + SLOW_ROWS], start)
        return values

    def _read_few(self, rows: Sequence[bytes | msgspec.Raw], start: int) -> list[Values]:
        """The values of some of the rows, of which the first has the number `start`."""
        decoded, problems = [], []
        for i, row in enumerate(rows, start):
            try:
                found = msgspec.json.decode(row)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                problems.append(Problem(row=i, field="", rule="must be JSON", value=str(error)[:80]))
                continue
            if isinstance(found, dict):
                decoded.append(found)
            else:
                problems.append(
                    Problem(row=i, field="", rule="must be an object with named fields", value=repr(found)[:80])
                )
        if problems:
            raise BadRowsError(problems)
        try:
            read_rows(decoded, self._fields)
        except BadRowsError as bad:
            raise BadRowsError([replace(problem, row=start + problem.row) for problem in bad.problems]) from None
        return [tuple(row.get(field.name) for field in self._ordered) for row in decoded]


def _json_type(field: Field) -> tuple[Any, list[Rule]]:
    """The type a decoder gives a present value, and the rules that this type does not hold by itself."""
    if field.kind is Kind.TIME:
        return str, list(field.rules)
    if field.dtype == "bool":
        return bool, list(field.rules)
    chosen = _chosen(field)
    if chosen:
        return Literal[tuple(chosen.value)], [r for r in field.rules if r is not chosen]
    if field.kind is Kind.TEXT:
        length = next((r for r in field.rules if r.name == "str_length"), None)
        low, high = limits_of_length(length.value) if length else (None, None)
        return Annotated[str, Meta(min_length=low, max_length=high)], [r for r in field.rules if r is not length]
    return _number_type(field)


def _chosen(field: Field) -> Rule | None:
    """The rule that a type of some literals holds by itself."""
    return next((r for r in field.rules if r.name == "isin" and _literal(field, r.value)), None)


def _literal(field: Field, values: Sequence[Any]) -> bool:
    wanted = str if field.kind is Kind.TEXT else int
    return (field.kind is Kind.TEXT or field.is_whole) and bool(values) and all(type(v) is wanted for v in values)


def _number_type(field: Field) -> tuple[Any, list[Rule]]:
    """A number with at most one lower and one upper limit."""
    limits: dict[str, Any] = {"ge": -WHOLE_LIMIT, "le": WHOLE_LIMIT} if field.is_whole else {}
    left = []
    used: set[tuple[str, ...]] = set()
    for rule in field.rules:
        side = next((side for side in (LOW, HIGH) if rule.name in side), None)
        if side is None or side in used or not abs(rule.value) < WHOLE_LIMIT:
            left.append(rule)
            continue
        used.add(side)
        limits |= _limit(rule, whole=field.is_whole)
    return Annotated[int if field.is_whole else float, Meta(**limits)] if limits else float, left


def _limit(rule: Rule, *, whole: bool) -> dict[str, Any]:
    names = {LOW[0]: "ge", LOW[1]: "gt", HIGH[0]: "le", HIGH[1]: "lt"}
    if not whole:
        return {names[rule.name]: float(rule.value)}
    nearest = {
        LOW[0]: lambda x: {"ge": math.ceil(x)},
        LOW[1]: lambda x: {"ge": math.floor(x) + 1},
        HIGH[0]: lambda x: {"le": math.floor(x)},
        HIGH[1]: lambda x: {"le": math.ceil(x) - 1},
    }
    limit: dict[str, Any] = nearest[rule.name](rule.value)
    return limit
