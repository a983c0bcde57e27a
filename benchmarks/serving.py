"""Serving side by side: our model server, MLflow's, FastAPI as written by hand, and the bare limit, in one run.

    python -m benchmarks.serving [--rounds N] [--seconds S]

All four serve the same scikit-learn pipeline, trained on the demo company's loan applications, and are asked for the
same row. Ours validates it, computes the features of features.py, keeps every answer in the prediction log, which a
second process brings to a real PostgreSQL meanwhile, and counts. MLflow and FastAPI compute the same features on a
DataFrame. The limit computes none and does nothing else (see `benchmarks.serving_contenders`).

One worker each; server processes on one core, the load generator and the database on another. All are started, one
after the other, and stay up; a round asks each of them in turn for a moment, so that whatever else the machine does
hits all alike, and the medians of the rounds count. `p99_ms` and `requests_per_s` are of one-row requests at
concurrency 8, `batch100_rows_per_s` of 100-row requests at concurrency 8. `ready_s` goes from the start of the process
to its first answer. `memory_mib` is the proportional set size of all its processes after the load. The last line is one
JSON object.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from benchmarks.http_load import Load, load, post
from benchmarks.serving_contenders import FIELDS, MODEL, PIPELINE, Features
from ml_platform import settings
from ml_platform.local import company, services
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.modeling.candidate import Candidate, features_table, prepare, train
from ml_platform.modeling.promotion import Colour, Release
from ml_platform.modeling.training import ModelCode
from ml_platform.modeling.validation import as_columns, validate
from ml_platform.models.catalogue import model
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ingest import ingest
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.source import SourceDatabase
from ml_platform.settings import Settings

NAME = "loan_approval"
PATIENCE_S = 120.0
CONCURRENCY = 8
BATCH = 100
WARM_UP_S = 1.0
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
FIGURES = ("requests_per_s", "p99_ms", "batch100_rows_per_s", "ready_s", "memory_mib")
FIRST, OTHERS = set(CORES[:1]), set(CORES[1:]) or set(CORES)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server, and how it is asked."""

    name: str
    command: Sequence[str]
    port: int
    path: str
    body: Callable[[Sequence[dict[str, Any]]], bytes]
    env: dict[str, str]

    def request(self, rows: Sequence[dict[str, Any]]) -> bytes:
        """The bytes of a request."""
        return post(self.path, self.body(rows))


def trained(here: Settings) -> Candidate:
    """The demo model on the company's rows, as the rooms would train it."""
    code = ModelCode.of(model(NAME))
    datasets = DatasetStore(root=here.datasets)
    pulled = ingest(SourceDatabase(url=here.source_url), datasets, code.spec.source, f"{NAME}/raw_data", full=False)
    rows = validate(datasets.read(pulled.table.name), code.schema).good
    table = features_table(code, rows, code.features.compute(as_columns(rows, code.inputs)), code.label(rows))
    return train(code, prepare(code, table, rows), here.bundles)


def write_for_others(candidate: Candidate, here: Settings, folder: Path) -> None:
    """The same model as the others take it: a pickled pipeline, an MLflow model, an ONNX file."""
    import mlflow  # noqa: PLC0415 - seconds
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import FunctionTransformer  # noqa: PLC0415

    predictor = candidate.packed.predictor
    whole = make_pipeline(FunctionTransformer(Features(NAME)), candidate.pipeline)
    (folder / PIPELINE).write_bytes(pickle.dumps(whole))
    (folder / FIELDS).write_bytes(msgspec.json.encode(predictor.fields))
    (folder / MODEL).write_bytes((here.bundles / predictor.digest / MODEL).read_bytes())
    mlflow.sklearn.save_model(
        whole,
        folder / "mlflow",
        serialization_format="cloudpickle",
        pyfunc_predict_fn="predict_proba",
        pip_requirements=[],
    )


def contenders(here: Settings, folder: Path) -> list[Contender]:
    """All four."""
    ports = [free_port() for _ in range(3)]
    env = services.environment(here) | {"OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    quiet = env | {
        "PATH": path,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PYTHONPATH": str(settings.PROJECT),
    }
    python = [sys.executable, "-m"]
    serve = ("mlflow", "models", "serve", "-m", str(folder / "mlflow"), "--env-manager", "local", "--workers", "1")
    named = lambda rows: msgspec.json.encode({"rows": rows})  # noqa: E731 - the body of three of them
    return [
        Contender(
            name="ours",
            command=[*python, "ml_platform.serving"],
            port=here.serving_port,
            path=f"/models/{NAME}/predict",
            body=named,
            env=env,
        ),
        Contender(
            name="mlflow",
            command=[*python, *serve, "-h", "127.0.0.1", "-p", str(ports[0])],
            port=ports[0],
            path="/invocations",
            body=_split,
            env=quiet,
        ),
        *(
            Contender(
                name=name,
                command=[*python, "benchmarks.serving_contenders", name, str(folder), str(port)],
                port=port,
                path="/predict",
                body=named,
                env=env,
            )
            for name, port in zip(("fastapi", "limit"), ports[1:], strict=True)
        ),
    ]


def _split(rows: Sequence[dict[str, Any]]) -> bytes:
    data = [list(row.values()) for row in rows]
    return msgspec.json.encode({"dataframe_split": {"columns": list(rows[0]), "data": data}})


