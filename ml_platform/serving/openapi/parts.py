"""Parts that every operation of the OpenAPI document is put together from."""

import shlex
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

Json = dict[str, Any]

JSON = "application/json"
REQUEST_ID = {"type": "string", "pattern": r"^[A-Za-z0-9_.:-]{0,128}$"}
ERRORS = {
    HTTPStatus.BAD_REQUEST: "The request id has other characters, or it is not said which model is meant",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong",
    HTTPStatus.NOT_FOUND: "This model, version, colour or file is not there",
    HTTPStatus.REQUEST_TIMEOUT: "The body took too long to arrive",
    HTTPStatus.CONFLICT: "Somebody else changed it since it was looked at, or the colour is live or empty",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than 10 MiB",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not JSON",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The body is not what is expected, or a row breaks a rule: `problems` has which",
    HTTPStatus.SERVICE_UNAVAILABLE: "The model cannot be served, or the server is about to stop",
}
BODY_ERRORS = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def reference(name: str, kind: str = "schemas") -> Json:
    """A component by its name."""
    return {"$ref": f"#/components/{kind}/{name}"}


def record(properties: Mapping[str, Json], *, optional: Sequence[str] = (), closed: bool = False) -> Json:
    """An object with these properties; a closed one has no others."""
    required = [name for name in properties if name not in optional]
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": dict(properties), "required": required, **more}


def array(items: Json, **limits: int) -> Json:
    """A list."""
    return {"type": "array", "items": items, **limits}


def body(schema: Json, examples: Mapping[str, object]) -> Json:
    """A body of JSON that a request must have."""
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {JSON: {"schema": schema, **({"examples": shown} if shown else {})}}}


def answer(description: str, schema: Json | None = None, content_type: str = JSON, headers: Json | None = None) -> Json:
    """What a request that succeeds is answered with."""
    content = {content_type: {"schema": schema} if schema else {}}
    return {"description": description, "content": content, **({"headers": headers} if headers else {})}


def operation(
    tag: str,
    summary: str,
    ok: Json,
    *errors: HTTPStatus,
    description: str = "",
    parameters: Sequence[Json] = (),
    takes: Json | None = None,
    tokens: Sequence[str] = (),
) -> Json:
    """An operation; `takes` is its body, `tokens` are those of which it needs one."""
    wanted = sorted({*errors, *(BODY_ERRORS if takes else ()), *((HTTPStatus.UNAUTHORIZED,) if tokens else ())})
    refusals = {str(status.value): reference(status.name.lower(), "responses") for status in wanted}
    return {
        "tags": [tag],
        "summary": summary,
        **({"description": description} if description else {}),
        **({"parameters": list(parameters)} if parameters else {}),
        **({"requestBody": takes} if takes else {}),
        **({"security": [{token: []} for token in tokens]} if tokens else {}),
        "responses": {"200": ok, **refusals},
    }


def parameter(name: str, where: str, schema: Json, description: str, *, required: bool = True) -> Json:
    """A parameter in the path or the headers."""
    return {"name": name, "in": where, "required": required, "schema": schema, "description": description}


def refusals() -> Json:
    """What errors are answered with, by the status' name."""
    error = {JSON: {"schema": reference("Error")}}
    return {status.name.lower(): {"description": said, "content": error} for status, said in ERRORS.items()}


def curl(url: str, example: object) -> str:
    """A command to copy, as Markdown."""
    data = shlex.quote(msgspec.json.encode(example).decode())
    return f"```sh\ncurl -s {shlex.quote(url)} -H 'content-type: application/json' -d {data}\n```"
