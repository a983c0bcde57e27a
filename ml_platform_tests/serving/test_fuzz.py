"""Whatever bytes arrive, in whatever pieces: every answer is HTTP and not a failure of ours, and the server goes on."""

import json
from contextlib import suppress
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform_tests.serving.models import KNOWN, ROW
from ml_platform_tests.serving.running import Connection, ModelServer, get, post, wait_until

ROWS = post("/models/wide/predict", {"rows": [ROW, ROW], "keys": ["a", None]}, x_request_id="id")
CHUNKED = (
    b"POST /models/wide/predict HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    b"9\r\n" + json.dumps({"rows": [ROW]}).encode()[:9] + b"\r\n"
    b"%x;ext=1\r\n" % (len(json.dumps({"rows": [ROW]})) - 9) + json.dumps({"rows": [ROW]}).encode()[9:]
    + b"\r\n0\r\nx-trailer: 1\r\n\r\n"
)  # fmt: skip
VALID = (
    ROWS, CHUNKED, post("/models/strict/predict", {"rows": [KNOWN] * 3}), get("/models/wide"), get("/metrics"),
    get("/healthz", "HEAD"), post("/models/wide/colours/blue/predict", {"rows": [ROW]}, authorization="Bearer x"),
    post("/models/wide/predict", {"rows": [ROW]}, connection="upgrade", upgrade="h2c"),
    post("/admin/models/wide/live", {"colour": "blue", "revision": 0}).replace(b"POST", b"PUT"),
)  # fmt: skip
TOKENS = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b":", b"%", b"%00", b"/", b"?", b"#", b"[", b"]", b"{",
    b"}", b'"', b"\\", b"\\u0000", b"\\ud800", b",", b"-", b"1e999", b"NaN", b"null", b"0" * 400, b"9" * 400,
    b"[" * 2000,    b"content-length: 0\r\n", b"content-length: 5\r\n", b"content-length: 18446744073709551616\r\n",
    b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n", b"expect: 100-continue\r\n", b"content-type: text/plain\r\n",
    b"HTTP/1.0", b"HTTP/2.0", b"CONNECT", b"HEAD", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n",
)  # fmt: skip
PLACE = st.floats(0, 1, exclude_max=True)
CHANGE = st.tuples(st.sampled_from(("insert", "replace", "cut", "repeat", "end")), PLACE, st.integers(1, 40),
                   st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=4))  # fmt: skip
SENT = st.tuples(
    st.lists(st.sampled_from(VALID), min_size=1, max_size=3), st.lists(CHANGE, max_size=4), st.lists(PLACE, max_size=3)
)


def _changed(data: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, place, length, token in changes:
        at = int(place * len(data))
        data = {
            "insert": data[:at] + token + data[at:],
            "replace": data[:at] + token + data[at + length :],
            "cut": data[:at] + data[at + length :],
            "repeat": data[:at] + data[at : at + length] * 3 + data[at + length :],
            "end": data[:at],
        }[kind]
    return data


def _statuses(connection: Connection) -> list[int]:
    """The answers until the server hangs up. Those after an answer to HEAD cannot be told apart from a body."""
    found = []
    with suppress(ConnectionError, AssertionError):
        while True:
            found.append(connection.read().status)
    return found


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(sent=st.lists(SENT, min_size=4, max_size=4))
def test_nothing_that_is_sent_breaks_it(
    server: ModelServer, sent: list[tuple[list[bytes], list[tuple[str, float, int, bytes]], list[float]]]
) -> None:
    """Four clients at a time; each ends its side when all is sent, and the server hangs up when all is answered."""
    connections = [server.connect() for _ in sent]
    for connection, (requests, changes, cuts) in zip(connections, sent, strict=True):
        data = _changed(b"".join(requests), changes)
        marks = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
        for start, end in pairwise(marks):
            connection.send(data[start:end])
        with suppress(OSError):
            connection.socket.shutdown(1)
    for connection, (requests, changes, _) in zip(connections, sent, strict=True):
        statuses = _statuses(connection)
        assert all(status < 500 for status in statuses)
        assert changes or b"HEAD" in b"".join(requests) or len([s for s in statuses if s != 100]) == len(requests)
        connection.close()


def test_it_is_well_afterwards(server: ModelServer) -> None:
    """No error of its own, the same process, nothing left open."""
    assert server.process.poll() is None
    assert server.predict("wide", ROW).status == 200
    assert not any(line["level"] in ("ERROR", "CRITICAL") for line in server.log())
    assert not any(name[0] == "ml_platform_refused_total" and name[-1] >= "500" for name in server.metrics())
    wait_until(lambda: server.connections() <= 1)