def ready_s(contender: Contender, row: dict[str, Any], process: psutil.Process) -> float:
    """Seconds from the start of its process to its first answer; it has been asked for a while then."""
    began = time.perf_counter()
    _await_answer(contender, row, process)
    taken = time.perf_counter() - began
    _asked(contender, contender.request([row]), WARM_UP_S)
    return taken


def asked(contender: Contender, row: dict[str, Any], seconds: float) -> dict[str, float]:
    """The figures of one round."""
    single = _asked(contender, contender.request([row]), seconds)
    batched = _asked(contender, contender.request([row] * BATCH), seconds)
    return {
        "requests_per_s": single.requests_per_s,
        "p99_ms": single.percentile_ms(99),
        "batch100_rows_per_s": batched.requests_per_s * BATCH,
    }


def _asked(contender: Contender, request: bytes, seconds: float) -> Load:
    came = load(contender.port, request, connections=CONCURRENCY, seconds=seconds)
    if came.failed:
        msg = f"{contender.name}: {came.failed} of {came.failed + len(came.latencies_s)} requests failed"
        raise RuntimeError(msg)
    return came


@contextmanager
def started(contender: Contender) -> Iterator[psutil.Process]:
    """The server's process, on the first core."""
    with tempfile.TemporaryFile() as log:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        _use(FIRST)
        child = subprocess.Popen(
            contender.command, env=contender.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        _use(cores)
        process = psutil.Process(child.pid)
        try:
            yield process
        finally:
            family = [process, *process.children(recursive=True)]
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(20)
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()


def _use(cores: set[int]) -> None:
    """This process, and the children it starts from now on, run on these cores, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _await_answer(contender: Contender, row: dict[str, Any], process: psutil.Process) -> None:
    url, body = f"http://127.0.0.1:{contender.port}{contender.path}", contender.body([row])
    until = time.perf_counter() + PATIENCE_S
    headers = {"content-type": "application/json"}
    with httpx.Client(trust_env=False, timeout=30) as client:
        while time.perf_counter() < until and process.status() != psutil.STATUS_ZOMBIE:
            with suppress(httpx.TransportError):
                if (answer := client.post(url, content=body, headers=headers)).is_success:
                    return
                if answer.status_code < 500:
                    break
            time.sleep(0.01)
    msg = f"{contender.name} does not answer"
    raise RuntimeError(msg)


def _memory_mib(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 2**20


def compare(rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """All figures, by figure and contender."""
    _use(OTHERS)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as temporary:
        folder = Path(temporary)
        here = replace(settings.load(), state=folder / "state", serving_port=free_port(), postgres_port=free_port())
        here.state.mkdir()
        postgres = EmbeddedPostgres(here.state, here.postgres_port)
        postgres.start()
        try:
            postgres.create_databases(services.DATABASES)
            here = services.complete(here, postgres.url("postgres"))
            company.load(here.source_url, datetime.now(UTC))
            candidate = trained(here)
            write_for_others(candidate, here, folder)
            servers = contenders(here, folder)
            with started(servers[0]) as process:
                _await_health(here, process)
                promote(here, candidate)
            return side_by_side(servers, dict(candidate.packed.predictor.golden.rows[0]), rounds, seconds, here)
        finally:
            postgres.stop()


def side_by_side(
    servers: Sequence[Contender], row: dict[str, Any], rounds: int, seconds: float, here: Settings
) -> dict[str, dict[str, float]]:
    """Ask all in turn, round by round."""
    found: dict[str, dict[str, float]] = {figure: {} for figure in FIGURES}
    with ExitStack() as stack:
        processes = {}
        for server in servers:
            processes[server.name] = stack.enter_context(started(server))
            found["ready_s"][server.name] = ready_s(server, row, processes[server.name])
        said: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        for number in range(rounds):
            for server in servers:
                _await_shipped(here)
                said[server.name].append(asked(server, row, seconds))
                print(f"round {number + 1}, {server.name}: {said[server.name][-1]}", flush=True)
        for name, figures in said.items():
            for figure in figures[0]:
                found[figure][name] = statistics.median(one[figure] for one in figures)
            found["memory_mib"][name] = _memory_mib(processes[name])
    return {figure: {name: round(value, 2) for name, value in of.items()} for figure, of in found.items()}


def _await_shipped(here: Settings) -> None:
    """Our prediction log is in the database: nobody else is measured while it is on its way."""
    until = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < until:
        if not httpx.get(f"{here.serving_url}/healthz", trust_env=False).json()["log_waiting_bytes"]:
            return
        time.sleep(0.1)
    msg = "the prediction log does not reach the database"
    raise RuntimeError(msg)


def _await_health(here: Settings, process: psutil.Process) -> None:
    until = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < until and process.status() != psutil.STATUS_ZOMBIE:
        with suppress(httpx.TransportError):
            httpx.get(f"{here.serving_url}/healthz", trust_env=False)
            return
        time.sleep(0.01)


def promote(here: Settings, candidate: Candidate) -> None:
    """The model is live on our server, and will be after a restart."""
    serving = LocalServing(url=here.serving_url, token=here.serving_token)
    digest = candidate.packed.predictor.digest
    release = Release(model=NAME, version="1", digest=digest, run_id="", data_version="", code_revision="")
    seen = serving.load(release, here.bundles / digest, Colour.BLUE, serving.observe(NAME).revision)
    serving.switch(NAME, Colour.BLUE, seen.revision)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    print(json.dumps(compare(given.rounds, given.seconds)))


if __name__ == "__main__":
    main()
