"""Protocols: the ways in which clients ask for predictions, each from bytes to rows and from answers to bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec

from ml_platform.serving.http import Refusal, decode
from ml_platform.serving.lane import Answer, Lane

MAX_ROWS = 10_000


@dataclass(frozen=True)
class Asked:
    """What a body asks for: n rows as JSON objects, whose they are if it says, and the id it gives itself, if any."""

    rows: Sequence[bytes | msgspec.Raw]
    keys: Sequence[str | None] = ()
    request_id: str = ""


class PredictionProtocol(Protocol):
    """One way of asking."""

    def read(self, body: bytes, lane: Lane) -> Asked:
        """What the body asks for.

        Raises:
            Refusal: when it is not what the protocol says.
        """

    def write(self, lane: Lane, request_id: str, answer: Answer) -> bytes:
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

    def write(self, lane: Lane, request_id: str, answer: Answer) -> bytes:
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
