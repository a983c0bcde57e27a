"""Drift: alarms as often as stated when nothing happened, soon when something did, and in words."""

from collections.abc import Callable
from itertools import count

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import binom

from ml_platform.modeling.drift import traffic
from ml_platform.modeling.drift.decision import State
from ml_platform.modeling.drift.judging import judge
from ml_platform.modeling.drift.profile import MOST_PAIRED, MOST_ROWS, Profile

RATE = 0.05
PURPOSES = {0: "car", 1: "house", 2: "boat", 3: "other"}
Rows = Callable[[int, np.random.Generator], pl.DataFrame]


def loans(rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Numbers of several kinds, two of them related, a flag, a text, and a column that is missing at times."""
    income = rng.lognormal(1, 0.6, rows)
    return pl.DataFrame(
        {
            "income": income,
            "amount": income * rng.lognormal(0, 0.5, rows),
            "age": rng.normal(40, 10, rows),
            "married": (rng.random(rows) < 0.6).astype(int),
            "purpose": pl.Series(np.searchsorted([0.5, 0.8, 0.95], rng.random(rows))).replace_strict(PURPOSES),
            "score": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        },
        nan_to_null=True,
    )


def tides(rows: int, rng: np.random.Generator) -> pl.DataFrame:
    """Rows that are much like those before them."""
    noise = rng.normal(size=(rows + 300, 3))
    levels = lfilter([1], [1, -0.9], noise, axis=0)[300:]
    return pl.DataFrame({f"level {i}": levels[:, i] for i in range(3)}).with_columns(at=pl.int_range(pl.len()))


@pytest.fixture(scope="module")
def reference() -> Profile:
    """Two thousand loans."""
    return Profile.of(loans(2000, np.random.default_rng(0)))


def alarms(made: Rows, rows: int, references: int, windows: int, event_time: str | None = None) -> int:
    """How many of so many windows of each of so many references have an alarm, all from the same population."""
    found = 0
    for seed in range(references):
        rng = np.random.default_rng(seed)
        profile = Profile.of(made(1000, rng), event_time)
        found += sum(bool(judge([profile], [made(rows, rng)], RATE).alarms) for _ in range(windows))
    return found


@pytest.mark.parametrize("rows", [50, 200, 1000, 10_000])
def test_undrifted_windows_alarm_at_the_stated_rate(rows: int) -> None:
    """Fresh rows of the same population: the reference's own noise counts too, whatever the size of the window."""
    references, windows = 10, 20

    found = alarms(loans, rows, references, windows)

    # Windows share a reference, so they vary as if there were fewer of them: one in three.
    low, high = binom.interval(0.998, references * windows // 3, RATE)
    assert low <= found / 3 <= high


def test_rows_that_depend_on_each_other_are_resampled_in_blocks() -> None:
    """Row by row, nearly every window of a slow tide would look drifted; in blocks of event time few do."""
    in_rows = alarms(tides, 200, 3, 10)
    in_blocks = alarms(tides, 200, 10, 20, "at")

    assert in_rows > 25
    assert in_blocks <= binom.ppf(0.999, 200 // 3, RATE) * 3


def test_it_says_what_was_resampled() -> None:
    """Blocks only where there is an event time and rows depend on each other; and a caveat where there is little."""
    rng = np.random.default_rng(1)
    tide, few = Profile.of(tides(1000, rng), "at"), Profile.of(loans(30, rng))
    timed = Profile.of(loans(1000, rng).with_columns(at=pl.int_range(pl.len())), "at")

    said = {name: judge([p], [loans(50, rng) if name != "tide" else tides(50, rng)], RATE).basis for name, p in
            (("tide", tide), ("few", few), ("timed", timed))}  # fmt: skip

    assert said["tide"].resampled == "blocks of event time"
    assert said["tide"].block_rows > 10
    assert said["few"].resampled == said["timed"].resampled == "rows"
    assert (said["timed"].caveat, said["few"].reference_rows) == ("", 30)
    assert "only 30 rows" in said["few"].caveat
    assert said["timed"].false_alarm_rate == RATE


def later(change: pl.Expr) -> Rows:
    """Loans after a change."""
    return lambda rows, rng: loans(rows, rng).with_columns(change)


def test_a_small_shift_takes_a_few_windows_and_a_large_one_is_seen_at_once(reference: Profile) -> None:
    """The delay in windows of 200 rows, at one false alarm in a year of days."""
    delays = {}
    for size in (0.25, 0.5, 1.0):
        made = later(pl.col("age") + 10 * size)
        each = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            each.append(next(n for n in count(1) if judge([reference], [made(200, rng)], 1 / 365).alarms))
        delays[size] = float(np.mean(each))

    assert delays[1.0] == 1
    assert 1 <= delays[0.5] < 1.5
    assert 1.5 < delays[0.25] < 8


CHANGES = {
    "level": (pl.col("age") + 10, "standard deviations higher", "level"),
    "spread": (pl.col("age").mean() + (pl.col("age") - pl.col("age").mean()) * 3, "age is spread", "divergence"),
    "share of a text": (pl.lit("boat").alias("purpose"), "'boat' went from 1", "divergence"),
    "missing": (pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("score")), "score is missing in 5", "missing"),
    "never missing before": (
        pl.when(pl.int_range(pl.len()) % 20 > 0).then(pl.col("age")),
        "age is missing in 50 of 1,000 rows, and never in the reference",
        "new missing values",
    ),
    "a new text": (
        pl.when(pl.int_range(pl.len()) % 100 > 0).then(pl.col("purpose")).otherwise(pl.lit("yacht")).alias("purpose"),
        "purpose has a value that the reference does not know in 10 of 1,000 rows",
        "new values",
    ),
    "a new code": (
        pl.when(pl.int_range(pl.len()) % 100 > 0).then(pl.col("married")).otherwise(9),
        "married has a value that the reference does not know",
        "new values",
    ),
    "dependence alone": (
        pl.col("amount").shuffle(seed=1),
        "the rank correlation of income and amount went from 0.7",
        "correlation",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_and_said_in_words(reference: Profile, what: str) -> None:
    """Of a thousand rows, the column, the measure, how far, and how far chance would take it."""
    change, words, measure = CHANGES[what]

    verdict = judge([reference], [later(change)(1000, np.random.default_rng(7))], 1 / 365)

    assert verdict.state is State.DRIFTED
    (found,) = [alarm for alarm in verdict.alarms if alarm.measure == measure]
    assert words in found.reason
    assert found.value > found.threshold >= 0
    # Nothing but the changed column is blamed.
    assert all(found.columns[-1] in alarm.columns for alarm in verdict.alarms)


def test_other_columns_and_other_types_are_a_change_of_the_schema(reference: Profile) -> None:
    """Not drift: nothing that training again would help."""
    rows = loans(100, np.random.default_rng(1))

    gone, other = (
        judge([reference], [rows.drop("age")], RATE),
        judge([reference], [rows.cast({"age": pl.String})], RATE),
    )
    left_out = judge([reference], [loans(3, np.random.default_rng(1)).drop("score")], RATE)

    assert gone.state is other.state is State.SCHEMA_CHANGED
    assert gone.reason == "age is in no row any more, though every row of the reference has it"
    assert other.reason == "age holds a text now, and a number in the reference"
    assert left_out.state is not State.SCHEMA_CHANGED, "a column that may be missing may be left out"


def test_several_references_share_the_stated_rate(reference: Profile) -> None:
    """Inputs and answers have reference rows of their own, and one verdict."""
    rng = np.random.default_rng(3)
    answers = Profile.of(pl.DataFrame({"probability": rng.random(500)}))
    rows, same = loans(300, rng), pl.DataFrame({"probability": rng.random(300)})

    lower = judge([reference, answers], [rows, same.select(pl.col("probability") ** 2)], 1 / 365)

    assert {alarm.columns for alarm in lower.alarms} == {("probability",)}
    assert judge([reference, answers], [rows, same], 1 / 365).state is State.OK


def test_a_large_reference_is_thinned_out_in_runs() -> None:
    """Its memory is bounded, and neighbours stay neighbours, so that dependence is still seen."""
    rng = np.random.default_rng(5)

    profile = Profile.of(tides(15 * MOST_ROWS, rng), "at")

    assert profile.rows == MOST_ROWS
    assert profile.block > 50


def test_a_wide_table_is_looked_at_in_some_pairs() -> None:
    """Those that depend on others most: what is kept does not grow with the square of the columns."""
    rng = np.random.default_rng(6)

    def wide(related: float) -> pl.DataFrame:
        table = {f"column {i}": rng.normal(size=500) for i in range(MOST_PAIRED + 20)}
        last = (table["column 7"] * related + rng.normal(size=500)) / np.sqrt(1 + related**2)
        return pl.DataFrame(table | {"last": last})

    profile = Profile.of(wide(2.0))

    assert len(profile.pairs) == MOST_PAIRED * (MOST_PAIRED - 1) / 2
    assert judge([profile], [wide(2.0)], 1 / 365).state is State.OK
    assert judge([profile], [wide(0.0)], 1 / 365).alarms[-1].columns == ("column 7", "last")


VALUES = st.one_of(st.none(), st.sampled_from([-1e300, -1.0, 0.0, 1e-300, 3.0, 1e300]), st.floats(-5, 5))


@settings(deadline=None, max_examples=40)
@given(
    before=st.lists(st.tuples(VALUES, st.one_of(st.none(), st.text(max_size=3))), min_size=1, max_size=60),
    after=st.lists(st.tuples(VALUES, st.one_of(st.none(), st.text(max_size=3))), min_size=2, max_size=60),
)
def test_any_rows_get_a_verdict(before: list[tuple[object, object]], after: list[tuple[object, object]]) -> None:
    """Constant, empty and odd columns included; what cannot be measured raises no alarm about itself."""
    schema = {"number": pl.Float64, "text": pl.String}
    profile = Profile.of(pl.DataFrame(before, schema=schema, orient="row"))

    verdict = judge([profile], [pl.DataFrame(after, schema=schema, orient="row")], 0.01)

    assert verdict.state in (State.OK, State.DRIFTED)
    assert all(np.isfinite([alarm.value, alarm.threshold]).all() for alarm in verdict.alarms)
    assert judge([profile], [pl.DataFrame(after, schema=schema, orient="row")], 0.01) == verdict


@pytest.mark.parametrize(
    ("now", "before", "stopped"),
    [
        (0, [1000] * 14, True),
        (50, [1000] * 14, True),
        (400, [1000] * 14, False),
        (0, [0, 1000, 1000, 1000, 1000, 1000], True),
        (0, [0, 1000, 900, 1000, 1100, 1000, 0, 0, 1000, 900, 1000, 1100, 1000, 0, 0], False),
        (0, [0, 0, 1000, 900, 1000, 1100, 1000, 0, 0, 1000, 900, 1000, 1100, 1000], True),
        (0, [1000, 1000], False),
        (0, [3] * 28, False),
        (0, [], False),
        (0, [0] * 28, False),
    ],
)
def test_traffic_has_stopped_when_it_was_never_that_low_for_so_long(now: int, before: list[int], stopped: bool) -> None:
    """A weekend without requests is no stop, a third day is; few requests or a short past tell nothing."""
    assert traffic.has_stopped(now, before) is stopped
