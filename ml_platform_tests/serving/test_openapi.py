"""The OpenAPI document says what the server does, all of it, and the page at /docs shows it without the internet."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate
from playwright.sync_api import Page, expect

from ml_platform.serving.app import Server
from ml_platform.serving.journal import Journal
from ml_platform.serving.pages import Pages
from ml_platform.serving.slots import Slots
from ml_platform.settings import PROJECT
from ml_platform_tests.end_to_end import browser as browsers
from ml_platform_tests.serving.running import TOKEN, ModelServer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(rich_server: ModelServer) -> ModelServer:
    """One model of every type and rule is live, and no other."""
    return rich_server


@pytest.fixture(scope="module")
def document(server: ModelServer) -> dict[str, Any]:
    """What GET /openapi.json says."""
    found: dict[str, Any] = server.request("GET", "/openapi.json").json()
    return found


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty page of a browser, which in CI must be there; nothing that it shows comes from beyond this machine."""
    command = browsers.find()
    if command is None:
        message = "the browser tests did not run: install Chromium or Chrome (Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with browsers.opened(command) as browser, browsers.page_of(browser) as (page, strangers):
        yield page
    assert strangers == []


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    """Somebody else's validator says so."""
    validate(document)

    assert document["openapi"] == "3.1.0"


def test_every_operation_is_in_the_document(document: dict[str, Any], tmp_path: Path) -> None:
    """No page is missing, and none is made up."""
    journal = Journal(tmp_path / "journal", 1)
    pages = Pages(Server(slots=Slots(tmp_path / "slots.json", journal), journal=journal, token="t")).by_path()

    described = {
        (method.upper(), re.sub("/models/rich", "/models/{name}", path))
        for path, methods in document["paths"].items()
        for method in methods
    }

    assert described == set(pages)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_the_fields_have_their_types_gaps_limits_and_descriptions(document: dict[str, Any]) -> None:
    """As in the model's schema."""
    row = document["components"]["schemas"]["rich_row"]
    fields = row["properties"]

    assert fields["amount"] == {
        "type": "number", "minimum": 0, "exclusiveMinimum": 0.5, "exclusiveMaximum": 100, "description": "How much",
    }  # fmt: skip
    assert fields["code"]["enum"] == [1, 2, 3, None]
    assert fields["maybe"]["type"] == ["boolean", "null"]
    assert fields["name"] == {"type": ["string", "null"], "pattern": r"^text \d"}
    assert (fields["note"]["minLength"], fields["note"]["maxLength"]) == (1, 20)
    assert fields["when"]["format"] == "date-time"
    assert sorted(fields.keys() - set(row["required"])) == ["code", "maybe", "name", "seen", "share", "year"]


def test_every_example_is_answered(server: ModelServer, document: dict[str, Any]) -> None:
    """What the document shows can be sent as it is."""
    asked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {"content": {}})["content"].get("application/json", {})
            for example in content.get("examples", {}).values():
                where = path.replace("{version}", "1").replace("{colour}", "blue")
                token = {"authorization": f"Bearer {TOKEN}"}
                answer = server.request(method.upper(), where, example["value"], token)
                assert answer.status_code == 200, (path, answer.text)
                asked += 1
    assert asked >= 8


def test_the_command_to_copy_works(document: dict[str, Any]) -> None:
    """Through a shell, as a person would do it."""
    for path in ("/models/rich/predict", "/models/rich/invocations", "/v2/models/rich/infer"):
        (command,) = re.findall("```sh\n(.*)\n```", document["paths"][path]["post"]["description"])

        done = subprocess.run(command, shell=True, capture_output=True, check=True, env={**os.environ, "NO_PROXY": "*"})

        assert json.loads(done.stdout).keys() & {"predictions", "outputs"}


def test_a_stranger_finds_nothing_that_the_document_does_not_say(server: ModelServer, tmp_path: Path) -> None:
    """Schemathesis sends what the document allows and what it forbids, and holds the answers against it."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "NO_PROXY": "*",
                   "SCHEMATHESIS_HOOKS": f"{__package__}.schemathesis_hooks"}  # fmt: skip
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{server.url}/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "5", "--seed", "1", "--warnings", "off", "--no-color"),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in (server.folder / "log").read_text()


def test_the_files_of_the_page_are_here(server: ModelServer) -> None:
    """Under a policy that lets a browser ask nobody else."""
    page = server.request("GET", "/docs")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for file in re.findall('(?:src|href)="(/[^"]+)"', page.text):
        assert server.request("GET", file).status_code == 200
    assert server.request("GET", "/docs/nothing.js").status_code == 404


@pytest.mark.browser
def test_the_page_shows_a_model_and_asks_it(server: ModelServer, page: Page) -> None:
    """Fields with their rules, a command to copy, and a form that is answered."""
    page.goto(f"{server.url}/docs")
    predict = page.locator("#operations-rich-post_models_rich_predict")
    predict.locator(".opblock-summary-control").click()

    expect(predict.get_by_text("curl -s").first).to_be_visible()
    predict.get_by_role("button", name="Execute").click()

    expect(predict.locator(".live-responses-table")).to_contain_text('"predictions"')
    expect(predict.locator(".live-responses-table")).to_contain_text("x-model-version: 1")
