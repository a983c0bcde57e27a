"""Whatever is sent, the answer is 4xx and says what is wrong, and the next good request is answered."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ml_platform_tests.serving.models import KNOWN, ROW, UNSEEN
from ml_platform_tests.serving.running import Answer, ModelServer, get, post

PATH = "/models/wide/predict"
GOOD = json.dumps({"rows": [ROW, ROW]}).encode()
HEAD = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n"
LIMIT = 10 * 1024 * 1024


@pytest.fixture(autouse=True)
def unharmed(server: ModelServer) -> Iterator[None]:
    """The process is the same afterwards, answers, and met no error of its own."""
    yield
    assert server.predict("wide", ROW).status == 200
    assert server.process.poll() is None
    assert not any(line["level"] in ("ERROR", "CRITICAL") for line in server.log())


def _in_chunks(data: bytes, size: int) -> bytes:
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def _with(old: bytes, new: bytes) -> bytes:
    """The good body, with something else in its second row."""
    first, _, second = GOOD.rpartition(old)
    return first + new + second


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("size", "x", "must be a number"),
        ("size", None, "must not be missing"),
        ("size", True, "must be a number"),
        ("size", -0.5, "greater_than_or_equal_to 0"),
        ("size", 10**399, "must be a finite number"),
        ("count", 101, "less_than_or_equal_to 100"),
        ("count", 1.5, "must be a whole number"),
        ("count", 2**60, "must be a whole number"),
        ("count", 10**399, "must be a finite number"),
        ("kind", "z", "isin ['a', 'b', 'c']"),
        ("kind", ["a"], "must be text"),
        ("note", "a\0b", "must not hold NUL characters"),
        ("when", "yesterday", "must be an ISO 8601 time"),
        ("when", "0001-01-01T00:00:00+23:59", "must be an ISO 8601 time"),
        ("when", "9999-12-31T23:59:59-23:59", "must be an ISO 8601 time"),
        ("other", 1, "unknown field"),
        ("x\r\ny: z", 1, "unknown field"),
    ],
    ids=range(17),
)
def test_a_bad_value_is_named(server: ModelServer, field: str, value: Any, rule: str) -> None:
    """By row, field and rule."""
    answer = server.predict("wide", ROW, {**ROW, field: value})

    assert answer.status == 422
    (problem,) = answer.json["problems"]
    assert (problem["row"], problem["field"], problem["rule"]) == (1, field, rule)


def test_a_missing_field_is_named(server: ModelServer) -> None:
    """A nullable one may be left out."""
    answer = server.predict("wide", {"size": 1, "kind": "a"})

    assert answer.status == 422
    assert [(p["field"], p["rule"]) for p in answer.json["problems"]] == [("count", "must not be missing")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"12.5", b"1e999"),
        (b"12.5", b"9" * 5000),
        (b"hello", b"\xff\xfe"),
        (b"12.5", b"[" * 400 + b"]" * 400),
    ],
)
def test_a_row_that_cannot_be_read_is_named(server: ModelServer, old: bytes, new: bytes) -> None:
    """By its number."""
    answer = server.ask(post(PATH, _with(old, new)))

    assert answer.status == 422
    assert answer.json["problems"][0]["row"] == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"   ", b"hello", b"\xff", b"\0", b"[]", b"{}", b"null", b'{"rows": []}', b'{"rows": null}', b'{"rows": [',
        b'{"rows": ["a", 1, null]}', b'{"rows": [{}], "more": 1}', b'{"rows": [{}], "keys": ["a", "b"]}', GOOD + b"}",
        b"[" * 100_000, b'{"rows": [' + b"[" * 100_000, b'{"rows": [{"size": ' + b"[" * 100_000 + b"]" * 100_000,
        b'{"a": ' * 100_000, _with(b"12.5", b"NaN"), _with(b"12.5", b"Infinity"), _with(b"hello", b"\0"),
        _with(b"hello", b"\\ud800"), _with(b"12.5", b"12.5.5"), GOOD.decode().encode("utf-16"),
    ],
    ids=range(25),
)  # fmt: skip
def test_a_body_that_is_not_as_expected_is_refused(server: ModelServer, body: bytes) -> None:
    """And the connection goes on."""
    with server.connect() as connection:
        answer = connection.ask(post(PATH, body))

        assert answer.status == 422
        assert answer.json["error"]
        assert connection.ask(post(PATH, GOOD)).status == 200


def test_of_a_name_that_is_there_twice_the_last_counts(server: ModelServer) -> None:
    """As in most readers of JSON, PostgreSQL's included."""
    twice = server.ask(post(PATH, GOOD.replace(b'"count": 3', b'"count": 3, "count": 50')))
    once = server.predict("wide", {**ROW, "count": 50}, {**ROW, "count": 50})

    assert twice.json["predictions"] == once.json["predictions"] != server.predict("wide", ROW, ROW).json["predictions"]


