"""A decision on drift side by side: ours, Evidently's defaults, and the same statistics in plain NumPy.

    python -m benchmarks.drift [--rows N] [--references N] [--windows N]

Speed: a window of a million rows and 12 columns (numbers of several kinds, two pairs of them related, a flag, a text, a
column that is missing at times) against a reference of 10,000 rows. Each runs in a process of its own on the same rows;
imports are not counted. Ours is what the drift report decides with; its thresholds are made once for a reference and
size of window, and their time is printed beside it. Evidently is `DataDriftPreset` as it comes, without its HTML. NumPy
is what one would write: quantile bins, population stability index, missing shares, rank correlations, no thresholds.

False alarms: fresh windows of the same population, many for each of many references of 2,000 rows, at the rate that a
spec without further words has: one a year of daily windows. Detection: how many windows of 200 rows it takes on average
until a column that moved by a quarter, a half or a whole standard deviation is found, or two related ones that are not
related any more. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_platform.modeling.drift.calibration import calibrated
from ml_platform.modeling.drift.judging import judge
from ml_platform.modeling.drift.profile import Profile

RATE = 1 / 365
SIZES = (50, 200, 1000, 10_000)
REFERENCE, WINDOW = "reference.parquet", "window.parquet"
SHIFTS: dict[str, pl.Expr] = {
    "small": pl.col("age") + 10 * 0.25,
    "medium": pl.col("age") + 10 * 0.5,
    "large": pl.col("age") + 10 * 1.0,
    "correlation": pl.col("amount").shuffle(seed=1),
}


def population(rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Loans in 12 columns."""
    income, rent = rng.lognormal(1, 0.6, rows), rng.gamma(3, 300, rows)
    return pl.DataFrame(
        {
            "income": income,
            "amount": income * rng.lognormal(0, 0.5, rows),
            "rent": rent,
            "expenses": rent + rng.gamma(2, 200, rows),
            "age": rng.normal(40, 10, rows),
            "height": rng.normal(170, 9, rows).round(1),
            "balance": np.where(rng.random(rows) < 0.6, 0.0, rng.lognormal(5, 2, rows)),
            "dependants": rng.poisson(0.8, rows),
            "months": rng.choice([12, 24, 36, 60], rows),
            "married": (rng.random(rows) < 0.6).astype(int),
            "score": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "purpose": rng.choice(["car", "house", "boat", "trip", "other"], rows, p=[0.45, 0.3, 0.15, 0.09, 0.01]),
        },
        nan_to_null=True,
    )


def ours(folder: Path) -> float:
    """Seconds of a decision."""
    profile, window = Profile.of(pl.read_parquet(folder / REFERENCE)), pl.read_parquet(folder / WINDOW)
    began = time.perf_counter()
    calibrated([profile], len(window), RATE)
    print(f"thresholds, once for a reference and a size: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    began = time.perf_counter()
    verdict = judge([profile], [window], RATE)
    seconds = time.perf_counter() - began
    print(f"ours says {verdict.state}", file=sys.stderr)
    return seconds


def evidently(folder: Path) -> float:
    """Seconds of Evidently's preset."""
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415 - 7 s, and only here
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    frames = [pl.read_parquet(folder / name).to_pandas() for name in (WINDOW, REFERENCE)]
    names = list(frames[0].columns)
    began = time.perf_counter()
    definition = DataDefinition(
        numerical_columns=[name for name in names if name != "purpose"], categorical_columns=["purpose"]
    )
    datasets = [Dataset.from_pandas(frame, data_definition=definition) for frame in frames]
    Report([DataDriftPreset(columns=names)]).run(*datasets).dict()
    return time.perf_counter() - began


def numpy(folder: Path) -> float:
    """Seconds of the same statistics, written simply."""
    reference, window = (pl.read_parquet(folder / name) for name in (REFERENCE, WINDOW))
    before, after = (
        {n: frame[n].to_numpy() for n in frame.columns if frame[n].dtype.is_numeric()} for frame in (reference, window)
    )
    texts = [frame["purpose"].to_numpy() for frame in (reference, window)]
    began = time.perf_counter()
    for name, old in before.items():
        new, present = after[name], old[~np.isnan(old)]
        edges = np.unique(np.quantile(present, np.linspace(0, 1, 11)))
        p, q = (
            np.bincount(np.searchsorted(edges[1:-1], part[~np.isnan(part)]), minlength=len(edges)) + 0.5
            for part in (old, new)
        )
        p, q = p / p.sum(), q / q.sum()
        _ = ((p - q) * np.log(p / q)).sum(), np.isnan(new).mean() - np.isnan(old).mean(), new.mean() - old.mean()
    _ = [dict(zip(*np.unique(part.astype(str), return_counts=True), strict=True)) for part in texts]
    ranks = [np.argsort(np.argsort(np.stack(list(part.values())), axis=1), axis=1) for part in (before, after)]
    _ = np.corrcoef(ranks[1]) - np.corrcoef(ranks[0])
    return time.perf_counter() - began


WAYS: dict[str, Callable[[Path], float]] = {"ours": ours, "evidently": evidently, "numpy": numpy}


def seconds(rows: int) -> dict[str, float]:
    """What each takes, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as folder:
        rng = np.random.default_rng(1)
        population(10_000, rng).write_parquet(Path(folder) / REFERENCE)
        population(rows, rng).write_parquet(Path(folder) / WINDOW)
        found = {}
        for way in WAYS:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.drift", "--part", way, "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way] = round(float(done.stdout.splitlines()[-1]), 2)
            print(f"{way}: {found[way]:.2f} s for {rows:,} rows", flush=True)
    return found


def false_alarm_rate(size: int, references: int, windows: int) -> float:
    """The share of undrifted windows with an alarm."""
    alarms = 0
    for seed in range(references):
        rng = np.random.default_rng(seed)
        profile = Profile.of(population(2000, rng))
        alarms += sum(bool(judge([profile], [population(size, rng)], RATE).alarms) for _ in range(windows))
    print(f"windows of {size:,} rows: {alarms} alarms in {references * windows:,} undrifted ones", flush=True)
    return alarms / (references * windows)


def delay(change: pl.Expr, references: int) -> float:
    """The windows of 200 rows until an alarm, on average."""
    found = []
    for seed in range(references):
        rng = np.random.default_rng(seed)
        profile = Profile.of(population(2000, rng))
        rows = (population(200, rng).with_columns(change) for _ in count())
        found.append(next(n for n, window in enumerate(rows, 1) if judge([profile], [window], RATE).alarms))
    return float(np.mean(found))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--references", type=int, default=40)
    parser.add_argument("--windows", type=int, default=250)
    parser.add_argument("--part", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(WAYS[given.part](given.folder))
        return
    result: dict[str, Any] = {"seconds": seconds(given.rows)}
    result["false_alarm_rate"] = {
        str(size): round(false_alarm_rate(size, given.references, given.windows), 5) for size in SIZES
    }
    result["stated_rate"] = round(RATE, 5)
    result["detection"] = {name: round(delay(change, given.references), 2) for name, change in SHIFTS.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
