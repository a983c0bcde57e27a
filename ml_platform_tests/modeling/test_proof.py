"""The proof: whatever the batches, validation says exactly what pandera says of the whole table."""

import math
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors
from polars.testing import assert_frame_equal

from ml_platform.modeling.validation import Schema, SchemaMismatchError, Validated, validate
from ml_platform.models.loan_approval.schema import Schema as LoanSchema

LATE = datetime(2024, 1, 1, tzinfo=UTC)


class Everything(pa.DataFrameModel):
    """Every rule on every type that has it, with and without missing values."""

    plain: float = pa.Field()
    at_least: float = pa.Field(ge=0)
    between: float = pa.Field(gt=0, le=100, nullable=True)
    open_range: float = pa.Field(in_range={"min_value": -1.0, "max_value": 1.0, "include_min": False})
    below: float = pa.Field(lt=5, nullable=True)
    above: float = pa.Field(ge=-5, nullable=True)
    one_of: float = pa.Field(isin=[0.0, 1.0])
    some_of: float = pa.Field(isin=[-1.5, 0.0, 2.0], nullable=True)
    exact: float = pa.Field(eq=1.0, nullable=True)
    never: float = pa.Field(ne=1.0, notin=[2.0])
    single: pl.Float32 = pa.Field(gt=0.1, lt=0.7)
    count: int = pa.Field(gt=0, lt=2**53)
    half: int = pa.Field(gt=0.5)
    huge: int = pa.Field(gt=2.0**53)
    code: int = pa.Field(isin=[1, 2, 3], nullable=True)
    gaps: int = pa.Field(isin=[1, 3], nullable=True)
    small: pl.Int8 = pa.Field(in_range={"min_value": 0, "max_value": 9, "include_max": False})
    natural: pl.UInt32 = pa.Field(ge=0, notin=[7], nullable=True)
    kind: str = pa.Field(isin=["a", "b"], ne="b")
    name: str = pa.Field(str_matches=r"[a-z]+$", nullable=True)
    note: str = pa.Field(str_length={"min_value": 1, "max_value": 4})
    short: str = pa.Field(str_length={"max_value": 2}, ge="a", nullable=True)
    flag: bool = pa.Field(eq=True, nullable=True)
    when: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(ge=LATE)
    day: date = pa.Field(lt=date(2024, 1, 1), nullable=True)


FLOATS = [0.0, -0.0, 1.0, 2.0, 0.5, 0.1, 0.7, -1.5, -1.0, 5.0, 100.0, 101.0, -6.0, math.nan, math.inf, -math.inf, None]
WHOLE = [0, 1, 2, 3, 4, -1, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), None]
SMALL = [0, 1, 7, 9, 10, None]
TEXTS = ["a", "b", "abc", "abc\n", "1a", "", "éé", "ééééé", "aaaaa", None]
TIMES = [LATE, datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), None]
DAYS = [date(2023, 12, 31), date(2024, 1, 1), None]
SOUND_AND_ALL: dict[str, tuple[list[Any], list[Any]]] = {
    "plain": ([1.0, -2.5, math.inf], FLOATS),
    "at_least": ([0.0, -0.0, 7.0], FLOATS),
    "between": ([0.5, 100.0, None], FLOATS),
    "open_range": ([-0.5, 1.0], FLOATS),
    "below": ([4.5, -math.inf, None], FLOATS),
    "above": ([-5.0, math.inf, None], FLOATS),
    "one_of": ([0.0, -0.0, 1.0], FLOATS),
    "some_of": ([-1.5, 0.0, 2.0, None], FLOATS),
    "exact": ([1.0, None], FLOATS),
    "never": ([0.0, 3.0], FLOATS),
    "single": ([0.2, 0.5], FLOATS),
    "count": ([1, 2**53 - 1], WHOLE),
    "half": ([1, 2**53, 2**53 + 1], WHOLE),
    "huge": ([2**53 + 2, 2**60], WHOLE),
    "code": ([1, 2, 3, None], WHOLE),
    "gaps": ([1, 3, None], WHOLE),
    "small": ([0, 8], SMALL),
    "natural": ([0, 8, None], SMALL),
    "kind": (["a"], TEXTS),
    "name": (["a", "abc", None], TEXTS),
    "note": (["a", "éé"], TEXTS),
    "short": (["a", "éé", None], TEXTS),
    "flag": ([True, None], [True, False, None]),
    "when": ([LATE], TIMES),
    "day": ([date(2023, 12, 31), None], DAYS),
}
TYPES = {name: pl.Series(dtype=c.dtype.type).dtype for name, c in Everything.to_schema().columns.items()}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Few or many sound rows with at most three values that may not be."""
    rows = draw(st.integers(0, 6))
    columns = {
        name: draw(st.lists(st.sampled_from(sound), min_size=rows, max_size=rows))
        for name, (sound, _) in SOUND_AND_ALL.items()
    }
    for _ in range(draw(st.integers(0, 3)) if rows else 0):
        name = draw(st.sampled_from(sorted(SOUND_AND_ALL)))
        columns[name][draw(st.integers(0, rows - 1))] = draw(st.sampled_from(SOUND_AND_ALL[name][1]))
    before, after = draw(st.sampled_from([(0, 0), (1, 1), (300, 0), (0, 300), (150, 90)]))
    sound = _sound_rows()
    parts = [*[sound] * before, pl.DataFrame(columns, schema=TYPES), *[sound] * after]
    return pl.concat(parts, rechunk=draw(st.booleans()))


def _sound_rows() -> pl.DataFrame:
    return pl.DataFrame({name: (sound * 4)[:4] for name, (sound, _) in SOUND_AND_ALL.items()}, schema=TYPES)


def _alone(frame: pl.DataFrame, schema: Schema) -> Validated:
    """What pandera itself says of the whole table."""
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases.select(
            pl.col("index").cast(pl.Int64).alias("row"), "column", rule="check", value="failure_case"
        )
    else:
        return Validated(good=frame, bad=frame.clear(), failures=pl.DataFrame())
    bad = frame.with_row_index()["index"].is_in(failures["row"].unique().to_list())
    return Validated(good=frame.filter(~bad), bad=frame.filter(bad), failures=failures)


def _in_batches(frame: pl.DataFrame, schema: Schema, batches: int) -> Validated:
    size = math.ceil(len(frame) / batches)
    done = [validate(frame.slice(i * size, size), schema, first_row=i * size) for i in range(batches)]
    return Validated(
        good=pl.concat([v.good for v in done]),
        bad=pl.concat([v.bad for v in done]),
        failures=pl.concat([v.failures for v in done]),
    )


@settings(deadline=None, max_examples=100)
@given(frame=frames(), batches=st.integers(1, 3))
@example(frame=_sound_rows(), batches=1)
@example(frame=_sound_rows().clear(), batches=1)
def test_batches_are_judged_exactly_as_pandera_judges_the_table(frame: pl.DataFrame, batches: int) -> None:
    """The same good rows, the same bad rows, the same failures."""
    expected, outcome = _alone(frame, Everything), _in_batches(frame, Everything, batches)

    assert_frame_equal(outcome.good, expected.good)
    assert_frame_equal(outcome.bad, expected.bad)
    assert sorted(outcome.failures.rows()) == sorted(expected.failures.rows())


@pytest.mark.parametrize("name", SOUND_AND_ALL)
def test_every_value_of_every_column_is_judged_as_pandera_judges_it(name: str) -> None:
    """One value at a time among sound ones, so that no other hides it."""
    sound = _sound_rows()
    for value in SOUND_AND_ALL[name][1]:
        frame = sound.with_columns(pl.Series(name, [*sound[name][:-1], value], dtype=TYPES[name]))
        assert len(validate(frame, Everything).bad) == len(_alone(frame, Everything).bad), (name, value)


@pytest.mark.parametrize("schema", [Everything, LoanSchema])
def test_sound_rows_are_proved_without_pandera(schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is what makes validation cheap, for the demo's schema too."""
    frame = _sound_rows() if schema is Everything else _loan()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("pandera was asked about sound rows")

    monkeypatch.setattr(schema, "validate", refuse)

    assert len(validate(frame, schema).good) == len(frame)


