"""`ml-platform up` and the commands beside it, as their user meets them."""

import json
import shlex
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from psycopg import sql

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.local.launcher import WORKER_TAG
from ml_platform.local.services import DATABASES, database_url
from ml_platform.local.watching import Watch
from ml_platform_tests.end_to_end.running import MODELS, Up, dagster_of, until

pytestmark = pytest.mark.timeout(1200)

MODEL = "loan_approval"
AGAIN_SECONDS = 150
RESOURCES = """{ allTopLevelResourceDetailsOrError(repositorySelector: {
  repositoryLocationName: "ml_platform", repositoryName: "__repository__"}) {
  ... on ResourceDetailsList { results { name configuredValues { key value type } } } } }"""


@pytest.mark.parametrize("model", MODELS)
def test_the_printed_curl_answers(up: Up, model: str) -> None:
    """What the user is told to type at the end gets a prediction of that model."""
    command = next(line for line in up.terminal.lines if line.startswith("curl") and f"/models/{model}/" in line)

    answer = json.loads(_typed(command))

    assert answer["model"] == model
    assert 0 <= answer["predictions"][0]["probability"] <= 1


def test_everything_listens_on_loopback_only(up: Up) -> None:
    """No process of the platform can be reached from another machine, and the four known ports are among them."""
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in up.tree()
        for connection in _connections(process)
        if connection.status == psutil.CONN_LISTEN
    }

    assert {port for _, port in listening} >= set(up.ports.values())
    assert [address for address, _ in listening if not ip_address(address).is_loopback] == []


def test_no_secret_is_written_where_others_look(up: Up) -> None:
    """Neither PostgreSQL's password nor the serving token is in a log, a database, Dagster's page or a command line."""
    run_id = up.page.submit_refresh(MODEL, {})
    until("the run has a worker", lambda: _worker(up, run_id))

    lines = "\n".join(line for process in up.tree() for line in _command_line(process))
    up.wait_for_run(run_id)
    places = {
        "command lines": lines,
        "terminal": up.terminal.text(),
        "Dagster's page": json.dumps(up.ask(RESOURCES)),
        **dict(_files(up.state)),
        **dict(_rows(up)),
    }

    found = [(name, place) for place, text in places.items() for name, secret in up.secrets.items() if secret in text]
    assert found == []
    assert len(places) > 50, "the search looked at next to nothing"


def test_status_says_what_is_live(up: Up) -> None:
    """`status` names the pages and each model's live version."""
    said = up.type("status")

    assert said.returncode == 0, said.stderr
    for model, version in up.live().items():
        assert f"{model}: version {version} is live" in said.stdout
    assert set(up.live()) == set(MODELS)


def test_predict_answers_without_a_row(up: Up) -> None:
    """`predict MODEL` asks about an example; a row that is no JSON is refused in one line."""
    answered, refused = up.type("predict", MODEL), up.type("predict", MODEL, "{")

    assert json.loads(answered.stdout)["predictions"], answered.stderr
    assert refused.returncode != 0
    assert "not JSON" in _only_line(refused.stderr)


def test_env_makes_dagsters_own_commands_work(up: Up) -> None:
    """With the printed settings `dagster definitions validate` succeeds without a warning."""
    validated = dagster_of(up, "definitions", "validate")

    said = validated.stdout + validated.stderr
    assert validated.returncode == 0, said
    # Dagster says of this very command that `dg`, a package of its own, is to be preferred.
    warnings = [line for line in said.splitlines() if "warning" in line.lower() and "Supersession" not in line]
    assert warnings == []


def test_a_refresh_with_nothing_new_is_green_and_stops_before_registering(up: Up) -> None:
    """The command succeeds, the rooms after the evaluation are skipped, and the live version stays."""
    before = up.live()

    said = up.type("refresh", MODEL)

    assert said.returncode == 0, said.stdout + said.stderr
    assert "refresh done" in said.stdout
    assert f"{MODEL}: evaluation ok" in said.stdout
    assert "not promoted: " in said.stdout
    assert up.rooms_made(_run_id(said.stdout)) == set(ROOMS[: ROOMS.index("evaluation") + 1])
    assert up.live() == before


def test_a_refresh_of_a_past_day_never_promotes(up: Up) -> None:
    """`--as-of` trains and judges, but registers nothing: the live versions stay."""
    before = up.live()
    day = datetime.now(UTC) - timedelta(days=60)

    said = up.type("refresh", MODEL, "--as-of", f"{day:%Y-%m-%d}")

    assert said.returncode == 0, said.stdout + said.stderr
    assert up.rooms_made(_run_id(said.stdout)) == set(ROOMS[: ROOMS.index("evaluation") + 1])
    assert up.metadata(MODEL, "evaluation")["decision"] == "keep the champion"
    assert up.live() == before


def test_a_refresh_of_an_unknown_model_names_the_known_ones(up: Up) -> None:
    """A typing error is answered in one line."""
    said = up.type("refresh", "loan_aproval")

    assert said.returncode != 0
    assert "student_dropout" in _only_line(said.stderr)


