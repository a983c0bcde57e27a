"""The commands in docs/serving.md work as they are, on the model that they are for."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.promotion import Release
from ml_platform.modeling.training import ModelCode, fit
from ml_platform.modeling.validation import as_columns
from ml_platform.models.catalogue import all_models
from ml_platform.settings import PROJECT
from ml_platform_tests.rows import random_rows
from ml_platform_tests.serving.running import ModelServer, running

MODEL = "loan_approval"
COMMANDS = re.findall(r"```sh\n(.*?)\n```", (PROJECT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """The demo's model with its real schema and features is live; what it has learned does not matter here."""
    folder = tmp_path_factory.mktemp("loans")
    with running(folder / "state") as server:
        server.promote(*_release(folder / "bundles"))
        yield server


def _release(folder: Path) -> tuple[Release, Path]:
    spec = next(spec for spec in all_models() if spec.name == MODEL)
    code = ModelCode.of(spec)
    columns = as_columns(random_rows(code.inputs, 300, 1), code.inputs)
    features = code.features.matrix(columns)
    pipeline, classes = fit(code, features, np.arange(300.0) % 2)
    fitted = Fitted(
        pipeline=pipeline, task=spec.task, classes=classes, fields=code.inputs, features=code.features,
        features_module=code.features_module,
    )  # fmt: skip
    digest = pack(fitted, features, columns, folder, seed=1).predictor.digest
    made = Release(model=MODEL, version="1", digest=digest, run_id="r", data_version="d", code_revision="c")
    return made, folder / digest


def test_every_way_of_asking_has_a_command() -> None:
    """One for each protocol."""
    paths = set(re.findall(r"http://127.0.0.1:8080(\S+)", " ".join(COMMANDS)))

    assert {f"/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer", f"/models/{MODEL}/invocations"} <= paths


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("curl")])
def test_the_command_is_answered(loans: ModelServer, command: str) -> None:
    """Through a shell, copied and pasted."""
    here = command.replace("http://127.0.0.1:8080", loans.url)

    done = subprocess.run(
        here, shell=True, capture_output=True, text=True, check=True, env={**os.environ, "NO_PROXY": "*"}
    )

    assert json.loads(done.stdout).keys() & {"predictions", "outputs"}, done.stdout
