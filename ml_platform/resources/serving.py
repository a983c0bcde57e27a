"""Model serving: the door to the local model server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import msgspec

from ml_platform.modeling.promotion import Colour, ConflictError, PromotionError, Release, Serving
from ml_platform.resources.unavailable import UnavailableError

TIMEOUT_S = 60.0


class LocalServing(dg.ConfigurableResource[None]):
    """The model server on this machine; changes need its token."""

    url: str
    token: str

    def observe(self, model: str) -> Serving:
        """What is served of a model now."""
        return self._change("GET", f"/admin/models/{model}", None)

    def live_versions(self) -> dict[str, str]:
        """The version of each model that answers."""
        response = self._send("GET", "/models", None)
        if response.status_code != httpx.codes.OK:
            msg = f"/models: the model server answered {response.status_code}: {_error(response)}"
            raise UnavailableError(msg)
        return {model["name"]: str(model["version"]) for model in response.json()["models"]}

    def load(self, release: Release, bundle: Path, colour: Colour, revision: int) -> Serving:
        """Load a release into the idle colour.

        Raises:
            PromotionError: when the bundle cannot be loaded.
            ConflictError: when the revision is no longer the current one.
        """
        body = {"release": release, "bundle": str(bundle), "revision": revision}
        return self._change("PUT", f"/admin/models/{release.model}/colours/{colour}", body)

    def switch(self, model: str, colour: Colour | None, revision: int) -> Serving:
        """Send live traffic to a colour, or to none.

        Raises:
            ConflictError: when the revision is no longer the current one.
        """
        return self._change("PUT", f"/admin/models/{model}/live", {"colour": colour, "revision": revision})

    def answer(self, model: str, rows: Sequence[Mapping[str, Any]], colour: Colour | None) -> list[dict[str, Any]]:
        """Answers through the real endpoint: of one colour, or of whatever is live.

        Raises:
            PromotionError: when the server refuses to answer.
        """
        path = f"/models/{model}/colours/{colour}/predict" if colour else f"/models/{model}/predict"
        response = self._send("POST", path, {"rows": rows})
        if response.status_code != httpx.codes.OK:
            msg = f"{path}: the model server answered {response.status_code}: {_error(response)}"
            raise PromotionError(msg)
        answers: list[dict[str, Any]] = response.json()["predictions"]
        return answers

    def _change(self, method: str, path: str, body: object) -> Serving:
        response = self._send(method, path, body)
        if response.status_code == httpx.codes.CONFLICT:
            raise ConflictError(_error(response))
        if response.status_code != httpx.codes.OK:
            msg = f"{path}: the model server answered {response.status_code}: {_error(response)}"
            raise PromotionError(msg)
        return msgspec.json.decode(response.content, type=Serving)

    def _send(self, method: str, path: str, body: object) -> httpx.Response:
        """One request with the token: it allows changes, and keeps golden rows out of the prediction log."""
        headers = {"authorization": f"Bearer {self.token}"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            return httpx.request(
                method, f"{self.url}{path}", content=content, headers=headers, timeout=TIMEOUT_S, trust_env=False
            )
        except httpx.TransportError as error:
            msg = f"the model server at {self.url} cannot be reached ({type(error).__name__}); is it running?"
            raise UnavailableError(msg) from error


def _error(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
