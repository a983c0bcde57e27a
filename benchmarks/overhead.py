"""What Dagster costs: a refresh launched as a sensor launches it, against the same functions called by a script.

    python -m benchmarks.overhead [--rounds N]

Both refresh loan_approval against the same running platform (`ml-platform up` with automation off, on an embedded
PostgreSQL): the same source table, datasets, MLflow and model server. Dagster's time goes from the submission of the
run to its SUCCESS: queued, dequeued by the daemon, launched by the launcher of dagster.yaml, eight rooms. The script's
time (`benchmarks.plain_refresh`) goes from the start of a fresh interpreter, which imports the same, to its end.

Both do the same work each time: new rows arrive, so that nothing is reused; the champion to beat is always the first
model, which saw a third of the rows; and the refresh must end with a new version that is champion and live. Who goes
first alternates. The medians count; the last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg

from ml_platform import settings
from ml_platform.local import company, services, state
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import PlatformError, free_port
from ml_platform.local.runs import UNDER_WAY, DagsterPage
from ml_platform.models.catalogue import all_models
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, ExperimentTracking
from ml_platform.settings import Settings, variable

MODEL, TABLE = "loan_approval", "loan_applications"
FIRST_ROWS = 600
ARRIVING = 10
PATIENCE_S = 600
ENDED = """query($run: ID!) { runOrError(runId: $run) { ... on Run { status startTime endTime } } }"""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A running platform, and the version that every refresh has to beat."""

    here: Settings
    first: str

    @property
    def tracking(self) -> ExperimentTracking:
        """The door to its MLflow."""
        return ExperimentTracking(url=self.here.mlflow_url)

    def measure(self, refresh: Callable[["Platform"], float]) -> float:
        """Seconds of one refresh that did everything there is to do."""
        company.arrive(self.here.source_url, MODEL, ARRIVING, datetime.now(UTC))
        for alias in (CHALLENGER, CHAMPION):
            self.tracking.client.set_registered_model_alias(MODEL, alias, self.first)
        versions = self._versions()
        seconds = refresh(self)
        champion, live = self.tracking.champion_version(MODEL), self._live()
        if self._versions() != versions + 1 or champion == self.first or live != champion:
            msg = f"this refresh did not go all the way: champion {champion}, live {live}; the first was {self.first}"
            raise RuntimeError(msg)
        return seconds

    def _versions(self) -> int:
        return len(self.tracking.client.search_model_versions(f"name = '{MODEL}'"))

    def _live(self) -> str:
        models = httpx.get(f"{self.here.serving_url}/models", timeout=10, trust_env=False).json()["models"]
        return next(str(model["version"]) for model in models if model["name"] == MODEL)


def by_dagster(platform: Platform) -> float:
    """Seconds from the submission of a run to its success."""
    began = time.time()
    run_id = DagsterPage(platform.here.dagster_page).submit_refresh(MODEL, {})
    while True:
        time.sleep(0.2)
        body = {"query": ENDED, "variables": {"run": run_id}}
        answer = httpx.post(f"{platform.here.dagster_page}/graphql", json=body, timeout=30, trust_env=False).json()
        run = answer["data"]["runOrError"]
        if run["status"] in {"FAILURE", "CANCELED"}:
            msg = f"the run ended as {run['status']}; its log is at {platform.here.dagster_page}/runs/{run_id}"
            raise RuntimeError(msg)
        if run["status"] == "SUCCESS":
            print(
                f"  queue and launch {run['startTime'] - began:.2f} s, rooms {run['endTime'] - run['startTime']:.2f} s"
            )
            return float(run["endTime"] - began)


def by_script(platform: Platform) -> float:
    """Seconds from the start of an interpreter to its end."""
    command = [sys.executable, "-m", "benchmarks.plain_refresh", MODEL]
    environment = services.environment(platform.here)
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds


@contextmanager
def running() -> Iterator[Platform]:
    """A platform whose first champion saw only some of the rows; the others are in the table by now."""
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as folder:
        server = EmbeddedPostgres(state=Path(folder) / "server", port=free_port())
        server.start()
        try:
            server.create_databases(services.DATABASES)
            source = services.database_url(server.url("postgres"), "company")
            company.load(source, datetime.now(UTC))
            with psycopg.connect(source) as connection:
                connection.execute(f"CREATE TABLE later AS SELECT * FROM {TABLE} WHERE application_id > {FIRST_ROWS}")
                connection.execute(f"DELETE FROM {TABLE} WHERE application_id > {FIRST_ROWS}")
            with _up(Path(folder) / "state", server.url("postgres")) as here:
                with psycopg.connect(source) as connection:
                    connection.execute(f"INSERT INTO {TABLE} SELECT * FROM later")
                first = ExperimentTracking(url=here.mlflow_url).champion_version(MODEL)
                if first is None:
                    msg = f"{MODEL} has no champion to start with"
                    raise RuntimeError(msg)
                yield Platform(here=here, first=first)
        finally:
            server.stop()


@contextmanager
def _up(folder: Path, postgres_url: str) -> Iterator[Settings]:
    """`ml-platform up` has made both models live; its settings are those of this process, too."""
    os.environ |= {variable(f"{name}_port"): str(free_port()) for name in ("dagster", "mlflow", "serving")}
    os.environ |= {
        variable("state"): str(folder),
        variable("postgres_url"): postgres_url,
        variable("automation"): "off",
    }
    log = folder.with_suffix(".log")
    with log.open("wb") as out:
        command = [str(Path(sys.executable).with_name("ml-platform")), "up"]
        up = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not _is_idle(folder):
                if up.poll() is not None or time.monotonic() > deadline:
                    raise PlatformError(log.read_text())
                time.sleep(0.5)
            yield settings.load()
        finally:
            up.terminate()
            up.wait(60)


def _is_idle(folder: Path) -> bool:
    """Whether the platform is there and every model is live; its settings are in the environment then."""
    try:
        os.environ |= state.published(folder)
        here = settings.load()
        live = httpx.get(f"{here.serving_url}/models", timeout=10, trust_env=False).json()["models"]
        return len(live) == len(all_models()) and not DagsterPage(here.dagster_page).runs(statuses=UNDER_WAY)
    except (PlatformError, httpx.HTTPError):
        return False


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ways: dict[str, Callable[[Platform], float]] = {"dagster": by_dagster, "script": by_script}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    with running() as platform:
        for number in range(rounds):
            for way in sorted(ways, reverse=bool(number % 2)):
                taken[way].append(platform.measure(ways[way]))
                print(f"{way}: {taken[way][-1]:.2f} s", flush=True)
    refresh, script = statistics.median(taken["dagster"]), statistics.median(taken["script"])
    print(
        json.dumps(
            {
                "refresh_s": round(refresh, 2),
                "script_s": round(script, 2),
                "overhead_s": round(refresh - script, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