def test_the_number_of_rows_is_limited(server: ModelServer) -> None:
    """Ten thousand are answered."""
    assert len(server.predict("wide", *[ROW] * 10_000).json["predictions"]) == 10_000
    assert "10000" in server.predict("wide", *[ROW] * 10_001).json["error"]


def test_many_bad_rows_cost_no_more_than_the_first(server: ModelServer) -> None:
    """And the numbers of later rows are right."""
    many = server.predict("wide", *[{f"x{i}": i for i in range(20)}] * 5000)
    late = server.predict("wide", *[ROW] * 777, {**ROW, "size": -1}, *[ROW] * 777)

    assert (many.status, len(many.json["problems"])) == (422, 100)
    assert [p["row"] for p in late.json["problems"]] == [777]


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(PATH, b" " * (LIMIT + 1)),
        CHUNKED + b"\r\n" + _in_chunks(b" " * (LIMIT + 1), 65536),
        HEAD + b"content-length: 99999999999\r\n\r\n",
    ],
    ids=["declared", "chunked", "only said"],
)
def test_a_body_that_is_too_large_is_refused(server: ModelServer, request_bytes: bytes) -> None:
    """Also before it has been sent."""
    assert server.ask(request_bytes).status == 413


def test_an_endless_body_is_not_read_for_ever(server: ModelServer) -> None:
    """The client is told, and then hung up on."""
    with server.connect() as connection:
        connection.send(CHUNKED + b"\r\n")
        for _ in range(60):
            connection.send(b"100000\r\n" + b" " * 2**20 + b"\r\n")

        assert connection.read().status == 413
        assert connection.is_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 1, 2\r\n\r\nab",
        HEAD + b"content-length: 99999999999999999999999\r\n\r\n",
        HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        CHUNKED + b"content-length: 3\r\n\r\n" + _in_chunks(GOOD, 10),
        CHUNKED + b"\r\nzz\r\n",
        CHUNKED + b"\r\n5\r\nabcdefgh\r\n",
        b"GET /models/\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nna me: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nname\0: x\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FOO /healthz HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"\0" * 100,
    ],
    ids=range(15),
)
def test_what_is_not_http_is_refused_as_json(server: ModelServer, request_bytes: bytes) -> None:
    """And hung up on, since nobody knows where the next request begins."""
    with server.connect() as connection:
        connection.send(request_bytes)
        answer = connection.read()

        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.json["error"]
        assert connection.is_closed()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": ""}, 415),
        ({"content_type": "application/j\u00e9son"}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"x_request_id": "a b"}, 400),
        ({"x_request_id": "\u00e9"}, 400),
        ({"x_request_id": "a" * 129}, 400),
        ({"authorization": "Bearer \u00e9"}, 200),
        ({"content_type": "application/vnd.x+json; charset=utf-8"}, 200),
        ({"x_anything": "\u00e9\u00ff"}, 200),
        ({"expect": "the unexpected"}, 200),
    ],
)
def test_odd_headers(server: ModelServer, headers: dict[str, str], status: int) -> None:
    """What matters is refused, the rest is none of our business."""
    assert server.ask(post(PATH, GOOD, **headers)).status == status


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/models//predict", "/models/%ff%00/predict", "/models/%0d%0ax:%20y/predict",
        "/models/wide/predict/more", "/admin", "/%2e%2e/etc", "/models/" + "a" * 5000,
    ],
    ids=range(9),
)  # fmt: skip
def test_odd_paths(server: ModelServer, path: str) -> None:
    """Nothing is there, or nothing that could be posted to."""
    answer = server.ask(post(path, GOOD))

    assert answer.status in (401, 404, 405)
    assert answer.json["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "PROPFIND"])
def test_odd_methods(server: ModelServer, method: str) -> None:
    """Nothing is there either, and this is no proxy."""
    assert server.get("/healthz").status == 200
    assert server.ask(get("/healthz", method)).status in (404, 405)


def test_too_many_headers_are_refused(server: ModelServer) -> None:
    """Whether one is endless or there is no end of them."""
    for endless in (b"x", b"x: y\r\n"):
        with server.connect() as connection:
            connection.send(b"GET /healthz HTTP/1.1\r\n" + endless)
            for _ in range(8):
                connection.send(endless * (65536 // len(endless)))

            assert connection.read().status == 431
            assert connection.is_closed()


def test_head_is_answered_like_get_without_the_body(server: ModelServer) -> None:
    """Load balancers ask like that."""
    with server.connect() as connection:
        connection.send(get("/healthz", "HEAD") + get("/healthz"))

        assert connection.read(has_body=False).status == 200
        assert connection.read().json["status"] == "ok"


def test_old_http_is_answered_and_hung_up_on(server: ModelServer) -> None:
    """As HTTP/1.0 expects."""
    with server.connect() as connection:
        assert connection.ask(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
        assert connection.is_closed()


def test_pipelined_requests_are_answered_in_order(server: ModelServer) -> None:
    """Also when they arrive in pieces, and with a bad one among them."""
    wanted = [post(PATH, GOOD), post(PATH, b"{"), get("/healthz"), post(PATH, GOOD), get("/nothing")]
    sent = b"".join(wanted * 10)
    with server.connect() as connection:
        for i in range(0, len(sent), 777):
            connection.send(sent[i : i + 777])

        assert [connection.read().status for _ in range(50)] == [200, 422, 200, 200, 404] * 10


def test_garbage_after_a_request_does_not_cost_its_answer(server: ModelServer) -> None:
    """The garbage ends the connection, but only then."""
    with server.connect() as connection:
        connection.send(post(PATH, GOOD) + b"\0garbage\r\n\r\n")

        assert connection.read().status == 200
        assert connection.is_closed()


def test_no_connection_may_queue_any_number_of_requests(server: ModelServer) -> None:
    """Each costs memory before it is answered."""
    with server.connect() as connection:
        connection.send(get("/healthz") * 5000)
        answered = 0
        try:
            while connection.read().status == 200:
                answered += 1
        except ConnectionError:
            pass

        assert 0 < answered < 5000


def test_the_client_may_ask_whether_to_go_on(server: ModelServer) -> None:
    """Expect: 100-continue; a refused body need not be sent, and what comes next is not mistaken for it."""
    head = HEAD + b"content-length: %d\r\nexpect: 100-continue\r\n" % len(GOOD)
    with server.connect() as connection:
        for _ in range(2):
            connection.send(head + b"\r\n")
            assert connection.read().status == 100
            assert connection.ask(GOOD).status == 200
        answer = connection.ask(head + b"content-type: text/plain\r\n\r\n")

        assert (answer.status, answer.headers["connection"]) == (415, "close")


@pytest.mark.parametrize("to", ["h2c", "websocket"])
def test_an_upgrade_is_declined_without_losing_the_body(server: ModelServer, to: str) -> None:
    """Java's client asks for HTTP/2 with every first request."""
    more = f"connection: Upgrade, HTTP2-Settings\r\nupgrade: {to}\r\nhttp2-settings: AAMAAABk\r\n".encode()
    declared = HEAD + b"content-length: %d\r\n" % len(GOOD) + more + b"\r\n" + GOOD
    chunked = CHUNKED + more + b"\r\n" + _in_chunks(GOOD, 50)
    with server.connect() as connection:
        for _ in range(2):
            connection.send(declared + chunked + get("/healthz"))
            assert [connection.read().status for _ in range(3)] == [200, 200, 200]
        for byte in declared:
            connection.send(bytes([byte]))

        assert connection.read().status == 200


def test_trailers_are_not_headers(server: ModelServer) -> None:
    """What comes behind a body was not there when access was decided."""
    with server.connect() as connection:
        connection.send(CHUNKED + b"\r\n" + _in_chunks(GOOD, 50)[:-2] + b"x-request-id: a b\r\n\r\n")

        assert connection.read().status == 200


def test_one_bad_request_does_not_spoil_seven_good_ones(server: ModelServer) -> None:
    """Whether the reader refuses it or the model does; they are computed together."""

    def ask(number: int) -> tuple[Answer, Answer]:
        return (
            server.predict("wide", {**ROW, "size": -1} if number == 3 else ROW),
            server.predict("strict", UNSEEN if number == 3 else KNOWN),
        )

    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            answers = list(threads.map(ask, range(8)))
            assert [(a.status, b.status) for a, b in answers] == [
                (422, 422) if i == 3 else (200, 200) for i in range(8)
            ]


def test_a_row_that_the_model_cannot_answer_is_the_clients(server: ModelServer) -> None:
    """The model's reason is in the answer, but not all of a long one."""
    assert "never seen" in server.predict("strict", UNSEEN).json["error"]
    assert len(server.predict("strict", {"kind": "x" * 1_000_000}).body) < 1000
