"""The pages that other platforms look for: health, metadata and errors as their protocols have them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from ml_platform.modeling import bundle
from ml_platform.serving import journal
from ml_platform_tests.serving import rich_model
from ml_platform_tests.serving.running import TOKEN, ModelServer, running
from ml_platform_tests.small_models import release

HEAVY = ("dagster", "mlflow", "pandas", "sklearn", "fastapi", "fastapi_offline")


@pytest.fixture(scope="module")
def server(rich_server: ModelServer) -> ModelServer:
    """One model of every type and rule is live, and no other."""
    return rich_server


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A row that the rich model can answer."""
    made, folder = rich_model.release(tmp_path_factory.mktemp("rich"))
    return bundle.read_golden(folder, made.digest).rows[0]


def _error(server: ModelServer, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    answer = server.request(method, path, body, headers)
    assert isinstance(answer.json()["error"], str)
    return answer.status_code, answer.json()["error"]


def _tensor(name: str, datatype: str, *data: object, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": list(data)}


def test_a_server_that_works_is_live_and_ready(server: ModelServer) -> None:
    """By each protocol's name for it."""
    assert server.request("GET", "/v2/health/live").json() == {"live": True}
    assert server.request("GET", "/v2/health/ready").json() == {"ready": True}
    assert server.request("GET", "/v2/models/rich/ready").json() == {"name": "rich", "ready": True}
    assert server.request("GET", "/ping").text == server.request("GET", "/health").text == "\n"


def test_a_model_that_cannot_be_served_makes_the_server_unready(tmp_path: Path) -> None:
    """The process lives, and says what is wrong."""
    made, folder = release(tmp_path, "1")
    with running(tmp_path / "state") as server:
        server.promote(made, folder)
    (folder / "features.py").write_text("raise SystemExit\n")

    with running(tmp_path / "state") as server:
        assert server.request("GET", "/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/ping"):
            assert _error(server, "GET", path) == (503, "cannot be served: small; see the server's log")
        assert _error(server, "GET", "/v2/models/small/ready")[0] == 503


def test_a_server_that_is_about_to_stop_is_unready_and_answers(tmp_path: Path) -> None:
    """Whoever distributes traffic sends it elsewhere; whoever still comes is answered, and sent away."""
    with running(tmp_path / "state", drain_seconds=20) as server, httpx.Client(trust_env=False) as waiting:
        server.promote(*release(tmp_path, "1"))
        waiting.get(server.url)  # Its connection stays open, so the server has somebody to wait for.

        server.drain()
        while server.request("GET", "/v2/health/ready").status_code == 200:
            pass

        assert "draining" in _error(server, "GET", "/v2/health/ready")[1]
        assert server.request("GET", "/v2/health/live").status_code == 200
        answer = server.request("POST", "/models/small/predict", {"rows": [{"size": 1}]})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_the_metadata_says_what_to_send(server: ModelServer) -> None:
    """A whole number or a flag that may be missing is a float, since NumPy has no other gap."""
    metadata = server.request("GET", "/v2/models/rich").json()

    datatypes = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
    assert (metadata["name"], metadata["versions"]) == ("rich", ["1"])
    assert {name: datatypes[name] for name in ("amount", "count", "code", "flag", "maybe", "note", "when")} == {
        "amount": "FP64", "count": "INT64", "code": "FP64", "flag": "BOOL", "maybe": "FP64", "note": "BYTES",
        "when": "BYTES",
    }  # fmt: skip
    assert metadata["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, 3]},
    ]
    assert server.request("GET", "/v2/models/rich/versions/1").json() == metadata
    assert server.request("GET", "/v2").json()["name"] == "ml_platform"


def test_a_version_that_is_not_live_is_not_there(server: ModelServer) -> None:
    """The live one is named."""
    for method, path in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        status, error = _error(server, method, f"/v2/models/rich/versions/7{path}", {"inputs": []})
        assert (status, error) == (404, "model 'rich': version '7' is not live, version '1' is")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/models/rich/predict", "POST"),
        ("POST", "/models/rich", "GET"),
        ("DELETE", "/admin/models/rich/live", "PUT"),
        ("PUT", "/v2/models/rich/infer", "POST"),
        ("POST", "/ping", "GET"),
    ],
)
def test_a_page_asked_for_in_another_way_says_how(server: ModelServer, method: str, path: str, allowed: str) -> None:
    """405, and the way that works, to whom the page is open at all."""
    answer = server.request(method, path, headers={"authorization": f"Bearer {TOKEN}"})

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json() == {"error": f"this page takes {allowed}, not {method}"}
    assert _error(server, method, "/nothing/here")[0] == 404