def _loan() -> pl.DataFrame:
    columns = LoanSchema.to_schema().columns
    types = {name: pl.Series(dtype=c.dtype.type).dtype for name, c in columns.items()}
    return pl.DataFrame({n: [LATE if t.is_temporal() else 1] for n, t in types.items()}, schema=types, strict=False)


def _positive(data: Any) -> Any:
    return data.lazyframe.select(pl.col("size") > 0)


class Unique(pa.DataFrameModel):
    """No value twice."""

    size: float = pa.Field(unique=True)


class Defaulted(pa.DataFrameModel):
    """What is missing becomes a value that breaks the rule."""

    size: float = pa.Field(ge=0, nullable=True, default=-1.0)


class FrameChecked(pa.DataFrameModel):
    """A check over rows as a whole."""

    size: float = pa.Field(nullable=True)

    @pa.dataframe_check()
    def positive(cls, data: Any) -> Any:  # noqa: N805 - pandera's convention
        """Nothing below zero."""
        return _positive(data)


class OwnCheck(pa.DataFrameModel):
    """A check of one's own on a column, under a name that pandera has, too."""

    size: float = pa.Field(nullable=True)

    @pa.check("size", name="not_equal_to")
    def positive(cls, data: Any) -> Any:  # noqa: N805 - pandera's convention
        """Nothing below zero."""
        return _positive(data)


class Insistent(pa.DataFrameModel):
    """A rule that a missing value breaks."""

    size: float = pa.Field(ge=-10, nullable=True, ignore_na=False)


class Lenient(pa.DataFrameModel):
    """A rule that is only a warning."""

    size: float = pa.Field(gt=0, nullable=True, raise_warning=True)


@pytest.mark.filterwarnings("ignore::pandera.errors.SchemaWarning")
@pytest.mark.parametrize("schema", [Unique, Defaulted, FrameChecked, OwnCheck, Insistent, Lenient])
@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 1.0], [1.0, None], [1.0, -1.0], [math.nan]])
def test_what_the_proof_does_not_know_is_left_to_pandera(schema: Schema, values: list[float | None]) -> None:
    """Everything that a schema can ask for beyond rules on single values."""
    frame = pl.DataFrame({"size": values}, schema={"size": pl.Float64})
    expected, outcome = _alone(frame, schema), validate(frame, schema)

    assert_frame_equal(outcome.good, expected.good)
    assert_frame_equal(outcome.bad, expected.bad)


@pytest.mark.parametrize("allowed", [[1, 2], ["a"], [1.0, "a"]])
def test_a_rule_that_does_not_fit_the_type_is_named_as_pandera_names_it(allowed: list[Any]) -> None:
    """The proof does not fail on it."""

    class Odd(pa.DataFrameModel):
        size: float = pa.Field(isin=allowed)

    with pytest.raises(SchemaMismatchError, match="column 'size' breaks isin"):
        validate(pl.DataFrame({"size": [1.0]}), Odd)
