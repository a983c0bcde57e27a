"""One answer, whoever asks: the platform's own protocol, KServe's and Triton's, MLflow's, and MLflow itself."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import mlflow
import numpy as np
import pandas as pd
import psycopg
import pytest
import sklearn.ensemble  # noqa: F401 - threads can be limited once they are loaded
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tritonclient.utils import triton_to_np_dtype

from ml_platform.modeling import bundle
from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field
from ml_platform_tests import platform as whole
from ml_platform_tests.platform import Platform
from ml_platform_tests.scaffolding import tables
from ml_platform_tests.scaffolding.test_new_model_live import make_live

pytestmark = pytest.mark.timeout(600)  # The first test waits until three models are live.

VISITS = """
CREATE TABLE visits (
    visit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, minutes float8 NOT NULL, pages int NOT NULL, age int,
    income float8, city text, browser text NOT NULL, member boolean, consent boolean NOT NULL, seen timestamptz,
    begun timestamptz NOT NULL, bought boolean NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO visits (minutes, pages, age, income, city, browser, member, consent, seen, begun, bought)
SELECT
    i % 41 / 2.0, i % 13, nullif(18 + i % 60, 33), nullif(i % 83, 5) * 100.5,
    (ARRAY['Köln', 'Paris', NULL, 'say "NaN"'])[i % 4 + 1], (ARRAY['fox', 'chrome'])[i % 2 + 1],
    nullif(i % 3, 2) = 1, i % 5 > 1, timestamptz '2025-01-01 00:00+02' + nullif(i % 90, 5) * interval '1 d',
    timestamptz '2025-06-01 00:00+00' + i * interval '37 min', i % 41 + 2 * (i % 13) + i * 7919 % 23 > 44
FROM generate_series(1, 900) i
"""
MODELS = {"purchases": "visits", "grapes": "wines", "sugar": "patients"}


def _load_visits(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(VISITS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of its own with three live models: yes or no, one of three, a number."""
    with whole.running(tmp_path_factory.mktemp("platform"), tmp_path_factory.mktemp("models")) as platform:
        with threadpool_limits(limits=1, user_api="openmp"):  # Small models: threads would wait for each other.
            make_live(platform, _load_visits, "purchases", "--from visits --label bought --owner team:shop")
            make_live(platform, tables.load_wines, "grapes", "--from wines --label cultivar --owner team:cellar")
            make_live(
                platform, tables.load_patients, "sugar", "--from patients --label progression --owner team:clinic"
            )
        mlflow.set_tracking_uri(platform.settings.mlflow_url)
        yield platform


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """Each of the three."""
    name: str = request.param
    return name


@pytest.fixture
def fields(served: Platform, model: str) -> list[Field]:
    """What the model's rows have."""
    champion = served.tracking.version_with_alias(model, "champion")
    assert champion is not None
    return list(bundle.check(served.settings.bundles / champion.digest, champion.digest).fields)


@pytest.fixture
def rows(served: Platform, model: str, fields: list[Field]) -> list[dict[str, Any]]:
    """Rows of the source table as a request has them, gaps and all."""
    table = MODELS[model]
    found = [row for (row,) in served.sql(f"SELECT to_jsonb({table}) FROM {table} LIMIT 150")]
    return [{field.name: row[field.name] for field in fields} for row in found]


@pytest.fixture
def frame(rows: list[dict[str, Any]], fields: list[Field]) -> pd.DataFrame:
    """The same rows as pandas reads them from a database: a gap turns whole numbers and flags into floats."""
    frame = pd.DataFrame(rows, columns=[field.name for field in fields])
    for field in fields:
        if field.kind is Kind.TIME:
            frame[field.name] = pd.to_datetime(frame[field.name], format="ISO8601", utc=True).dt.tz_localize(None)
        elif field.kind is Kind.NUMBER and (field.nullable or field.dtype not in ("bool", "int64")):
            frame[field.name] = frame[field.name].astype("float64")
    return frame


@pytest.fixture
def expected(served: Platform, model: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """What MLflow itself answers, in its own process without the server."""
    assert mlflow.get_tracking_uri() == served.settings.mlflow_url
    answers: Any = mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(frame)
    records: list[dict[str, Any]] = answers.to_dict(orient="records")
    return records


def _post(served: Platform, path: str, body: object) -> Any:
    answer = httpx.post(f"{served.settings.serving_url}{path}", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _same(answers: Any, expected: Any) -> None:
    assert len(answers) == len(expected)
    assert bundle.differences(answers, expected) == []


def _split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows], "index": list(range(len(rows)))}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_the_rows_have_gaps_texts_times_and_flags(served: Platform) -> None:
    """Otherwise the tests below would prove little."""
    fields = httpx.get(f"{served.settings.serving_url}/models/purchases", trust_env=False).json()["fields"]

    assert {field["name"]: (field["kind"], field["nullable"]) for field in fields} == {
        "minutes": ("number", False), "pages": ("number", False), "age": ("number", True),
        "income": ("number", True), "city": ("text", True), "browser": ("text", False), "member": ("number", True),
        "consent": ("number", False), "seen": ("time", True), "begun": ("time", False),
    }  # fmt: skip


def test_the_platforms_own_protocol(
    served: Platform, model: str, rows: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    """Rows as objects."""
    _same(_post(served, f"/models/{model}/predict", {"rows": rows})["predictions"], expected)


FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "dataframe_records": lambda rows: rows,
    "dataframe_split": _split,
    "instances": lambda rows: rows,
    "inputs": _columns,
}


@pytest.mark.parametrize("form", FORMS)
def test_mlflows_protocol(
    served: Platform, model: str, rows: list[dict[str, Any]], expected: list[dict[str, Any]], form: str
) -> None:
    """In each of its forms the answer is the prediction's records, and nothing else."""
    answer = _post(served, f"/models/{model}/invocations", {form: FORMS[form](rows)})

    assert list(answer) == ["predictions"]
    assert [list(record) for record in answer["predictions"]] == [list(record) for record in expected]
    _same(answer["predictions"], expected)


def test_mlflows_own_client(served: Platform, model: str, frame: pd.DataFrame, expected: list[dict[str, Any]]) -> None:
    """A frame with NaN and NaT as pandas has it."""
    host, port = served.settings.serving_url.removeprefix("http://").split(":")
    server = ScoringServerClient(host, port)
    server.wait_server_ready()
    assert server.get_version() == mlflow.__version__

    client = ScoringServerClient(host, f"{port}/models/{model}")
    answer = client.invoke(frame, params={"keys": [f"row {i}" for i in range(len(frame))]})

    _same(answer.get_predictions().to_dict(orient="records"), expected)


def test_the_open_inference_protocol(
    served: Platform, model: str, rows: list[dict[str, Any]], fields: list[Field], expected: list[dict[str, Any]]
) -> None:
    """A tensor per field, with null where a value is missing."""
    columns = _columns(rows)
    inputs = [
        {"name": field.name, "shape": [len(rows)], "datatype": _datatype(field), "data": columns[field.name]}
        for field in fields
    ]

    answer = _post(served, f"/v2/models/{model}/infer", {"inputs": inputs})

    _same(_records({output["name"]: output for output in answer["outputs"]}), expected)


def test_tritons_own_client(served: Platform, model: str, frame: pd.DataFrame, expected: list[dict[str, Any]]) -> None:
    """It is told by the metadata what to send; a text that is missing in every row is left out."""
    client = triton.InferenceServerClient(served.settings.serving_url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model, served.tracking.champion_version(model))
    metadata = client.get_model_metadata(model)
    has_texts = frame.select_dtypes("object").notna().all(axis="columns")

    for part, gaps in ((has_texts, False), (frame.get("city", pd.Series(1, frame.index)).isna(), True)):
        picked = frame[part]
        if picked.empty:
            continue
        left_out = {"city"} if gaps else set[str]()
        tensors = [
            _tensor(picked[tensor["name"]], tensor) for tensor in metadata["inputs"] if tensor["name"] not in left_out
        ]
        result = client.infer(model, tensors, request_id="triton-1")
        assert result.get_response()["id"] == "triton-1"
        outputs = {
            output["name"]: {**output, "data": result.as_numpy(output["name"]).ravel().tolist()}
            for output in result.get_response()["outputs"]
        }
        _same(_records(outputs), [expected[i] for i in np.flatnonzero(part)])


def _tensor(column: "pd.Series[Any]", metadata: dict[str, Any]) -> triton.InferInput:
    """A column as the tensor that the metadata asks for."""
    texts = column.dt.strftime("%Y-%m-%dT%H:%M:%S.%f") if column.dtype.kind == "M" else column
    if metadata["datatype"] == "BYTES":
        # Triton's client has no gaps in texts, but NumPy's name for a missing time is one.
        values = texts.fillna("NaT").to_numpy(dtype=object)
    else:
        values = texts.to_numpy(dtype=triton_to_np_dtype(metadata["datatype"]))
    tensor = triton.InferInput(metadata["name"], [len(values)], metadata["datatype"])
    return tensor.set_data_from_numpy(values, binary_data=False)


def _datatype(field: Field) -> str:
    if field.kind is not Kind.NUMBER:
        return "BYTES"
    return "BOOL" if field.dtype == "bool" else "INT64" if field.is_whole else "FP64"


def _records(outputs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs as one record per row."""
    columns: dict[str, list[Any]] = {name: output["data"] for name, output in outputs.items()}
    if "probabilities" in outputs:
        classes = outputs["probabilities"]["parameters"]["classes"]
        by_row = np.reshape(columns["probabilities"], outputs["probabilities"]["shape"]).tolist()
        columns["probabilities"] = [dict(zip(classes, row, strict=True)) for row in by_row]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_field_with_gaps_may_be_left_out(served: Platform) -> None:
    """In every protocol, with the same answer as for null."""
    row = served.example("purchases") | {"age": None, "member": None, "seen": None}
    short = {name: value for name, value in row.items() if value is not None}
    tensors = [
        {"name": name, "shape": [1], "datatype": {bool: "BOOL", str: "BYTES", int: "INT64", float: "FP64"}[type(value)],
         "data": [value]}
        for name, value in short.items()
    ]  # fmt: skip

    (expected,) = _post(served, "/models/purchases/predict", {"rows": [row]})["predictions"]

    (record,) = _post(served, "/models/purchases/invocations", {"dataframe_split": _split([short])})["predictions"]
    answer = _post(served, "/v2/models/purchases/infer", {"inputs": tensors})
    assert record == expected
    assert _records({output["name"]: output for output in answer["outputs"]}) == [json.loads(json.dumps(expected))]
