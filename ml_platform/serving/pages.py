"""Pages: everything that can be asked of the model server, and which part of it answers."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Protocol

from ml_platform.modeling.promotion import Colour
from ml_platform.serving import admin, docs_page, open_inference
from ml_platform.serving.http import Receive, Refusal, Response, Scope
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Lane
from ml_platform.serving.metrics import SET_ASIDE, SHIPPED, WAITING, exposition
from ml_platform.serving.mlflow_scoring import MLflowScoring
from ml_platform.serving.open_inference import OpenInference
from ml_platform.serving.protocols import NamedRows, PredictionProtocol
from ml_platform.serving.routes import Page, Request
from ml_platform.serving.shipping import read_progress
from ml_platform.serving.slots import Slots

NAMED_ROWS = NamedRows()
MLFLOW_SCORING = MLflowScoring()


class PageServer(Protocol):
    """What the pages need of the server that they belong to."""

    slots: Slots
    journal: Journal
    tokens: Mapping[str, str]
    several_processes: bool
    draining: bool

    async def predict(
        self, protocol: PredictionProtocol, name: str, colour: Colour | None, scope: Scope, receive: Receive
    ) -> Response:
        """Answer a request for predictions, of a colour or of whatever is live."""

    def lane(self, name: str, colour: Colour | None) -> Lane:
        """The lane of a colour, or of whatever is live."""

    def check_access(self, name: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it is the platform that asks; nobody else may who has not the model's token."""

    def check_token(self, headers: Mapping[bytes, bytes]) -> None:
        """Let only the platform pass."""