def test_a_second_platform_on_the_same_state_says_that_one_runs(up: Up) -> None:
    """The second `up` ends at once with one line; the first goes on."""
    said = up.type("up")

    assert said.returncode != 0
    assert "already runs" in _only_line(said.stderr)
    assert up.is_running()


@pytest.mark.parametrize("name", ["dagster", "mlflow", "serving", "postgres"])
def test_a_busy_port_is_named_with_its_holder_and_the_remedy(tmp_path: Path, name: str) -> None:
    """One line says which port, who holds it, and which option chooses another."""
    other = Up(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = int(holder.getsockname()[1])

        said = replace(other, ports=other.ports | {name: port}).type("up")

    assert said.returncode != 0
    line = _only_line(said.stderr)
    assert f"port {port} is not free" in line
    assert f"--{name}-port" in line


@pytest.mark.parametrize("place", ["a file/state", "a file", "/proc/no/state"])
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, place: str) -> None:
    """One line says where nothing can be written and how to choose another folder."""
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    (tmp_path / "a file").touch()

    said = Up(tmp_path / place).type("up")

    assert said.returncode != 0
    assert "--state FOLDER" in _only_line(said.stderr)


def test_ctrl_c_stops_everything_and_the_next_up_continues(up: Up) -> None:
    """Nothing of the platform is left; started again it serves the same versions, soon, and trains nothing."""
    live, runs, tree = up.live(), {run.id for run in up.page.runs()}, up.tree()

    code = up.interrupt()

    assert code == 0, up.terminal.text()
    assert psutil.wait_procs(tree, 10)[1] == []
    assert _processes_of(up) == []
    begun = time.monotonic()
    up.start(AGAIN_SECONDS)
    assert time.monotonic() - begun < AGAIN_SECONDS
    assert up.live() == live
    assert {run.id for run in up.page.runs()} == runs


def test_after_kill_9_the_dead_run_is_failed_first_and_holds_no_slot(up: Up) -> None:
    """Supervisor and run are killed; the next `up` has failed that run, and a new refresh of the model goes green."""
    live = up.live()
    run_id = up.page.submit_refresh(MODEL, {})
    worker = until("the run is under way", lambda: _worker(up, run_id))
    worker.suspend()
    assert up.page.run(run_id).status == "STARTED"

    up.terminal.process.kill()
    up.terminal.process.wait()
    worker.kill()
    up.start()

    assert up.page.run(run_id).status == "FAILURE"
    assert up.live() == live
    said = up.type("refresh", MODEL)
    assert said.returncode == 0, said.stdout + said.stderr
    assert Watch(up.page, print).under_way() == []


def _typed(command: str) -> str:
    """What the command prints; where there is no curl, what it would have asked."""
    words = shlex.split(command)
    if shutil.which("curl"):
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    headers = {"content-type": "application/json"}
    return httpx.post(words[2], headers=headers, content=words[-1], timeout=60, trust_env=False).text


def _only_line(said: str) -> str:
    """The one line that was said."""
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    return lines[0]


def _run_id(said: str) -> str:
    """The run that `refresh` says it has queued."""
    return said.splitlines()[0].rpartition("/")[2]


def _worker(up: Up, run_id: str) -> psutil.Process | None:
    """The process that executes the run, once it does."""
    if up.page.run(run_id).status != "STARTED":
        return None
    with psycopg.connect(_database(up, "dagster")) as connection:
        query = "select value from run_tags where run_id = %s and key = %s"
        found = connection.execute(query, (run_id, WORKER_TAG)).fetchone()
    return psutil.Process(int(found[0].split()[0])) if found else None


def _database(up: Up, name: str) -> str:
    return database_url(up.settings["ML_PLATFORM_PLATFORM_URL"], name)


def _connections(process: psutil.Process) -> list[psutil._ntuples.pconn]:
    try:
        return process.net_connections(kind="inet")
    except psutil.NoSuchProcess:
        return []


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _processes_of(up: Up) -> list[psutil.Process]:
    """The processes anywhere on this machine that were started with this platform's settings."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ML_PLATFORM_STATE") == str(up.state):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _files(state: Path) -> Iterator[tuple[str, str]]:
    """Every file of the state folder that is not itself a place for secrets."""
    for path in state.rglob("*"):
        if path.is_file() and path.relative_to(state).parts[0] not in {"postgres", "secrets"}:
            yield str(path), path.read_bytes().decode("latin-1")


def _rows(up: Up) -> Iterator[tuple[str, str]]:
    """Every row of every table; what Dagster compresses, unpacked."""
    for database in DATABASES:
        with psycopg.connect(_database(up, database)) as connection:
            tables = connection.execute("select tablename from pg_tables where schemaname = 'public'")
            for (table,) in tables.fetchall():
                query = sql.SQL("select t::text from {} t").format(sql.Identifier(table))
                yield f"{database}.{table}", "\n".join(row for (row,) in connection.execute(query))
            if database == "dagster":
                bodies = connection.execute("select snapshot_body from snapshots").fetchall()
                yield "dagster.snapshots unpacked", "\n".join(zlib.decompress(body).decode() for (body,) in bodies)
