"""Administration: how the platform loads releases and switches live traffic."""

import re
from collections.abc import Awaitable
from http import HTTPStatus
from pathlib import Path

import msgspec

from ml_platform.modeling.bundle import BundleError
from ml_platform.modeling.promotion import Colour, ConflictError, Release
from ml_platform.serving.http import Refusal, Response, decode, read_body
from ml_platform.serving.routes import Request
from ml_platform.serving.slots import ModelSlots, Slots

NAMED = re.compile(r"[\w.-]{1,128}", re.ASCII)


class LoadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A release to load, where its bundle is, and the revision this was decided on."""

    release: Release
    bundle: str
    revision: int


class SwitchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The colour that shall be live."""

    colour: Colour | None
    revision: int


async def load(slots: Slots, request: Request) -> Response:
    """Load a release into a colour."""
    asked = decode(await read_body(request.scope, request.receive), LoadRequest)
    _check_names(asked.release, request.named["name"])
    colour = a_colour(request.named["colour"])
    return await _changed(slots.load(asked.release, Path(asked.bundle), colour, asked.revision))


async def switch(slots: Slots, request: Request) -> Response:
    """Send live traffic to a colour, or to none."""
    asked = decode(await read_body(request.scope, request.receive), SwitchRequest)
    return await _changed(slots.switch(request.named["name"], asked.colour, asked.revision))


def a_colour(name: str) -> Colour:
    """The colour of that name.

    Raises:
        Refusal: when there is none.
    """
    try:
        return Colour(name)
    except ValueError:
        raise Refusal(HTTPStatus.NOT_FOUND, f"no colour {name!r}; there are blue and green") from None


async def _changed(change: Awaitable[ModelSlots]) -> Response:
    try:
        return Response.of((await change).as_serving())
    except ConflictError as error:
        raise Refusal(HTTPStatus.CONFLICT, str(error)) from error
    except BundleError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error


def _check_names(release: Release, model: str) -> None:
    """Names and versions stand in headers and in answers as they are."""
    if release.model != model:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"this is a release of {release.model!r}, not of {model!r}")
    for named in (model, release.version):
        if not NAMED.fullmatch(named):
            msg = f"a model's name and version have 1 to 128 letters, digits, '.', '_' or '-': {named!r}"
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, msg)