def test_only_the_outputs_that_are_asked_for_are_answered(server: ModelServer, row: dict[str, Any]) -> None:
    """In one tensor with the names of the classes beside it."""
    inputs = [_tensor(name, _datatype(value), value, shape=[1, 1]) for name, value in row.items() if value is not None]
    body = {"id": "mine", "inputs": inputs, "outputs": [{"name": "probabilities"}]}

    answer = server.request("POST", "/v2/models/rich/versions/1/infer", body)

    (tensor,) = answer.json()["outputs"]
    assert (tensor["name"], tensor["shape"], len(tensor["data"])) == ("probabilities", [1, 3], 3)
    assert tensor["parameters"] == {"classes": list(rich_model.CLASSES)}
    assert answer.json()["id"] == answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-model-version"] == answer.json()["model_version"] == "1"


def _datatype(value: object) -> str:
    return {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}[type(value)]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": []}, "send 1 to 10000 rows, not 0"),
        ({"inputs": [_tensor("nothing", "FP64", 1.0)]}, "no input 'nothing'; there are amount, "),
        ({"inputs": [_tensor("amount", "FP64", 1.0)] * 2}, "input 'amount' is there twice"),
        ({"inputs": [_tensor("amount", "BYTES", "1")]}, "input 'amount': datatype BYTES does not fit, but FP64, "),
        ({"inputs": [_tensor("amount", "INT8", 1.5)]}, "input 'amount', value 0: 1.5 is not INT8"),
        ({"inputs": [_tensor("amount", "FP64", 1.0, shape=[2])]}, "input 'amount': shape [2], but 1 values"),
        ({"inputs": [_tensor("amount", "FP64", 1.0, shape=[1, 2])]}, "shape [1, 2] is neither [n] nor [n, 1]"),
        ({"inputs": [_tensor("amount", "FP64", 1.0), _tensor("count", "INT8", 1, 2)]}, "'amount' 1, 'count' 2"),
        ({"inputs": [_tensor("amount", "FP64", 1.0)]}, "row 0, field 'count': must not be missing"),
        ({"inputs": [_tensor("amount", "FP64", 1.0)], "outputs": [{"name": "no"}]}, "there are only label, prob"),
        ({"inputs": [_tensor("amount", "FP64", 1.0)], "parameters": {"keys": ["a", "b"]}}, "2 for 1"),
        ({"inputs": [_tensor("amount", "COMPLEX", 1.0)]}, "Invalid enum value 'COMPLEX'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(server: ModelServer, body: object, says: str) -> None:
    """With the input, and what would fit."""
    status, error = _error(server, "POST", "/v2/models/rich/infer", body)

    assert status == 422
    assert says in error


def test_binary_tensors_are_refused_in_plain_words(server: ModelServer) -> None:
    """Triton's client sends them unless told otherwise, and passes the words on."""
    tensor = triton.InferInput("amount", [1], "FP64").set_data_from_numpy(np.array([1.0]), binary_data=True)

    with pytest.raises(InferenceServerException, match="extension is not supported: send the values as JSON"):
        triton.InferenceServerClient(server.url.removeprefix("http://")).infer("rich", [tensor])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "give exactly one of dataframe_records, dataframe_split, instances, inputs, not none"),
        ({"instances": [], "inputs": []}, "not instances and inputs"),
        ({"instances": [[1, 2]]}, "Expected `object`, got `array` - at `$.instances[0]`"),
        ({"inputs": {"amount": [1], "count": [1, 2]}}, "as many values as the others: 'amount' 1, 'count' 2"),
        ({"dataframe_split": {"columns": ["amount"], "data": [[1, 2]]}}, "row 0: 2 values for 1 columns"),
        ({"dataframe_split": {"columns": ["amount"] * 2, "data": [[1, 2]]}}, "column 'amount' twice"),
        ({"dataframe_records": [{"amount": 1}], "params": {"key": ["a"]}}, "unknown field `key`"),
        ({"dataframe_records": [{"amount": "1"}]}, "row 0, field 'amount': must be a number (got '1')"),
    ],
)
def test_invocations_that_do_not_fit_are_refused(server: ModelServer, body: object, says: str) -> None:
    """With what would fit."""
    status, error = _error(server, "POST", "/invocations", body)

    assert status == 422
    assert says in error


