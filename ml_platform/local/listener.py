"""A listener on this machine: a webhook that takes alerts, for the demo, so that one sees who would have been told."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Listener:
    """What was told, and where to tell it."""

    url: str = ""
    titles: list[str] = field(default_factory=list)

    def take(self) -> list[str]:
        """The titles since the last call."""
        taken, self.titles[:] = list(self.titles), []
        return taken


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener, to the end of the block."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            listener.titles.append(str(body["title"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.url = f"json://demo:{secrets.token_urlsafe(8)}@127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
