"""The OpenAPI document: every operation of the server as it is now, with the fields of the models that are live."""

import re
from collections.abc import Collection, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from ml_platform.modeling.promotion import Release, Serving
from ml_platform.modeling.schema import Field, Problem
from ml_platform.serving.admin import LoadRequest, SwitchRequest
from ml_platform.serving.docs_page import FILES
from ml_platform.serving.lane import Lane
from ml_platform.serving.openapi.model_pages import ID, REFUSALS, TEXT, ModelPages, headers
from ml_platform.serving.openapi.parts import (
    Json,
    answer,
    array,
    body,
    operation,
    parameter,
    record,
    reference,
    refusals,
)

SERVER, PLATFORM = "server", "platform"
COMPONENTS = (LoadRequest, SwitchRequest, Serving, Release, Field, Problem)
COUNT: Json = {"type": "integer", "minimum": 0}
UNREADY = HTTPStatus.SERVICE_UNAVAILABLE


def document(lanes: Sequence[Lane], protected: Collection[str], base: str) -> Json:
    """The document.

    Args:
        lanes: what is live.
        protected: names of the models whose predictions need a token.
        base: the server's address, for commands to copy.
    """
    models = [
        ModelPages(lane, base, ("model", "platform") if lane.release.model in protected else ()) for lane in lanes
    ]
    paths: Json = {}
    for pages in models:
        paths |= pages.paths()
    paths |= _server_pages() | _mlflow_pages(models) | _platform_pages()
    for path, methods in paths.items():
        for method, described in methods.items():
            described["operationId"] = re.sub(r"\W+", "_", f"{method}{path}").strip("_")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Model server",
            "version": version("ml-platform"),
            "description": 'Predictions of the models that are live, in three protocols. Errors are `{"error": ...}`.',
        },
        "tags": [{"name": name} for name in (*(pages.name for pages in models), SERVER, PLATFORM)],
        "paths": paths,
        "components": {
            "schemas": {
                **_schemas(),
                **{name: schema for pages in models for name, schema in pages.components().items()},
            },
            "responses": refusals(),
            "securitySchemes": {
                "model": {"type": "http", "scheme": "bearer", "description": "The token of one model"},
                "platform": {"type": "http", "scheme": "bearer", "description": "The platform's own token"},
            },
        },
    }


def _schemas() -> Json:
    _, found = msgspec.json.schema_components(COMPONENTS, ref_template="#/components/schemas/{name}")
    error: Json = record({"error": TEXT, "problems": array(reference("Problem"))}, optional=["problems"])
    return {**found, "Error": error}


def _server_pages() -> Json:
    summary = record({"name": TEXT, "version": TEXT, "colour": TEXT, "digest": TEXT})
    health = record(
        {
            "status": {"enum": ["ok", "broken", "draining"]},
            "models": array(TEXT),
            "broken": array(TEXT),
            "log_dropped_rows": COUNT,
            "log_waiting_bytes": COUNT,
        }
    )
    server = record({"name": TEXT, "version": TEXT, "extensions": array(TEXT)})
    file = parameter("file", "path", {"enum": list(FILES)}, "A part of the page")
    return {
        "/models": _get("The models that are live", answer("Their versions", record({"models": array(summary)}))),
        "/healthz": _get("How the server is", answer("Its state", health)),
        "/metrics": _get("Metrics for Prometheus", answer("The metrics", TEXT, "text/plain")),
        "/openapi.json": _get("This document", answer("The document", {"type": "object"})),
        "/docs": _get("This document as a page", answer("The page", TEXT, "text/html"), HTTPStatus.NOT_FOUND),
        "/docs/{file}": _get("A part of the page", _page_part(), HTTPStatus.NOT_FOUND, parameters=[file]),
        "/v2": _get("Open Inference Protocol: the server", answer("Name and version", server)),
        "/v2/health/live": _get("Open Inference Protocol: whether it answers", answer("It does", _yes("live"))),
        "/v2/health/ready": _get(
            "Open Inference Protocol: whether every model can answer", answer("They can", _yes("ready")), UNREADY
        ),
    }


def _mlflow_pages(models: Sequence[ModelPages]) -> Json:
    ping = _get("MLflow: whether every model can answer", answer("They can; the body is an empty line"), UNREADY)
    return {
        "/ping": ping,
        "/health": {"get": dict(ping["get"])},
        "/version": _get("MLflow: whose protocol this is", answer("MLflow's version")),
        "/invocations": {"post": _invocations(models)},
    }


def _invocations(models: Sequence[ModelPages]) -> Json:
    names: Json = {"enum": [pages.name for pages in models]} if models else TEXT
    which = parameter("x-model", "header", names, "The model, unless only one is live", required=len(models) > 1)
    bodies: Json = {"anyOf": [reference(f"{pages.name}_invocation") for pages in models]} if models else {}
    answers: Json = {"anyOf": [pages.invoked() for pages in models]} if models else {}
    return operation(
        SERVER,
        "MLflow's scoring protocol, where it does not name a model",
        answer("The predictions", answers, headers=headers()),
        *REFUSALS,
        description="When several models are live, `x-model` says which; `/models/NAME/invocations` is the same.",
        parameters=[which, ID],
        takes=body(bodies, models[0].invocations() if len(models) == 1 else {}),
        tokens=tuple({token: None for pages in models for token in pages.tokens}),
    )


def _platform_pages() -> Json:
    name = parameter("name", "path", TEXT, "The model")
    colour = parameter("colour", "path", reference("Colour"), "Where to load it")
    serving = answer("What is served of it", reference("Serving"))
    load, switch = reference("LoadRequest"), reference("SwitchRequest")
    return {
        "/admin/models/{name}": {
            "get": operation(PLATFORM, "What is served of a model", serving, parameters=[name], tokens=["platform"])
        },
        "/admin/models/{name}/colours/{colour}": {
            "put": operation(
                PLATFORM, "Load a release into a colour that is not live", serving, HTTPStatus.CONFLICT,
                HTTPStatus.NOT_FOUND, parameters=[name, colour], takes=body(load, {}), tokens=["platform"],
            )
        },
        "/admin/models/{name}/live": {
            "put": operation(
                PLATFORM, "Send live traffic to a colour, or to none", serving, HTTPStatus.CONFLICT,
                parameters=[name], takes=body(switch, {}), tokens=["platform"],
            )
        },
    }  # fmt: skip


def _get(summary: str, ok: Json, *errors: HTTPStatus, **more: Any) -> Json:
    return {"get": operation(SERVER, summary, ok, *errors, **more)}


def _page_part() -> Json:
    return {"description": "The part", "content": {kind: {"schema": TEXT} for kind in FILES.values()}}


def _yes(name: str) -> Json:
    return record({name: {"const": True}})
