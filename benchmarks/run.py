"""From a fresh clone to answers: `make run` until both demo models have answered a prediction, and the same again.

    python -m benchmarks.run [--warm-packages]

The checkout's commit is cloned into an empty folder. The first run has no state, no environment and no downloaded
package: the caches of uv and pip are folders that did not exist, so packages come from the registry. When every model
of the catalogue has answered a real prediction, Ctrl-C stops the platform, and the second run starts. Both are timed
from the command to the last model's first answer. Ports are free ones, so that a platform may run beside it. The last
line is one JSON object.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from ml_platform.local.processes import free_port
from ml_platform.models.catalogue import all_models
from ml_platform.settings import PROJECT, variable

PATIENCE_S = 900
PORTS = ("dagster", "mlflow", "serving", "postgres")


def answered(serving_url: str, model: str) -> bool:
    """Whether the model answers a prediction."""
    url = f"{serving_url}/models/{model}"
    try:
        with httpx.Client(timeout=10, trust_env=False) as client:
            row = client.get(url).raise_for_status().json()["example"]
            return client.post(f"{url}/predict", json={"rows": [row]}).is_success
    except httpx.HTTPError:
        return False


def seconds_to_answers(clone: Path, environment: dict[str, str]) -> float:
    """Seconds from `make run` to the first answer of the last model; then Ctrl-C, and everything has ended."""
    began = time.monotonic()
    make = subprocess.Popen(["make", "run"], cwd=clone, env=environment, start_new_session=True)
    waiting = {model.name for model in all_models()}
    try:
        while waiting:
            time.sleep(0.1)
            if make.poll() is not None or time.monotonic() - began > PATIENCE_S:
                msg = f"no answer of {', '.join(sorted(waiting))} after {time.monotonic() - began:.0f} s"
                raise RuntimeError(msg)
            for model in list(waiting):
                if answered(f"http://127.0.0.1:{environment[variable('serving_port')]}", model):
                    waiting.remove(model)
                    print(f"-- {model} answered after {time.monotonic() - began:.1f} s", flush=True)
        return time.monotonic() - began
    finally:
        with suppress(ProcessLookupError):
            os.killpg(make.pid, signal.SIGINT)
        make.wait(120)


def main() -> None:
    """Read the command line, clone, run twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm-packages", action="store_true", help="use the packages that uv has already downloaded")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-run-") as folder:
        clone = Path(folder) / "clone"
        Path(folder).chmod(0o755)  # As a home folder is, and not as temporary ones are.
        subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(variable(""))}
        environment = inherited | {variable(f"{name}_port"): str(free_port()) for name in PORTS}
        if not given.warm_packages:
            environment |= {"UV_CACHE_DIR": f"{folder}/uv", "PIP_CACHE_DIR": f"{folder}/pip"}
        first = seconds_to_answers(clone, environment)
        again = seconds_to_answers(clone, environment)
    print(json.dumps({"first_s": round(first, 1), "again_s": round(again, 1)}))


if __name__ == "__main__":
    main()