class Pages:
    """The pages of one server."""

    def __init__(self, server: PageServer) -> None:
        """They belong to this server."""
        self._server = server

    def by_path(self) -> dict[tuple[str, str], Page]:
        """Every page, by method and path."""
        return {
            ("POST", "/models/{name}/predict"): self._named_rows,
            ("POST", "/models/{name}/colours/{colour}/predict"): self._of_a_colour,
            ("GET", "/models"): self._models,
            ("GET", "/models/{name}"): self._model,
            ("GET", "/healthz"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/docs"): self._docs,
            ("GET", "/docs/{file}"): self._docs_part,
            ("GET", "/v2"): self._v2,
            ("GET", "/v2/health/live"): self._v2_live,
            ("GET", "/v2/health/ready"): self._v2_ready,
            ("GET", "/v2/models/{name}"): self._v2_model,
            ("GET", "/v2/models/{name}/ready"): self._v2_model_ready,
            ("POST", "/v2/models/{name}/infer"): self._v2_infer,
            ("GET", "/v2/models/{name}/versions/{version}"): self._v2_model,
            ("GET", "/v2/models/{name}/versions/{version}/ready"): self._v2_model_ready,
            ("POST", "/v2/models/{name}/versions/{version}/infer"): self._v2_infer,
            ("POST", "/invocations"): self._invocations,
            ("POST", "/models/{name}/invocations"): self._invocations,
            ("GET", "/ping"): self._ping,
            ("GET", "/health"): self._ping,
            ("GET", "/version"): self._version,
            ("GET", "/admin/models/{name}"): self._admin_model,
            ("PUT", "/admin/models/{name}/colours/{colour}"): self._admin_load,
            ("PUT", "/admin/models/{name}/live"): self._admin_switch,
        }

    async def _named_rows(self, request: Request) -> Response:
        return await self._server.predict(NAMED_ROWS, request.named["name"], None, request.scope, request.receive)

    async def _of_a_colour(self, request: Request) -> Response:
        self._server.check_token(request.headers)
        colour = admin.a_colour(request.named["colour"])
        return await self._server.predict(NAMED_ROWS, request.named["name"], colour, request.scope, request.receive)

    async def _v2_infer(self, request: Request) -> Response:
        open_inference.check_is_json(request.headers)
        protocol = OpenInference(request.named.get("version"))
        return await self._server.predict(protocol, request.named["name"], None, request.scope, request.receive)

    async def _invocations(self, request: Request) -> Response:
        name = request.named.get("name") or self._meant(request)
        return await self._server.predict(MLFLOW_SCORING, name, None, request.scope, request.receive)

    def _meant(self, request: Request) -> str:
        """The model that an invocation without a name is for."""
        named = request.headers.get(b"x-model", b"").decode("latin-1")
        live = self._server.slots.names()
        if named or len(live) == 1:
            return named or live[0]
        if not live:
            raise Refusal(HTTPStatus.NOT_FOUND, "no model is live")
        msg = f"say which model: POST /models/NAME/invocations, or the header x-model: NAME; live are {', '.join(live)}"
        raise Refusal(HTTPStatus.BAD_REQUEST, msg)

    async def _models(self, _: Request) -> Response:
        return Response.of({"models": [self._summary(name) for name in self._server.slots.names()]})

    async def _model(self, request: Request) -> Response:
        lane = self._server.lane(request.named["name"], None)
        self._server.check_access(request.named["name"], request.headers)
        return Response.of(_details(lane))

    async def _metrics(self, _: Request) -> Response:
        log = read_progress(self._server.journal.folder)
        WAITING.set(log.waiting_bytes)
        SHIPPED.set(log.shipped_rows)
        SET_ASIDE.set(log.refused_rows)
        text = exposition(several_processes=self._server.several_processes)
        return Response(text, headers=((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),))

    async def _health(self, _: Request) -> Response:
        broken = self._server.slots.broken()
        log = read_progress(self._server.journal.folder)
        body = {
            "status": "draining" if self._server.draining else "broken" if broken else "ok",
            "models": self._server.slots.names(),
            "broken": broken,
            "log_dropped_rows": self._server.journal.dropped_rows,
            "log_waiting_bytes": log.waiting_bytes,
            "log_shipped_rows": log.shipped_rows,
            "log_refused_rows": log.refused_rows,
            "log_error": log.error,
        }
        return Response.of(body)

    async def _openapi(self, request: Request) -> Response:
        """Put together in a thread: the document has every field of every model."""
        from ml_platform.serving.openapi.document import document  # noqa: PLC0415 - few requests are for it

        base = f"{request.scope['scheme']}://{request.headers.get(b'host', b'').decode('latin-1')}"
        broken = self._server.slots.broken()
        lanes = [self._server.lane(name, None) for name in self._server.slots.names() if name not in broken]
        return Response.of(await asyncio.to_thread(document, lanes, set(self._server.tokens), base))

    async def _docs(self, _: Request) -> Response:
        return docs_page.page()

    async def _docs_part(self, request: Request) -> Response:
        return await asyncio.to_thread(docs_page.part, request.named["file"])

    async def _v2(self, _: Request) -> Response:
        return Response.of({"name": "ml_platform", "version": version("ml-platform"), "extensions": []})

    async def _v2_live(self, _: Request) -> Response:
        return Response.of({"live": True})

    async def _v2_ready(self, _: Request) -> Response:
        return self._unready() or Response.of({"ready": True})

    async def _v2_model(self, request: Request) -> Response:
        return Response.of(open_inference.metadata(self._live(request)))

    async def _v2_model_ready(self, request: Request) -> Response:
        return Response.of({"name": self._live(request).release.model, "ready": True})

    async def _ping(self, _: Request) -> Response:
        return self._unready() or Response(b"\n")

    async def _version(self, _: Request) -> Response:
        return Response(version("mlflow").encode())

    def _unready(self) -> Response | None:
        """Why the server should not be asked now, if so."""
        if self._server.draining:
            reason = "draining: this server is about to stop"
        elif broken := self._server.slots.broken():
            reason = f"cannot be served: {', '.join(broken)}; see the server's log"
        else:
            return None
        return Response.of({"error": reason}, HTTPStatus.SERVICE_UNAVAILABLE)

    def _live(self, request: Request) -> Lane:
        """The live lane of the model that is named, in the version that is named."""
        lane = self._server.lane(request.named["name"], None)
        open_inference.check_version(lane, request.named.get("version"))
        return lane

    def _summary(self, name: str) -> dict[str, Any]:
        seen = self._server.slots.observe(name)
        release = seen.slots[Colour(seen.live or "")].release
        return {"name": name, "version": release.version, "colour": seen.live, "digest": release.digest}

    async def _admin_model(self, request: Request) -> Response:
        self._server.check_token(request.headers)
        return Response.of(self._server.slots.observe(request.named["name"]).as_serving())

    async def _admin_load(self, request: Request) -> Response:
        self._server.check_token(request.headers)
        return await admin.load(self._server.slots, request)

    async def _admin_switch(self, request: Request) -> Response:
        self._server.check_token(request.headers)
        return await admin.switch(self._server.slots, request)


def _details(lane: Lane) -> dict[str, Any]:
    return {
        "name": lane.release.model,
        "colour": lane.colour,
        "release": lane.release,
        "engine": lane.predictor.manifest.engine,
        "fields": lane.predictor.fields,
        "example": lane.predictor.golden.rows[0],
    }
