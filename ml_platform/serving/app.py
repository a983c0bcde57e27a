"""The model server: predictions for whoever may ask, changes only for who holds the platform's token."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from random import getrandbits
from typing import Any

import msgspec

from ml_platform.modeling.bundle import BundleError
from ml_platform.modeling.promotion import Colour, ConflictError, Release
from ml_platform.modeling.schema import BadRowsError
from ml_platform.serving.http import (
    HELD,
    TOKEN,
    GoneError,
    Header,
    Receive,
    Refusal,
    Response,
    Scope,
    Send,
    decode,
    read_body,
    respond,
)
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Answer, Lane, Question, UnanswerableError
from ml_platform.serving.metrics import REFUSED, WAITING, exposition
from ml_platform.serving.protocols import NamedRows, PredictionProtocol
from ml_platform.serving.slots import NotLoadedError, Slots
from ml_platform.serving.tokens import is_token

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
NAMED = re.compile(r"[\w.-]{1,128}", re.ASCII)
MOST_PROBLEMS = 100
NAMED_ROWS = NamedRows()
LOG = logging.getLogger(__name__)


class LoadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A release to load, where its bundle is, and the revision this was decided on."""

    release: Release
    bundle: str
    revision: int


class SwitchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The colour that shall be live."""

    colour: Colour | None
    revision: int


@dataclass
class Server:
    """The ASGI application.

    `tokens` are what some models ask of whoever wants predictions. While `draining`, the server answers and asks every
    client to connect elsewhere.
    """

    slots: Slots
    journal: Journal
    token: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    several_processes: bool = False
    draining: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(scope, receive)
        except GoneError:
            return
        except Refusal as refusal:
            REFUSED.labels(refusal.model, refusal.status.value).inc()
            response = Response.of(refusal.body, refusal.status, *refusal.headers)
        except Exception:
            LOG.exception("request failed")
            REFUSED.labels("", HTTPStatus.INTERNAL_SERVER_ERROR.value).inc()
            error = {"error": "internal error; see the server's log"}
            response = Response.of(error, HTTPStatus.INTERNAL_SERVER_ERROR)
        finally:
            HELD.let_go(scope)
        more: tuple[Header, ...] = ((b"connection", b"close"),) if self.draining else ()
        await respond(send, response, more)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        """What is asked of a model that another worker has just loaded waits until this one has it, too."""
        while True:
            self.slots.follow()
            try:
                return await self._route(scope, receive)
            except NotLoadedError:
                await self.slots.settle()

    async def _route(self, scope: Scope, receive: Receive) -> Response:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        match method, scope["path"].strip("/").split("/"):
            case "POST", ["models", name, "predict"]:
                return await self._predict(NAMED_ROWS, name, None, scope, receive)
            case "POST", ["models", name, "colours", colour, "predict"]:
                self._check_token(scope)
                return await self._predict(NAMED_ROWS, name, _colour(colour), scope, receive)
            case "GET", ["healthz"]:
                return self._health()
            case "GET", ["models"]:
                return Response.of({"models": [self._summary(name) for name in self.slots.names()]})
            case "GET", ["models", name]:
                return Response.of(self._details(name, dict(scope["headers"])))
            case "GET", ["metrics"]:
                WAITING.set(self.journal.waiting_bytes)
                text = exposition(several_processes=self.several_processes)
                return Response(text, headers=((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),))
            case method, ["admin", "models", *rest]:
                self._check_token(scope)
                return Response.of(await self._change(method, rest, scope, receive))
            case _:
                raise Refusal(HTTPStatus.NOT_FOUND, "no such page; try GET /models")

    async def _predict(
        self, protocol: PredictionProtocol, name: str, colour: Colour | None, scope: Scope, receive: Receive
    ) -> Response:
        began = time.perf_counter()
        lane = self._lane(name, colour)
        headers = dict(scope["headers"])
        try:
            is_platform = self._check_access(name, headers)
            asked = protocol.read(await read_body(scope, receive), lane)
            request_id = _request_id(headers.get(b"x-request-id"), asked.request_id)
            logged = not is_platform and colour is None
            question = Question(request_id=request_id, rows=asked.rows, keys=asked.keys, logged=logged, began=began)
            answer = await _answer_of(lane, question)
        except Refusal as refusal:
            refusal.model = name
            raise
        return Response(
            protocol.write(lane, request_id, answer), headers=(*lane.headers, (b"x-request-id", request_id.encode()))
        )

    def _lane(self, name: str, colour: Colour | None) -> Lane:
        try:
            return self.slots.lane(name, colour)
        except KeyError:
            if name in self.slots.broken():
                msg = f"model {name!r} cannot be served; see the server's log"
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, msg) from None
            raise Refusal(HTTPStatus.NOT_FOUND, f"no model {name!r} is live; GET /models lists them") from None

    def _health(self) -> Response:
        broken = self.slots.broken()
        body = {
            "status": "draining" if self.draining else "broken" if broken else "ok",
            "models": self.slots.names(),
            "broken": broken,
            "log_dropped_rows": self.journal.dropped_rows,
            "log_waiting_bytes": self.journal.waiting_bytes,
        }
        return Response.of(body)

    def _summary(self, name: str) -> dict[str, Any]:
        seen = self.slots.observe(name)
        release = seen.slots[Colour(seen.live or "")].release
        return {"name": name, "version": release.version, "colour": seen.live, "digest": release.digest}

    def _details(self, name: str, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
        lane = self._lane(name, None)
        self._check_access(name, headers)
        return {
            "name": name,
            "colour": lane.colour,
            "release": lane.release,
            "engine": lane.predictor.manifest.engine,
            "fields": lane.predictor.fields,
            "example": lane.predictor.golden.rows[0],
        }

    def _check_access(self, name: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it is the platform that asks.

        Raises:
            Refusal: when the model asks for a token and this is not it.
        """
        given = headers.get(b"authorization")
        if given and is_token(given, self.token):
            return True
        if name in self.tokens and not is_token(given or b"", self.tokens[name]):
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"model {name!r} needs its token: Authorization: Bearer ...", TOKEN)
        return False

    def _check_token(self, scope: Scope) -> None:
        if not is_token(dict(scope["headers"]).get(b"authorization", b""), self.token):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "this needs the platform's token: Authorization: Bearer ...", TOKEN)

    async def _change(self, method: str, rest: list[str], scope: Scope, receive: Receive) -> object:
        try:
            match method, rest:
                case "GET", [name]:
                    return self.slots.observe(name).as_serving()
                case "PUT", [name, "colours", colour]:
                    load = decode(await read_body(scope, receive), LoadRequest)
                    _check_names(load.release, name)
                    slots = await self.slots.load(load.release, Path(load.bundle), _colour(colour), load.revision)
                    return slots.as_serving()
                case "PUT", [name, "live"]:
                    switch = decode(await read_body(scope, receive), SwitchRequest)
                    return (await self.slots.switch(name, switch.colour, switch.revision)).as_serving()
        except ConflictError as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from error
        except BundleError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        raise Refusal(HTTPStatus.NOT_FOUND, "no such page")


