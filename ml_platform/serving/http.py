"""HTTP: what every page of the model server shares: reading a body, refusing politely, answering."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Header = tuple[bytes, bytes]

MAX_BODY = 10 * 1024 * 1024
MAX_HELD = 256 * 1024 * 1024
"""Bytes of large bodies that a worker holds at a time."""
JSON = (b"content-type", b"application/json")
RETRY = (b"retry-after", b"1")
TOKEN = (b"www-authenticate", b"Bearer")
T = TypeVar("T")


class GoneError(Exception):
    """The client hung up before it had asked; there is nobody to answer."""


class Refusal(Exception):  # noqa: N818 - it is the client's error, not ours
    """An answer that is not 200. `model` is the model that was asked, where it is known."""

    model = ""

    def __init__(self, status: HTTPStatus, error: str, *headers: Header, **more: Any) -> None:
        """Keep status, headers and body."""
        super().__init__(error)
        self.status = status
        self.headers = headers
        self.body = {"error": error, **more}


class Response(msgspec.Struct, frozen=True):
    """An answer: bytes of JSON, unless its headers say otherwise."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[Header, ...] = (JSON,)

    @classmethod
    def of(cls, value: object, status: HTTPStatus = HTTPStatus.OK, *headers: Header) -> "Response":
        """A value as JSON."""
        return cls(msgspec.json.encode(value), status, (JSON, *headers))


@dataclass
class Held:
    """The large bodies that this process holds. Small ones are as many as there are connections."""

    limit: int = MAX_HELD
    held: int = 0

    def more(self, scope: Scope, count: int) -> None:
        """So many bytes more are held for a request.

        Raises:
            Refusal: when that is too much.
        """
        if self.held + count > self.limit:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at once; try again", RETRY)
        self.held += count
        scope[_HELD] = scope.get(_HELD, 0) + count

    def let_go(self, scope: Scope) -> None:
        """Nothing is held for a request any more."""
        self.held -= scope.pop(_HELD, 0)


_HELD = "ml_platform.held_bytes"
HELD = Held()


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request that says it is JSON. How long it may take is the connection's affair.

    Raises:
        Refusal: when it is not JSON, or too large.
        GoneError: when the client hangs up meanwhile.
    """
    _check_headers(dict(scope["headers"]))
    message = await _received(receive)
    if not message["more_body"]:
        body: bytes = message["body"]
        _check_size(len(body))
        return body
    whole = bytearray()
    while True:
        part = message["body"]
        HELD.more(scope, len(part))
        whole += part
        _check_size(len(whole))
        if not message["more_body"]:
            return bytes(whole)
        message = await _received(receive)


async def _received(receive: Receive) -> MutableMapping[str, Any]:
    message = await receive()
    if message["type"] != "http.request":
        raise GoneError
    return message


def _check_size(count: int) -> None:
    if count > MAX_BODY:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")


def _check_headers(headers: Mapping[bytes, bytes]) -> None:
    """What can be refused before it is sent is refused before it is sent."""
    given = headers.get(b"content-type", b"application/json")
    kind = given.partition(b";")[0].strip().lower()
    if kind not in (b"application/json", b"text/json") and not kind.endswith(b"+json"):
        shown = given[:80].decode("latin-1")
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send application/json, not {shown!r}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without a content-encoding")
    _check_size(int(headers.get(b"content-length", b"0")))


def decode(body: bytes, kind: type[T]) -> T:
    """The body as a value.

    Raises:
        Refusal: when it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        msg = f"the body is not what is expected here: {error}"
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, msg) from error
