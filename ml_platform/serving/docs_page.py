"""The page at /docs: the OpenAPI document in Swagger UI, whose files come from a package and not from elsewhere."""

from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

from ml_platform.serving.http import Refusal, Response

PACKAGE = "fastapi_offline"
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "start.js": "text/javascript"}
PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model server</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  requestSnippetsEnabled: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The browser asks nobody but this server."""


def page() -> Response:
    """The page.

    Raises:
        Refusal: when the package with its files is not installed.
    """
    _folder()
    return Response(
        PAGE, headers=((b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", POLICY))
    )


def part(name: str) -> Response:
    """A file of the page.

    Raises:
        Refusal: when there is no such file, or the package is not installed.
    """
    if name not in FILES:
        raise Refusal(HTTPStatus.NOT_FOUND, f"no file {name!r}; GET /docs is the page")
    data = START if name == "start.js" else (_folder() / name).read_bytes()
    kind = f"{FILES[name]}; charset=utf-8".encode()
    return Response(data, headers=((b"content-type", kind), (b"cache-control", b"max-age=3600")))


def _folder() -> Path:
    """Where the package's files are; looking for it does not run it."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        msg = f"the page needs the package {PACKAGE}, which is not installed here; GET /openapi.json says the same"
        raise Refusal(HTTPStatus.NOT_FOUND, msg)
    return Path(found.submodule_search_locations[0]) / "static"
