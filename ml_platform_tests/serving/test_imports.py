"""A server of an ONNX model needs none of the libraries that training needs."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import ROW

HEAVY = {"dagster", "mlflow", "pandas", "sklearn", "pandera", "polars", "skops", "scipy", "pyarrow", "matplotlib"}
SERVE = """
import asyncio, json, sys
from pathlib import Path

from ml_platform.modeling.promotion import Colour, Release
from ml_platform.serving.app import Server
from ml_platform.serving.journal import Journal
from ml_platform.serving.slots import Slots
import ml_platform.serving.worker

state, folder, release, body = sys.argv[1:]
release = Release(**json.loads(release))


async def ask(server, path):
    async def receive():
        return {"type": "http.request", "body": body.encode(), "more_body": False}

    return (await server.answer({"method": "POST", "path": path, "headers": []}, receive)).status


async def serve():
    journal = Journal(Path(state) / "journal", 2**20)
    slots = Slots(Path(state) / "slots.json", journal)
    await slots.load(release, Path(folder), Colour.BLUE, 0)
    await slots.switch(release.model, Colour.BLUE, 1)
    return await ask(Server(slots=slots, journal=journal, token="t"), f"/models/{release.model}/predict")


print(json.dumps({"status": asyncio.run(serve()), "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_a_server_that_answers_has_imported_nothing_heavy(tmp_path: Path, releases: Releases) -> None:
    """It starts quickly, and a worker more costs little."""
    release, folder = releases.first
    given = [str(tmp_path), str(folder), msgspec.json.encode(release).decode(), json.dumps({"rows": [ROW]})]

    ran = subprocess.run([sys.executable, "-c", SERVE, *given], capture_output=True, check=True, timeout=60)

    found = json.loads(ran.stdout)
    assert found["status"] == 200
    assert HEAVY & set(found["modules"]) == set()
    assert {"onnxruntime", "uvicorn"} <= set(found["modules"])
