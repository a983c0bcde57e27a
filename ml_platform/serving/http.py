"""HTTP: what every page of the model server shares: reading a body, refusing politely, answering."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_BODY = 10 * 1024 * 1024
BODY_SECONDS = 10.0
JSON = (b"content-type", b"application/json")
T = TypeVar("T")


class Refusal(Exception):  # noqa: N818 - it is the client's error, not ours
    """An answer that is not 200."""

    def __init__(self, status: HTTPStatus, error: str, headers: tuple[Header, ...] = (), **more: Any) -> None:
        """Keep status, body, and headers beside JSON's."""
        super().__init__(error)
        self.status = status
        self.headers = headers
        self.body = {"error": error, **more}


@dataclass(frozen=True)
class Response:
    """An answer: bytes of JSON, unless its headers say otherwise."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[Header, ...] = (JSON,)

    @classmethod
    def of(cls, value: object, status: HTTPStatus = HTTPStatus.OK, headers: tuple[Header, ...] = ()) -> "Response":
        """A value as JSON."""
        return cls(msgspec.json.encode(value), status, (JSON, *headers))


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request that says it is JSON.

    Raises:
        Refusal: when it is not JSON, too large, or too slow in coming.
    """
    _check_content_type(dict(scope["headers"]).get(b"content-type", b"application/json"))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _whole(receive)
    except TimeoutError:
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_SECONDS:g} s") from None


async def _whole(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = bytearray(body)
        while message.get("more_body"):
            message = await receive()
            parts += message.get("body", b"")
            if len(parts) > MAX_BODY:
                break
        body = bytes(parts)
    if len(body) > MAX_BODY:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")
    return body


def _check_content_type(given: bytes) -> None:
    kind = given.partition(b";")[0].strip().lower()
    if kind not in (b"application/json", b"text/json") and not kind.endswith(b"+json"):
        shown = given[:80].decode("latin-1")
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send application/json, not {shown!r}")


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


async def respond(send: Send, response: Response, more: tuple[Header, ...] = ()) -> None:
    """Send the answer."""
    length = (b"content-length", b"%d" % len(response.body))
    headers = [*response.headers, length, *more]
    await send({"type": "http.response.start", "status": response.status.value, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
