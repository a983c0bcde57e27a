"""A load generator: connections that each send the same request again as soon as it was answered.

It speaks just enough HTTP to need less of a core than the fastest server it measures.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

PATIENCE_S = 30.0


@dataclass
class Load:
    """What one round of load came to."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def requests_per_s(self) -> float:
        """Answered requests a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency, milliseconds."""
        return float(np.percentile(self.latencies_s, percent)) * 1e3


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, load: Load, until: float) -> None:
        self._request, self._load, self._until = request, load, until
        self._received = bytearray()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = next(
            int(line.partition(b":")[2])
            for line in bytes(self._received[:head]).lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        if len(self._received) < head + 4 + length:
            return
        now = time.perf_counter()
        if self._received.startswith(b"HTTP/1.1 200"):
            self._load.latencies_s.append(now - self._sent_at)
        else:
            self._load.failed += 1
        self._received.clear()
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or time.perf_counter() < self._until:
            self._load.failed += 1
        self.done.set_result(None)


def post(path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """A request with a JSON body, as bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", *headers]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def load(port: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Send the request over some connections for a while."""

    async def run() -> Load:
        came = Load()
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        opened = [
            await loop.create_connection(lambda: _Connection(request, came, began + seconds), "127.0.0.1", port)
            for _ in range(connections)
        ]
        async with asyncio.timeout(seconds + PATIENCE_S):
            await asyncio.gather(*(protocol.done for _, protocol in opened))
        came.seconds = time.perf_counter() - began
        return came

    return uvloop.run(run())
