"""The reader of requests lets through exactly the rows that the schema does, as the same columns."""

from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_platform.modeling.bundle import rows_of
from ml_platform.modeling.columns import Column
from ml_platform.modeling.schema import BadRowsError, Problem, read_rows
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.training import ModelCode
from ml_platform.modeling.validation import as_columns, compile_schema
from ml_platform.models.catalogue import all_models
from ml_platform.serving.reading import RowReader
from ml_platform_tests.rows import random_rows


class Schema(pa.DataFrameModel):
    """Every type and rule that a request can have, some in combinations that the decoder cannot express."""

    note: str = pa.Field(str_length={"min_value": 1, "max_value": 4})
    amount: float = pa.Field(ge=0, gt=0.5, lt=100)
    share: float = pa.Field(isin=[0.0, 0.5, 1.0], nullable=True)
    count: int = pa.Field(in_range={"min_value": 1, "max_value": 9})
    code: int = pa.Field(isin=[1, 2, 3], nullable=True)
    whole: int = pa.Field(gt=1.5, le=7.5)
    tiny: pl.UInt8 = pa.Field(ne=7)
    kind: str = pa.Field(isin=["a", "b"])
    name: str = pa.Field(str_matches=r"^[a-z]+$", nullable=True)
    flag: bool = pa.Field()
    when: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(nullable=True)
    odd: float = pa.Field(alias="2nd 'real'", nullable=True)


FIELDS = compile_schema(Schema)
READER = RowReader(FIELDS)
SOUND: dict[str, Any] = {
    "note": "hey", "amount": 1.5, "share": 0.5, "count": 3, "code": 2, "whole": 2, "tiny": 1, "kind": "a",
    "name": "abc", "flag": True, "when": "2024-05-01T10:00:00Z", "2nd 'real'": None,
}  # fmt: skip
ANYTHING = (
    st.none() | st.booleans() | st.integers(-3, 12) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6) | st.sampled_from(["2024-05-01", "2024-05-01T10:00", "2024-13-01", "a", "b", "abc", 0.5, 2.0])
    | st.lists(st.integers(), max_size=2)
)  # fmt: skip


def _reference(rows: list[dict[str, Any]]) -> tuple[dict[str, Column], tuple[Problem, ...]]:
    """The columns, or what is wrong."""
    try:
        return read_rows(rows, FIELDS), ()
    except BadRowsError as refused:
        return {}, refused.problems


@settings(deadline=None, max_examples=500)
@given(
    change=st.dictionaries(st.sampled_from([*SOUND, "unknown"]), ANYTHING, max_size=3),
    left_out=st.sets(st.sampled_from(list(SOUND)), max_size=1),
)
@example(change={"name": "abc\n"}, left_out=set())
@example(change={"count": 3.0}, left_out=set())
@example(change={"flag": 1, "code": True}, left_out=set())
@example(change={"when": "2024-05-01T10:00:00+02:00"}, left_out={"share"})
@example(change={"when": "0001-01-01T00:00:00+10:00"}, left_out=set())
def test_the_reader_and_the_reference_agree(change: dict[str, Any], left_out: set[str]) -> None:
    """The same rows are refused with the same problems; the same rows pass, as the same columns."""
    row = {name: value for name, value in (SOUND | change).items() if name not in left_out}
    body = msgspec.json.encode(row)
    expected, problems = _reference([msgspec.json.decode(body), SOUND])
    if problems:
        with pytest.raises(BadRowsError) as raised:
            READER.read([body, msgspec.json.encode(SOUND)])
        assert raised.value.problems == problems
        return

    columns = READER.columns(READER.read([body, msgspec.json.encode(SOUND)]))

    assert columns.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values, err_msg=name)
        assert columns[name].dtype == values.dtype


def test_a_name_that_the_decoder_cannot_have_is_read_all_the_same() -> None:
    """A column's name may hold quotes."""
    odd = replace(FIELDS[1], name='the "real" one')
    reader = RowReader([odd])

    assert reader.columns(reader.read([b'{"the \\"real\\" one": 2}']))[odd.name].tolist() == [2.0]
    with pytest.raises(BadRowsError, match="greater_than"):
        reader.read([b'{"the \\"real\\" one": 0.1}'])


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"{", "must be JSON"),
        (b"[1, 2]", "must be an object"),
        (b'"text"', "must be an object"),
        (b'{"amount": NaN}', "must be JSON"),
        (b'{"amount": 1e999}', "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b'{"note": "\xff"}', "must be JSON"),
    ],
)
def test_what_is_no_row_is_named(body: bytes, rule: str) -> None:
    """The second row is not one."""
    with pytest.raises(BadRowsError) as raised:
        READER.read([msgspec.json.encode(SOUND), body])

    assert raised.value.problems[0].row == 1
    assert rule in raised.value.problems[0].rule


@pytest.mark.parametrize("spec", all_models(), ids=lambda spec: spec.name)
def test_sound_rows_of_every_model_are_read_without_the_slow_way(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ordinary traffic sends is let through by the decoder."""
    code = ModelCode.of(spec)
    columns = as_columns(random_rows(code.inputs, 200, 3), code.inputs)
    reader = RowReader(code.inputs)
    monkeypatch.delattr(RowReader, "_read_slowly")

    read = reader.columns(reader.read([msgspec.json.encode(row) for row in rows_of(columns, code.inputs, range(200))]))

    for name, values in columns.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)
