"""Who may ask for what: everybody for predictions unless the model has a token, only the platform for changes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ml_platform.modeling.promotion import Release
from ml_platform.serving.tokens import check_tokens, is_token, model_tokens
from ml_platform.settings import SettingsError
from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import ROW
from ml_platform_tests.serving.running import TOKEN, Answer, ModelServer, get, post, running

MINE = "only-for-wide-\u00e9"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> Iterator[ModelServer]:
    """A server on which one of two models has a token."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "tokens.json"
    file.write_text(json.dumps({"wide": MINE, "not-there": "x"}), encoding="utf-8")
    file.chmod(0o640)
    with running(folder, serving_tokens=file) as server:
        server.promote(*releases.first)
        release, bundle = releases.second
        server.promote(replace(release, model="open"), bundle)
        yield server


def _ask(server: ModelServer, authorization: str | None) -> Answer:
    headers = {} if authorization is None else {"authorization": authorization}
    return server.ask(post("/models/wide/predict", {"rows": [ROW]}, **headers))


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401), ("", 401), ("Bearer", 401), ("Bearer ", 401), (MINE, 401), (f"Basic {MINE}", 401),
        (f"Bearer {MINE}x", 401), (f"Bearer {MINE[:-1]}", 401), ("Bearer x", 401), (f"Bearer {MINE} {MINE}", 401),
        (f"Bearer {MINE}", 200), (f"bearer {MINE}", 200), (f"Bearer {TOKEN}", 200),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_model_with_a_token_is_answered_to_who_has_it(
    guarded: ModelServer, authorization: str | None, status: int
) -> None:
    """Or has the platform's."""
    answer = _ask(guarded, authorization)

    assert answer.status == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_other_models_need_none(guarded: ModelServer) -> None:
    """Whatever is sent with the request."""
    assert guarded.predict("open", ROW).status == 200
    assert guarded.ask(post("/models/open/predict", {"rows": [ROW]}, authorization="Bearer x")).status == 200


def test_a_refused_request_is_not_read(guarded: ModelServer) -> None:
    """Neither its body nor whether it is sound."""
    assert guarded.ask(post("/models/wide/predict", b"{", content_type="text/plain")).status == 401


def test_a_real_row_is_shown_only_to_who_may_ask(guarded: ModelServer) -> None:
    """The example of a model's page is one."""
    assert guarded.get("/models/wide").status == 401
    assert guarded.get("/models/open").json["example"]
    with_token = get("/models/wide").replace(b"\r\n\r\n", f"\r\nauthorization: Bearer {MINE}\r\n\r\n".encode())
    assert guarded.ask(with_token).json["example"]


def test_traffic_is_switched_off_as_the_docs_say(guarded: ModelServer, releases: Releases) -> None:
    """By a person whose model's folder is gone; what curl says by itself of a body is not JSON."""
    release, bundle = releases.second
    guarded.promote(replace(release, model="removed"), bundle)
    door, token = "/admin/models/removed", {"authorization": f"Bearer {TOKEN}"}
    off = {"colour": None, "revision": guarded.request("GET", door, headers=token).json()["revision"]}

    as_form = guarded.request("PUT", f"{door}/live", off, token | {"content-type": "application/x-www-form-urlencoded"})
    as_json = guarded.request("PUT", f"{door}/live", off, token | {"content-type": "application/json"})

    assert as_form.status_code == 415
    assert (as_json.status_code, as_json.json()["live"]) == (200, None)
    assert guarded.predict("removed", ROW).status == 404


@pytest.mark.parametrize("token", ["", MINE, "x"])
@pytest.mark.parametrize(
    "path",
    [
        "/admin/models/wide",
        "/admin/models/wide/live",
        "/admin/models/wide/colours/green",
        "/admin/models/x/y/z",
        "//admin/models/wide/live",
    ],
)
def test_changes_need_the_platforms_token(guarded: ModelServer, path: str, token: str) -> None:
    """A model's own is not enough, and nothing tells which pages there are."""
    for method in (b"GET", b"PUT", b"POST"):
        assert guarded.ask(post(path, {}, authorization=f"Bearer {token}").replace(b"POST", method)).status == 401


def test_a_colour_is_answered_to_the_platform_only(guarded: ModelServer) -> None:
    """Nobody else shall see a release before it is live."""
    path = "/models/wide/colours/blue/predict"

    assert guarded.ask(post(path, {"rows": [ROW]}, authorization=f"Bearer {MINE}")).status == 401
    assert guarded.ask(post(path, {"rows": [ROW]}, authorization=f"Bearer {TOKEN}")).status == 200
    none = post(path.replace("blue", "red"), {"rows": [ROW]}, authorization=f"Bearer {TOKEN}")
    assert guarded.ask(none).status == 404


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"version": "1\r\nx: y"}, {"version": '1","x":"'}, {"version": ""}, {"version": "\u00e9"}],
    ids=range(5),
)
def test_names_cannot_leave_their_place(guarded: ModelServer, releases: Releases, changed: dict[str, str]) -> None:
    """They stand in headers and answers as they are; not even the platform may load others."""
    release, folder = releases.second
    named = {name: changed.get(name, getattr(release, name)) for name in Release.__dataclass_fields__}
    body = {"release": named, "bundle": str(folder), "revision": 2}
    load = post("/admin/models/wide/colours/green", body, authorization=f"Bearer {TOKEN}")

    assert guarded.ask(load.replace(b"POST", b"PUT")).status == 422


@pytest.mark.parametrize("given", ["a\r\nx: y", "a\0b", "a" * 200, "\u00e9", "a b", ";"])
def test_a_request_id_cannot_either(guarded: ModelServer, given: str) -> None:
    """It comes back in a header and in the answer."""
    answer = guarded.ask(post("/models/open/predict", {"rows": [ROW]}, x_request_id=given))

    assert answer.status == 400 or (given.startswith("a\r\n") and answer.headers["x-request-id"] == "a")
    assert "x" not in answer.headers


def test_it_listens_on_loopback(guarded: ModelServer) -> None:
    """Nobody else can reach it, unless its address says so."""
    doors = [c for c in psutil.Process(guarded.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]

    assert [door.laddr.ip for door in doors] == ["127.0.0.1"]


def test_tokens_that_others_may_read_are_mentioned(guarded: ModelServer) -> None:
    """With the remedy, and without the tokens."""
    (warning,) = [line["message"] for line in guarded.log() if "chmod 600" in line["message"]]

    assert "tokens.json" in warning
    assert MINE not in (guarded.folder / "log").read_text(encoding="utf-8")


def test_tokens_of_ones_own_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All is well."""
    file = tmp_path / "tokens.json"
    file.write_text('{"m": "t"}')
    file.chmod(0o600)

    check_tokens(str(file))
    check_tokens("")

    assert model_tokens(str(file)) == {"m": "t"}
    assert model_tokens("") == {}
    assert caplog.records == []


@pytest.mark.parametrize("content", ["", "{", '{"m": 1}', '{"m": ""}', '["t"]', '{"m": null}', "\udcff"])
def test_a_file_that_holds_no_tokens_is_refused(tmp_path: Path, content: str) -> None:
    """Rather than a model left open; what it holds is not quoted."""
    file = tmp_path / "tokens.json"
    file.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(SettingsError, match="ML_PLATFORM_SERVING_TOKENS"):
        model_tokens(str(file))


def test_no_token_is_no_token() -> None:
    """A server without one lets nobody change anything."""
    assert not is_token(b"Bearer ", "")
    assert not is_token(b"", "")
