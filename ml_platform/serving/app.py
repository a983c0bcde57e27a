"""The model server: predictions for anybody on this machine, changes only for who holds the token."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from ml_platform.modeling.bundle import BundleError
from ml_platform.modeling.promotion import Colour, ConflictError, Release
from ml_platform.modeling.schema import BadRowsError
from ml_platform.serving.prediction_log import Answered, PredictionLog
from ml_platform.serving.slots import Slots

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY = 10 * 1024 * 1024
MAX_ROWS = 10_000
LOG = logging.getLogger(__name__)
T = TypeVar("T")


class PredictRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Rows with named fields; `keys` says whose they are, for joining outcomes later."""

    rows: list[dict[str, Any]]
    keys: list[str] | None = None


class LoadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A release to load, where its bundle is, and the revision this was decided on."""

    release: Release
    bundle: str
    revision: int


class SwitchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The colour that shall be live."""

    colour: Colour | None
    revision: int


class Refusal(Exception):  # noqa: N818 - it is the client's error, not ours
    """An answer that is not 200."""

    def __init__(self, status: HTTPStatus, error: str, **more: Any) -> None:
        """Keep status and body."""
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **more}


@dataclass(frozen=True)
class Server:
    """The ASGI application."""

    slots: Slots
    log: PredictionLog
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            status, body = HTTPStatus.OK, await self._route(scope, receive)
        except Refusal as refusal:
            status, body = refusal.status, refusal.body
        except Exception:
            LOG.exception("request failed")
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error; see the server's log"}
        await _respond(send, status, body)

    async def _route(self, scope: Scope, receive: Receive) -> object:
        match scope["method"], scope["path"].strip("/").split("/"):
            case "GET", ["healthz"]:
                return {"status": "ok", "models": self.slots.names(), "log_dropped_rows": self.log.dropped}
            case "GET", ["models"]:
                return {"models": [self._summary(name) for name in self.slots.names()]}
            case "GET", ["models", name]:
                return self._details(name)
            case "POST", ["models", name, "predict"]:
                return await self._predict(name, None, await _read(receive), logged=not self._has_token(scope))
            case "POST", ["models", name, "colours", colour, "predict"]:
                return await self._predict(name, _colour(colour), await _read(receive), logged=False)
            case method, ["admin", "models", *rest]:
                self._check_token(scope)
                return await self._change(method, rest, receive)
            case _:
                raise Refusal(HTTPStatus.NOT_FOUND, "no such page; try GET /models")

    def _summary(self, name: str) -> dict[str, Any]:
        colour, release, _ = self.slots.predictor(name)
        return {"name": name, "version": release.version, "colour": colour, "digest": release.digest}

    def _details(self, name: str) -> dict[str, Any]:
        try:
            colour, release, predictor = self.slots.predictor(name)
        except KeyError:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no model {name!r} is live; GET /models lists them") from None
        return {
            "name": name,
            "colour": colour,
            "release": release,
            "fields": predictor.fields,
            "example": predictor.golden.rows[0],
        }

    async def _predict(self, name: str, colour: Colour | None, body: bytes, *, logged: bool) -> dict[str, Any]:
        started = time.perf_counter()
        request = _decode(body, PredictRequest)
        if not 0 < len(request.rows) <= MAX_ROWS:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"send 1 to {MAX_ROWS} rows, not {len(request.rows)}")
        if request.keys is not None and len(request.keys) != len(request.rows):
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "send as many keys as rows, or none")
        try:
            colour_used, release, predictor = self.slots.predictor(name, colour)
        except KeyError:
            raise Refusal(HTTPStatus.NOT_FOUND, f"no model {name!r} is live; GET /models lists them") from None
        try:
            answers = await asyncio.to_thread(predictor.answer, request.rows)
        except BadRowsError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), problems=error.problems[:100]) from error
        request_id = uuid4()
        if logged:
            self.log.add(
                Answered(
                    request_id=request_id,
                    at=datetime.now(UTC),
                    model=name,
                    version=release.version,
                    colour=colour_used,
                    keys=request.keys or (),
                    rows=request.rows,
                    answers=answers,
                    latency_ms=(time.perf_counter() - started) * 1e3,
                )
            )
        return {
            "model": name,
            "version": release.version,
            "colour": colour_used,
            "request_id": str(request_id),
            "predictions": answers,
        }

    def _has_token(self, scope: Scope) -> bool:
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        return bool(self.token) and hmac.compare_digest(given, f"Bearer {self.token}".encode())

    def _check_token(self, scope: Scope) -> None:
        if not self._has_token(scope):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "changes need the token: Authorization: Bearer ...")

    async def _change(self, method: str, rest: list[str], receive: Receive) -> object:
        try:
            match method, rest:
                case "GET", [name]:
                    return self.slots.observe(name).as_serving()
                case "PUT", [_, "colours", colour]:
                    load = _decode(await _read(receive), LoadRequest)
                    folder = Path(load.bundle)
                    slots = await asyncio.to_thread(
                        self.slots.load, load.release, folder, _colour(colour), load.revision
                    )
                    return slots.as_serving()
                case "PUT", [name, "live"]:
                    switch = _decode(await _read(receive), SwitchRequest)
                    return self.slots.switch(name, switch.colour, switch.revision).as_serving()
        except ConflictError as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from error
        except BundleError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        raise Refusal(HTTPStatus.NOT_FOUND, "no such page")


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")
        if not message.get("more_body"):
            return bytes(body)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body is not what is expected here: {error}") from error


def _colour(name: str) -> Colour:
    try:
        return Colour(name)
    except ValueError:
        raise Refusal(HTTPStatus.NOT_FOUND, f"no colour {name!r}; there are blue and green") from None


async def _respond(send: Send, status: HTTPStatus, body: object) -> None:
    data = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": data})
