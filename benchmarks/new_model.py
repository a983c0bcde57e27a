"""A new model, from a table in PostgreSQL to its first live answer: `new-model`, a refresh, and a request.

    python -m benchmarks.new_model

The services run, the table is loaded, and nobody reads the folder in between. The last line is one JSON object.
"""

import json
import tempfile
import time
from pathlib import Path

from click.testing import CliRunner

from ml_platform.cli import main as ml_platform
from ml_platform_tests import platform as whole
from ml_platform_tests.scaffolding import tables

COMMAND = "new-model cultivars --from wines --label cultivar --owner team:cellar"


def main() -> None:
    """Measure it once, and print the seconds of each step."""
    with tempfile.TemporaryDirectory() as folder, whole.running(Path(folder) / "state", Path(folder)) as platform:
        tables.load_wines(platform.settings.source_url)
        began = time.perf_counter()
        written = CliRunner().invoke(ml_platform, COMMAND.split())
        folder_written = time.perf_counter()
        refreshed = platform.refresh("cultivars")
        refresh_done = time.perf_counter()
        answer = platform.predict("cultivars", [platform.example("cultivars")])
        answered = time.perf_counter()
    if written.exit_code or not refreshed.success:
        msg = f"the model did not go live: {written.output}"
        raise RuntimeError(msg)
    print(f"the first answer of version {answer['version']}: {answer['predictions'][0]['label']}")
    seconds = {
        "new_model_s": round(folder_written - began, 1),
        "refresh_s": round(refresh_done - folder_written, 1),
        "first_answer_s": round(answered - refresh_done, 2),
        "minutes": round((answered - began) / 60, 1),
    }
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
