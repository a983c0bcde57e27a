"""Personal data: what the spec keeps out of the log is nowhere in it, and nothing else changes."""

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.assets import drift_report
from ml_platform.modeling import bundle
from ml_platform.modeling.schema import Logged
from ml_platform.modeling.spec import Serving, SpecError
from ml_platform.modeling.training import ModelCode, fingerprint
from ml_platform.models.catalogue import model
from ml_platform.serving.privacy import Discretion, discretion, loggable
from ml_platform_tests.rows import random_rows
from ml_platform_tests.small_models import release

KEY = "a secret"
RULES = Discretion(frozenset({"name", "birth"}), frozenset({"customer", "amount"}), KEY.encode())
LOANS = model("loan_approval")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
NAMES = st.sampled_from(["name", "birth", "customer", "amount", "other", "näme"]) | st.text()


def _hash(value: bytes) -> str:
    return hmac.new(KEY.encode(), value, hashlib.sha256).hexdigest()


@settings(deadline=None)
@given(row=st.dictionaries(NAMES, JSON, max_size=6), is_ascii=st.booleans())
def test_excluded_columns_are_gone_hashed_ones_are_hashes_and_the_others_as_they_were(
    row: dict[str, Any], *, is_ascii: bool
) -> None:
    """However the JSON was written."""
    found = json.loads(loggable(json.dumps(row, ensure_ascii=is_ascii, indent=1).encode(), RULES))

    assert found.keys() == row.keys() - {"name", "birth"}
    for name, value in found.items():
        if name in {"customer", "amount"}:
            assert (value is None) if row[name] is None else (len(value) == 64)
        else:
            assert value == row[name]


def test_nothing_of_a_hidden_value_is_left() -> None:
    """Also when its name is written in another way, or twice."""
    row = rb'{"n\u0061me": "Alice", "name": "Bob", "customer": "Carol", "customer": "Dora", "other": 1.50}'

    found = loggable(row, RULES)

    assert not any(word in found for word in (b"Alice", b"Bob", b"Carol", b"Dora"))
    assert found == b'{"customer":"%b","other":1.50}' % _hash(b"Dora").encode()


def test_the_hash_is_that_of_the_value_not_of_how_it_was_written() -> None:
    """Whoever has the key can look for a value: a text by its UTF-8, a number as a float."""
    for written in (b'"\\u00e9"', '"é"'.encode()):
        assert json.loads(loggable(b'{"customer":%b}' % written, RULES)) == {"customer": _hash("é".encode())}
    for written in (b"3", b"3.0", b"30e-1"):
        assert json.loads(loggable(b'{"amount": %b }' % written, RULES)) == {"amount": _hash(b"3.0")}
    assert json.loads(loggable(b'{"amount": null}', RULES)) == {"amount": None}


def test_without_a_wish_there_are_no_rules() -> None:
    """Rows are written down as they are."""
    assert discretion(ModelCode.of(LOANS).inputs, "") is None


def test_what_is_no_json_object_is_never_written_down() -> None:
    """The caller hears of it."""
    for row in (b"[1]", b"{", b""):
        with pytest.raises(msgspec.DecodeError):
            loggable(row, RULES)


def test_the_spec_reaches_the_bundle_and_takes_a_new_training() -> None:
    """Otherwise an agreement would wait for new rows; answers stay what they are."""
    spec = replace(LOANS, serving=Serving(exclude=("dep",), hash=("price",)))
    plain, discreet = ModelCode.of(LOANS), ModelCode.of(spec)
    rows = random_rows(plain.fields, 50, 1)

    assert {f.name: f.logged for f in discreet.inputs if f.logged is not Logged.PLAIN} == {
        "dep": Logged.EXCLUDED,
        "price": Logged.HASHED,
    }
    assert discretion(discreet.inputs, KEY) == Discretion(frozenset({"dep"}), frozenset({"price"}), KEY.encode())
    assert fingerprint(plain, rows)[0] == fingerprint(discreet, rows)[0]
    assert fingerprint(plain, rows)[1] != fingerprint(discreet, rows)[1]
    with pytest.raises(ValueError, match="ML_PLATFORM_HASH_KEY is not set, and price must be hashed"):
        discretion(discreet.inputs, "")


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        (
            Serving(exclude=("nmae",)),
            "'loan_approval', serving.exclude: no request has a column 'nmae'; choose among atotinc, cons",
        ),
        (Serving(hash=("male",)), "'loan_approval', serving.hash: no request has a column 'male'"),
        (Serving(exclude=("dep",), hash=("dep",)), "'loan_approval', serving: dep cannot be in exclude and in hash"),
    ],
)
def test_a_column_that_no_request_has_is_named(serving: Serving, message: str) -> None:
    """Model, field and remedy: a misspelt column would be logged in silence."""
    with pytest.raises(SpecError, match=message):
        ModelCode.of(replace(LOANS, serving=serving))


def test_the_drift_report_compares_what_is_logged_as_it_is(tmp_path: Path) -> None:
    """Neither an excluded column nor a hash can be held against the rows trained on."""
    made, folder = release(tmp_path, "1")
    manifest = bundle.check(folder, made.digest)
    (size,) = manifest.fields
    fields = (
        size,
        replace(size, name="secret", logged=Logged.EXCLUDED),
        replace(size, name="customer", logged=Logged.HASHED),
    )
    manifest = msgspec.structs.replace(manifest, fields=fields)
    rules = discretion(fields, KEY)
    assert rules
    logged = loggable(b'{"size": 1.5, "secret": 2.5, "customer": 3.5}', rules)

    plain = drift_report.comparable(manifest, list(json.loads(logged)))

    assert plain == ["size"]
    assert drift_report.comparable(manifest, []) == []
