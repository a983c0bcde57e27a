"""The model server: predictions for whoever may ask, changes only for who holds the platform's token."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from random import getrandbits

from ml_platform.modeling.promotion import Colour
from ml_platform.modeling.schema import BadRowsError
from ml_platform.serving.http import (
    HELD,
    TOKEN,
    GoneError,
    Receive,
    Refusal,
    Response,
    Scope,
    read_body,
)
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Answer, Lane, Question, UnanswerableError
from ml_platform.serving.metrics import REFUSED
from ml_platform.serving.pages import NAMED_ROWS, Pages
from ml_platform.serving.protocols import PredictionProtocol
from ml_platform.serving.routes import Request, Routes
from ml_platform.serving.slots import NotLoadedError, Slots
from ml_platform.serving.tokens import is_token

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
MOST_PROBLEMS = 100
LOG = logging.getLogger(__name__)


@dataclass
class Server:
    """The model server, without its connections.

    `tokens` are what some models ask of whoever wants predictions. While `draining`, the server answers and asks every
    client to connect elsewhere.
    """

    slots: Slots
    journal: Journal
    token: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    several_processes: bool = False
    draining: bool = False

    def __post_init__(self) -> None:
        """Lay out the pages."""
        self._routes = Routes(Pages(self).by_path())

    async def answer(self, scope: Scope, receive: Receive) -> Response | None:
        """Answer one request, which comes as ASGI has it; nobody is left to be answered when the client hung up."""
        try:
            return await self._answer_as_switched(scope, receive)
        except GoneError:
            return None
        except Refusal as refusal:
            REFUSED.labels(refusal.model, refusal.status.value).inc()
            return Response.of(refusal.body, refusal.status, *refusal.headers)
        except Exception:
            LOG.exception("request failed")
            REFUSED.labels("", HTTPStatus.INTERNAL_SERVER_ERROR.value).inc()
            error = {"error": "internal error; see the server's log"}
            return Response.of(error, HTTPStatus.INTERNAL_SERVER_ERROR)
        finally:
            HELD.let_go(scope)

    async def _answer_as_switched(self, scope: Scope, receive: Receive) -> Response:
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
            case "POST", ["models", name, "predict"]:  # First, since most requests are for it.
                return await self.predict(NAMED_ROWS, name, None, scope, receive)
        if scope["path"].strip("/").startswith("admin"):  # Nothing tells others which pages there are.
            self.check_token(dict(scope["headers"]))
        page, named = self._routes.find(method, scope["path"])
        return await page(Request(scope, receive, named))

    async def predict(
        self, protocol: PredictionProtocol, name: str, colour: Colour | None, scope: Scope, receive: Receive
    ) -> Response:
        """Answer a request for predictions, of a colour or of whatever is live.

        Raises:
            Refusal: when it cannot be answered.
        """
        began = time.perf_counter()
        lane = self.lane(name, colour)
        headers = dict(scope["headers"])
        try:
            is_platform = self.check_access(name, headers)
            asked = protocol.read(await read_body(scope, receive), lane)
            request_id = _request_id(headers.get(b"x-request-id"), asked.request_id)
            logged = not is_platform and colour is None
            question = Question(request_id=request_id, rows=asked.rows, keys=asked.keys, logged=logged, began=began)
            answer = await _answer_of(lane, question)
        except Refusal as refusal:
            refusal.model = name
            raise
        return Response(
            protocol.write(lane, asked, request_id, answer),
            headers=(*lane.headers, (b"x-request-id", request_id.encode())),
        )

    def lane(self, name: str, colour: Colour | None) -> Lane:
        """The lane of a colour, or of whatever is live.

        Raises:
            Refusal: when there is none.
        """
        try:
            return self.slots.lane(name, colour)
        except KeyError:
            if name in self.slots.broken():
                msg = f"model {name!r} cannot be served; see the server's log"
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, msg) from None
            raise Refusal(HTTPStatus.NOT_FOUND, f"no model {name!r} is live; GET /models lists them") from None

    def check_access(self, name: str, headers: Mapping[bytes, bytes]) -> bool:
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

    def check_token(self, headers: Mapping[bytes, bytes]) -> None:
        """Let only the platform pass.

        Raises:
            Refusal: when it is somebody else who asks.
        """
        if not is_token(headers.get(b"authorization", b""), self.token):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "this needs the platform's token: Authorization: Bearer ...", TOKEN)


async def _answer_of(lane: Lane, question: Question) -> Answer:
    try:
        return await lane.ask(question)
    except BadRowsError as error:
        problems = error.problems[:MOST_PROBLEMS]
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), problems=problems) from error
    except UnanswerableError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


def _request_id(header: bytes | None, given: str) -> str:
    """The id in the body, in the header, or a new one; new ones sort by time, which keeps the log's index small."""
    named = [name for name in (given, (header or b"").decode("latin-1")) if name]
    if not named:
        return f"{time.time_ns():016x}{getrandbits(64):016x}"
    if not all(map(REQUEST_ID.fullmatch, named)):
        msg = "a request id has 1 to 128 letters, digits, '.', ':', '_' or '-'"
        raise Refusal(HTTPStatus.BAD_REQUEST, msg)
    return named[0]
