"""One schema: a request is accepted if and only if pandera accepts the row."""

import math
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_platform.modeling.schema import BadRowsError, read_rows
from ml_platform.modeling.validation import SchemaMismatchError, compile_schema, validate


class Schema(pa.DataFrameModel):
    """Every type and rule that a request can have."""

    amount: float = pa.Field(ge=0, lt=100)
    share: float = pa.Field(gt=0, le=1, nullable=True)
    count: int = pa.Field(in_range={"min_value": 1, "max_value": 9})
    code: int = pa.Field(isin=[1, 2, 3])
    not_seven: int = pa.Field(ne=7, nullable=True)
    kind: str = pa.Field(isin=["a", "b"])
    name: str = pa.Field(str_matches=r"^[a-z]+$", nullable=True)
    either: str = pa.Field(str_matches=r"a|\wb")
    note: str = pa.Field(str_length={"min_value": 1, "max_value": 4})
    initial: str = pa.Field(str_length=1)
    tail: str = pa.Field(str_length={"max_value": 2})
    ratio: float = pa.Field(in_range={"min_value": 0, "max_value": 1, "include_min": False, "include_max": False})
    flag: bool = pa.Field()
    when: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)


FIELDS = compile_schema(Schema)
SOUND: dict[str, Any] = {
    "amount": 1.5,
    "share": 0.5,
    "count": 3,
    "code": 2,
    "not_seven": 1,
    "kind": "a",
    "name": "abc",
    "either": "a",
    "note": "hey",
    "initial": "x",
    "tail": "",
    "ratio": 0.5,
    "flag": True,
    "when": "2024-05-01T10:00:00Z",
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "amount": st.floats(allow_nan=False, allow_infinity=False, min_value=-10, max_value=200),
    "share": st.none() | st.floats(allow_nan=False, min_value=-1, max_value=2),
    "count": st.integers(-2, 12),
    "code": st.integers(0, 5),
    "not_seven": st.none() | st.integers(5, 9),
    "kind": st.none() | st.text("abc", max_size=2),
    "name": st.none() | st.text("ab1\n", max_size=3),
    "either": st.text("abé\u0301\n", max_size=3),
    "note": st.text("xyé", max_size=6),
    "initial": st.text("xyé", max_size=2),
    "tail": st.text("xyé", max_size=3),
    "ratio": st.sampled_from([-0.5, 0.0, 0.5, 1.0, 2.0]),
    "flag": st.booleans(),
    "when": st.none() | st.just("2024-05-01T10:00:00Z"),
}


def _accepts(row: dict[str, Any]) -> bool:
    try:
        read_rows([row], FIELDS)
    except BadRowsError:
        return False
    return True


def _pandera_accepts(row: dict[str, Any]) -> bool:
    types = {name: c.dtype.type for name, c in Schema.to_schema().columns.items()}
    frame = pl.DataFrame([row], schema=types | {"when": pl.String}).with_columns(
        pl.col("when").str.to_datetime(time_unit="us", time_zone="UTC")
    )
    return validate(frame, Schema).bad.is_empty()


CHANGES = st.lists(st.sampled_from(sorted(VALUES)), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
)
"""Few at a time: in a row of which many values are wrong, none of them matters."""


@settings(deadline=None, max_examples=400)
@given(change=CHANGES)
@example(change={})
@example(change={"name": "abc\n"})  # Python's `$` matches before a final newline, pandera's does not
@example(change={"either": "xyb"})  # the start that pandera adds belongs to the first alternative only
@example(change={"either": "b\u0301b"})  # a combining mark is a letter to pandera, not to Python
@example(change={"ratio": 1.0})
@example(change={"initial": "xy"})
def test_a_row_is_accepted_if_and_only_if_pandera_accepts_it(change: dict[str, Any]) -> None:
    """Training and serving draw the same line."""
    row = SOUND | change

    assert _accepts(row) == _pandera_accepts(row)


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"amount": "12"}, "amount", "number"),
        ({"amount": True}, "amount", "number"),
        ({"amount": math.nan}, "amount", "finite"),
        ({"amount": math.inf}, "amount", "finite"),
        ({"amount": None}, "amount", "missing"),
        ({"count": 1.5}, "count", "whole"),
        ({"count": 2**60}, "count", "whole"),
        ({"flag": 1}, "flag", "true or false"),
        ({"kind": 3}, "kind", "text"),
        ({"when": "yesterday"}, "when", "ISO 8601"),
        ({"when": 5}, "when", "ISO 8601"),
        ({"colour": "red"}, "colour", "unknown"),
        ({"amount": 1e308 * 10}, "amount", "finite"),
        ({"amount": -1.0}, "amount", "greater_than_or_equal_to 0"),
    ],
)
def test_a_bad_value_is_named_with_field_rule_and_row(change: dict[str, Any], field: str, rule: str) -> None:
    """The second of two rows is bad; the error says so."""
    with pytest.raises(BadRowsError) as raised:
        read_rows([SOUND, SOUND | change], FIELDS)

    problem = raised.value.problems[0]
    assert (problem.row, problem.field) == (1, field)
    assert rule in problem.rule


