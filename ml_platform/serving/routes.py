"""Routes: which page answers which method on which path."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from ml_platform.serving.http import Receive, Refusal, Response, Scope


@dataclass(frozen=True)
class Request:
    """A request on its way to a page; `named` are the parts of the path that stand for something."""

    scope: Scope
    receive: Receive
    named: Mapping[str, str]

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers, by lower-case name."""
        return dict(self.scope["headers"])


Page = Callable[[Request], Awaitable[Response]]


class Routes:
    """The pages of a server, by method and path; `{name}` in a path stands for any part."""

    def __init__(self, pages: Mapping[tuple[str, str], Page]) -> None:
        """Take the paths apart, once."""
        self._pages = [(method, path.strip("/").split("/"), page) for (method, path), page in pages.items()]

    def find(self, method: str, path: str) -> tuple[Page, dict[str, str]]:
        """The page, and what the path's parts stand for.

        Raises:
            Refusal: when there is no such page, or when it is asked for in another way.
        """
        parts = path.strip("/").split("/")
        allowed = []
        for taken, pattern, page in self._pages:
            named = _named(pattern, parts)
            if named is not None and taken == method:
                return page, named
            if named is not None:
                allowed.append(taken)
        if not allowed:
            raise Refusal(HTTPStatus.NOT_FOUND, "no such page; GET /docs shows all of them, GET /models the models")
        methods = ", ".join(allowed)
        allow = (b"allow", methods.encode())
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"this page takes {methods}, not {method}", allow)


def _named(pattern: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    named = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part:
            named[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return named
