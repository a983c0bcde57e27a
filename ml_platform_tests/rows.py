"""Random rows of a model, made from its schema: what a source table could hold."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field


def random_rows(fields: tuple[Field, ...], count: int, seed: int, nulls: float = 0.2) -> pl.DataFrame:
    """`count` rows that keep every rule of the fields; nullable ones are missing in a share of the rows."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame([_series(field, count, rng, nulls) for field in fields])


def _series(field: Field, count: int, rng: np.random.Generator, nulls: float) -> pl.Series:
    values: list[object] = _values(field, count, rng)
    if field.nullable:
        values = [None if missing else value for value, missing in zip(values, rng.random(count) < nulls, strict=True)]
    return pl.Series(field.name, values, dtype=_dtype(field))


def _values(field: Field, count: int, rng: np.random.Generator) -> list[object]:
    rules = {rule.name: rule.value for rule in field.rules}
    if "isin" in rules:
        return [rules["isin"][i] for i in rng.integers(0, len(rules["isin"]), count)]
    if field.kind is Kind.TIME:
        start = datetime(2024, 1, 1, tzinfo=UTC)
        return [start + timedelta(minutes=int(m)) for m in rng.integers(0, 1_000_000, count)]
    if field.kind is Kind.TEXT:
        return [f"text {i}" for i in rng.integers(0, 5, count)]
    if field.dtype == "bool":
        return [bool(b) for b in rng.integers(0, 2, count)]
    low = rules.get("greater_than_or_equal_to", rules.get("greater_than", 0.0 if rules else -100.0) + 1e-3)
    high = rules.get("less_than_or_equal_to", rules.get("less_than", 1000.0))
    numbers = rng.uniform(low, high, count)
    return [int(np.ceil(n)) if field.is_whole else float(n) for n in numbers]


def _dtype(field: Field) -> pl.DataType:
    if field.kind is Kind.TIME:
        return pl.Datetime("us", "UTC")
    if field.kind is Kind.TEXT:
        return pl.String()
    if field.dtype == "bool":
        return pl.Boolean()
    return pl.Int64() if field.is_whole else pl.Float64()