async def _answer_of(lane: Lane, question: Question) -> Answer:
    try:
        return await lane.ask(question)
    except BadRowsError as error:
        problems = error.problems[:MOST_PROBLEMS]
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), problems=problems) from error
    except UnanswerableError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


def _check_names(release: Release, model: str) -> None:
    """Names and versions stand in headers and in answers as they are."""
    if release.model != model:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"this is a release of {release.model!r}, not of {model!r}")
    for named in (model, release.version):
        if not NAMED.fullmatch(named):
            msg = f"a model's name and version have 1 to 128 letters, digits, '.', '_' or '-': {named!r}"
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, msg)


def _request_id(header: bytes | None, given: str) -> str:
    """The id the client gave, or a new one; new ones sort by time, which keeps the log's index small."""
    named = header.decode("latin-1") if header else given
    if not named:
        return f"{time.time_ns():016x}{getrandbits(64):016x}"
    if not REQUEST_ID.fullmatch(named):
        msg = "a request id has 1 to 128 letters, digits, '.', ':', '_' or '-'"
        raise Refusal(HTTPStatus.BAD_REQUEST, msg)
    return named


def _colour(name: str) -> Colour:
    try:
        return Colour(name)
    except ValueError:
        raise Refusal(HTTPStatus.NOT_FOUND, f"no colour {name!r}; there are blue and green") from None