def test_an_invocation_without_a_name_is_for_the_one_model_that_is_live(
    server: ModelServer, row: dict[str, Any], tmp_path: Path
) -> None:
    """With two, it must say which."""
    body, size = {"dataframe_records": [row]}, {"instances": [{"size": 1.0}]}
    assert server.request("POST", "/invocations", body).status_code == 200

    server.promote(*release(tmp_path, "1"))
    try:
        status, error = _error(server, "POST", "/invocations", body)
        assert (status, error) == (
            400,
            "say which model: POST /models/NAME/invocations, or the header x-model: NAME; live are rich, small",
        )
        assert server.request("POST", "/invocations", size, {"x-model": "small"}).status_code == 200
        assert server.request("POST", "/models/small/invocations", size).status_code == 200
        assert _error(server, "POST", "/invocations", size, **{"x-model": "nobody"})[0] == 404
    finally:
        server.door.switch("small", None, server.door.observe("small").revision)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models/rich/predict", lambda row: {"rows": [row], "keys": ["whose"]}),
        ("/invocations", lambda row: {"dataframe_records": [row], "params": {"keys": ["whose"]}}),
        (
            "/v2/models/rich/infer",
            lambda row: {
                "inputs": [_tensor(name, _datatype(value), value) for name, value in row.items() if value is not None],
                "parameters": {"keys": ["whose"]},
            },
        ),
    ],
)
def test_keys_reach_the_prediction_log(server: ModelServer, row: dict[str, Any], path: str, body: Any) -> None:
    """With the row and the id, in every protocol."""
    request_id = path.replace("/", ".")
    answer = server.request("POST", path, body(row), {"x-request-id": request_id})
    assert answer.status_code == 200

    segments = journal.segments(server.folder / "serving" / "journal")
    logged = [found for segment in segments for found, _ in journal.read(segment.read_bytes())]
    assert [found.keys for found in logged if found.request_id == request_id] == [["whose"]]


@pytest.mark.parametrize("headers", [{"x-request-id": "a b"}, {}])
def test_an_id_that_the_log_could_not_keep_is_refused(server: ModelServer, headers: dict[str, str]) -> None:
    """Wherever it is."""
    body = {"id": "fine" if headers else "a b", "inputs": [_tensor("amount", "FP64", 1.0)]}

    assert _error(server, "POST", "/v2/models/rich/infer", body, **headers)[0] == 400


def test_nan_is_a_gap_only_outside_of_texts(server: ModelServer, row: dict[str, Any]) -> None:
    """As Python's own writer leaves it; a text may say NaN."""
    found = {**row, "share": float("nan"), "code": 2.0, "maybe": 1.0, "seen": "NaT", "note": 'NaN, "NaN'}

    meant = {**row, "share": None, "code": 2, "maybe": True, "seen": None, "note": 'NaN, "NaN'}

    answer = _post(server, "/invocations", {"dataframe_records": [found]})

    assert answer["predictions"] == _post(server, "/models/rich/predict", {"rows": [meant]})["predictions"]


def _post(server: ModelServer, path: str, body: object) -> Any:
    """Python's own writer, NaN and all."""
    headers = {"content-type": "application/json"}
    return httpx.post(server.url + path, content=json.dumps(body), headers=headers, timeout=30, trust_env=False).json()


def test_the_server_needs_none_of_the_heavy_libraries() -> None:
    """Not even for its page."""
    code = (
        "import sys, onnxruntime, ml_platform.serving.worker, ml_platform.serving.openapi.document\n"
        "from ml_platform.serving import docs_page\n"
        "docs_page.page(); docs_page.part('swagger-ui.css')\n"
        f"print(sorted(sys.modules.keys() & {set(HEAVY)}))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
