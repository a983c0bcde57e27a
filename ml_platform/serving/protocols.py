"""Protocols: the ways in which clients ask for predictions, each from bytes to rows and from answers to bytes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import msgspec

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field
from ml_platform.serving.http import Refusal, decode
from ml_platform.serving.lane import Answer, Lane
from ml_platform.serving.reading import WHOLE_LIMIT

MAX_ROWS = 10_000
NAN = b"NaN"
TEXT_OR_NAN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|\bNaN\b', re.DOTALL)
"""A text that never ends is taken whole, or a body of quotes would be read once for each of them."""
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class Asked(msgspec.Struct, frozen=True):
    """What a body asks for.

    `rows` are n JSON objects, `keys` is empty or says whose each row is, `request_id` is the id that the body gives
    itself, if any, and `outputs` are the parts of the answer that it wants, all when empty.
    """

    rows: Sequence[bytes | msgspec.Raw]
    keys: Sequence[str | None] = ()
    request_id: str = ""
    outputs: Sequence[str] = ()


class PredictionProtocol(Protocol):
    """One way of asking."""

    def read(self, body: bytes, lane: Lane) -> Asked:
        """What the body asks for.

        Raises:
            Refusal: when it is not what the protocol says.
        """

    def write(self, lane: Lane, asked: Asked, request_id: str, answer: Answer) -> bytes:
        """The body of the answer."""


class _Named(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    rows: list[msgspec.Raw]
    keys: list[str | None] | None = None


class NamedRows:
    """The platform's own: `{"rows": [{"field": value, ...}, ...], "keys": ["whose", ...]}`."""

    def read(self, body: bytes, lane: Lane) -> Asked:  # noqa: ARG002 - other protocols need to know the fields
        """What the body asks for."""
        named = decode(body, _Named)
        check_count(len(named.rows), named.keys)
        return Asked(named.rows, named.keys or ())

    def write(self, lane: Lane, asked: Asked, request_id: str, answer: Answer) -> bytes:  # noqa: ARG002 - has no parts
        """The body of the answer."""
        who = lane.release
        return b'{"model":"%b","version":"%b","colour":"%b","request_id":"%b","predictions":%b}' % (
            who.model.encode(), who.version.encode(), lane.colour.encode(), request_id.encode(), answer.as_json,
        )  # fmt: skip


def check_count(rows: int, keys: Sequence[str | None] | None) -> None:
    """Hold the number of rows and keys against the limits.

    Raises:
        Refusal: when there are too few or too many.
    """
    if not 0 < rows <= MAX_ROWS:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"send 1 to {MAX_ROWS} rows, not {rows}")
    if keys is not None and len(keys) != rows:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"send as many keys as rows, or none: {len(keys)} for {rows}")


def decode_pythons(body: bytes, kind: type[T]) -> T:
    """The body as a value; NaN, which Python's own writer leaves in JSON for a missing number, is null.

    Raises:
        Refusal: when it is something else.
    """
    if NAN in body:
        body = TEXT_OR_NAN.sub(lambda found: b"null" if found[0] == NAN else found[0], body)
    return decode(body, kind)


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns of n values each as n rows.

    Raises:
        Refusal: when they are not equally long.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        shown = ", ".join(f"{name!r} {len(values)}" for name, values in columns.items())
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"give every column as many values as the others: {shown}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def as_json(rows: Iterable[dict[str, Any]], fields: Sequence[Field]) -> list[bytes]:
    """Rows from pandas or NumPy as JSON objects.

    A column with gaps has no other choice there than floats for whole numbers and flags, and NaT for a missing time.
    """
    back = {field.name: how for field in fields if (how := _way_back(field))}
    written = []
    for row in rows:
        for name in back.keys() & row.keys():
            row[name] = back[name](row[name])
        written.append(_encode(row))
    return written


def _way_back(field: Field) -> Callable[[Any], Any] | None:
    if field.dtype == "bool":
        return lambda value: bool(value) if type(value) in (int, float) and value in (0, 1) else value
    if field.is_whole:
        return lambda value: int(value) if type(value) is float and _is_whole(value) else value
    if field.kind is Kind.TIME:
        return lambda value: None if value == "NaT" else value
    return None


def _is_whole(value: float) -> bool:
    return value.is_integer() and abs(value) <= WHOLE_LIMIT
