"""Validation side by side: ours against pandera on pandas, with the schema of loan_approval.

    python -m benchmarks.validate [--rows N] [--bad SHARE]

Ours is what the room validated_data does: `ml_platform.modeling.validation.validate` over Polars frames of 100,000
rows. The other is what a pandas user would write: `pandera.pandas.DataFrameSchema` with the same columns, types,
nullability and rules, over one DataFrame. Both get the same rows, made in memory from the schema, and look for every
fault (`lazy=True`). Each runs in a process of its own, three times over the same rows, and its median counts, because
the machine has other work to do; imports and making the rows are not counted. Beforehand both must find the same bad
rows in a small sample. The rows are clean unless `--bad` gives a share of rows to spoil.
The last line is one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import polars as pl
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field
from ml_platform.modeling.validation import compile_schema, validate
from ml_platform.models.loan_approval.schema import Schema
from ml_platform.resources.datasets import BATCH_ROWS

SAMPLE = 20_000
SAMPLE_BAD = 0.01
MISSING = 0.05
SPOILED = "hrat"
"""The column that is out of its range in spoiled rows."""

ROUNDS = 3

Rows = dict[str, NDArray[Any]]
Judge = Callable[[], int]
"""Validates all rows and says how many are bad."""


def make_rows(fields: tuple[Field, ...], count: int, bad: float) -> Rows:
    """The same rows in every process: all rules are kept, except in a share of them; NaN is missing."""
    rng = np.random.default_rng(1)
    rows = {field.name: _values(field, count, rng) for field in fields}
    rows[SPOILED][rng.random(count) < bad] = -1
    return rows


def _values(field: Field, count: int, rng: np.random.Generator) -> NDArray[Any]:
    rules = {rule.name: rule.value for rule in field.rules}
    if field.kind is Kind.TIME:
        return np.datetime64("2024-01-01", "us") + rng.integers(0, 10**13, count).astype("timedelta64[us]")
    whole = field.dtype.startswith("int")
    if "isin" in rules:
        values = np.array(rules["isin"], dtype=np.int64 if whole else np.float64)[
            rng.integers(0, len(rules["isin"]), count)
        ]
    else:
        low, high = rules.get("greater_than_or_equal_to", 1), rules.get("less_than_or_equal_to", 1_000_000)
        values = rng.integers(low, high, count) if whole else rng.uniform(low, high, count)
    if field.nullable:
        values[rng.random(count) < MISSING] = np.nan
    return values


def ours(fields: tuple[Field, ...], rows: Rows) -> Judge:
    """The platform's validation of the rows."""
    frame = pl.DataFrame(rows, nan_to_null=True)
    for field in fields:
        if field.kind is Kind.TIME:
            frame = frame.with_columns(pl.col(field.name).dt.replace_time_zone("UTC"))

    def judge() -> int:
        batches = frame.iter_slices(BATCH_ROWS)
        done = [validate(batch, Schema, first_row=i * BATCH_ROWS) for i, batch in enumerate(batches)]
        pl.concat([v.good for v in done])
        return len(pl.concat([v.bad for v in done]))

    return judge


def pandera_pandas(fields: tuple[Field, ...], rows: Rows) -> Judge:
    """The same by pandera on pandas."""
    schema = pa.DataFrameSchema({field.name: _column(field) for field in fields})
    frame = pd.DataFrame(rows)
    for field in fields:
        if field.kind is Kind.TIME:
            frame[field.name] = frame[field.name].dt.tz_localize("UTC")

    def judge() -> int:
        try:
            schema.validate(frame, lazy=True)
        except SchemaErrors as error:
            return int(error.failure_cases["index"].nunique())
        return 0

    return judge


def _column(field: Field) -> pa.Column:
    checks = [getattr(pa.Check, rule.name)(rule.value) for rule in field.rules]
    dtype = pd.DatetimeTZDtype("us", "UTC") if field.kind is Kind.TIME else field.dtype
    return pa.Column(dtype, checks, nullable=field.nullable)


WAYS: dict[str, Callable[[tuple[Field, ...], Rows], Judge]] = {
    "ours": ours,
    "pandera_pandas": pandera_pandas,
}


def one(way: str, rows: int, bad: float) -> None:
    """Measure one way here and print what came of it."""
    fields = compile_schema(Schema)
    found = WAYS[way](fields, make_rows(fields, SAMPLE, SAMPLE_BAD))()
    made = make_rows(fields, rows, bad)
    spoiled = int((made[SPOILED] < 0).sum())
    judge = WAYS[way](fields, made)
    made.clear()
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        rejected = judge()
        seconds.append(time.perf_counter() - began)
        if rejected != spoiled:
            msg = f"{way} found {rejected} bad rows, there are {spoiled}"
            raise RuntimeError(msg)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": median(seconds), "found_in_sample": found, "peak_mib": peak}))


def measured(way: str, rows: int, bad: float) -> dict[str, float]:
    """What came of one way in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--way", way, "--rows", str(rows), "--bad", str(bad)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{way}: {result['seconds']:.2f} s for {rows:,} rows, peak {result['peak_mib']:,} MiB", flush=True)
    return result


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--bad", type=float, default=0.0, help="share of rows that break a rule (default: none)")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        one(given.way, given.rows, given.bad)
        return
    results = {way: measured(way, given.rows, given.bad) for way in WAYS}
    if len({result["found_in_sample"] for result in results.values()}) > 1:
        msg = f"they do not find the same bad rows: {results}"
        raise RuntimeError(msg)
    print(json.dumps({"seconds": {way: round(result["seconds"], 2) for way, result in results.items()}}))


if __name__ == "__main__":
    main()