def test_a_field_left_out_is_missing() -> None:
    """A nullable field may be left out, any other may not."""
    read_rows([{k: v for k, v in SOUND.items() if k != "share"}], FIELDS)

    with pytest.raises(BadRowsError, match="row 0, field 'amount': must not be missing"):
        read_rows([{k: v for k, v in SOUND.items() if k != "amount"}], FIELDS)


def test_bad_rows_are_set_aside_with_the_reason_and_the_others_kept() -> None:
    """Each failure has row, column, rule and value."""
    rows = [SOUND, SOUND | {"amount": -3.0}, SOUND | {"kind": "z", "count": 0}]
    frame = pl.DataFrame(rows).with_columns(pl.col("when").str.to_datetime(time_unit="us", time_zone="UTC"))

    outcome = validate(frame, Schema)

    assert (len(outcome.good), len(outcome.bad)) == (1, 2)
    found = {(f["row"], f["column"], f["value"]) for f in outcome.failures.to_dicts()}
    assert found == {(1, "amount", "-3.0"), (2, "kind", "z"), (2, "count", "0")}


def test_a_missing_column_and_a_wrong_type_are_named() -> None:
    """Types are widened to floats, never coerced."""
    frame = pl.DataFrame([SOUND]).with_columns(pl.col("when").str.to_datetime(time_unit="us", time_zone="UTC"))

    assert len(validate(frame.with_columns(amount=pl.lit(1)), Schema).good) == 1
    with pytest.raises(SchemaMismatchError, match="columns missing from the table: amount"):
        validate(frame.drop("amount"), Schema)
    with pytest.raises(SchemaMismatchError, match="column 'code' is String in the table"):
        validate(frame.with_columns(code=pl.lit("1")), Schema)
    with pytest.raises(SchemaMismatchError, match="column 'code' is Float64 in the table"):
        validate(frame.with_columns(code=pl.lit(1.0)), Schema)


def test_a_check_that_one_request_cannot_keep_is_refused_with_the_remedy() -> None:
    """Checks over many rows belong to training."""

    class TooClever(pa.DataFrameModel):
        amount: float = pa.Field()

        @pa.check("amount")
        def above_average(cls, data: Any) -> Any:  # noqa: N805 - pandera's convention
            return data.lazyframe.select(pl.col("amount") >= pl.col("amount").mean())

    with pytest.raises(SchemaMismatchError, match="above_average"):
        compile_schema(TooClever)


@pytest.mark.parametrize("options", [{"ignore_na": False}, {"raise_warning": True}, {"n_failure_cases": 1}])
def test_an_option_that_changes_a_rules_verdict_is_refused_with_the_remedy(options: dict[str, Any]) -> None:
    """A request would be judged without it; before and after pandera was first used."""

    class Lenient(pa.DataFrameModel):
        amount: float = pa.Field(gt=0, **options)

    for _ in range(2):
        with pytest.raises(SchemaMismatchError, match="without further options"):
            compile_schema(Lenient)
        validate(pl.DataFrame({"amount": [1.0]}), Lenient)


def test_a_title_and_a_description_are_not_such_options() -> None:
    """They do not change the verdict; nor does it matter that pandera was used in between."""

    class Worded(pa.DataFrameModel):
        amount: float = pa.Field(gt=0, title="Amount", description="In dollars")

    fields = compile_schema(Worded)
    validate(pl.DataFrame({"amount": [-1.0]}), Worded)

    assert compile_schema(Worded) == fields
