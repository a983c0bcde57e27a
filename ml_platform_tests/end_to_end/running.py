"""A platform as its user has it: `ml-platform up` in a terminal, asked, stopped with Ctrl-C, started again."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from ml_platform.local import state as folder
from ml_platform.local.processes import free_port
from ml_platform.local.runs import LOCATION, OVER, UNDER_WAY, WAITING, DagsterPage
from ml_platform.settings import PREFIX, PROJECT

COMMAND = Path(sys.executable).with_name("ml-platform")
READY = "Change data:"
START_SECONDS, STOP_SECONDS, RUN_SECONDS = 400, 120, 300
MODELS = ("loan_approval", "student_dropout")
PORTS = ("dagster", "mlflow", "serving", "postgres")
TAGS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status tags { key value } startTime endTime } } }"
MADE = """query($run: ID!) { runOrError(runId: $run) { ... on Run { assetMaterializations { assetKey { path } } } } }"""
LAUNCH_DRIFT = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } } }"""
METADATA = """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
  assetMaterializations(limit: 1) { metadataEntries { label ... on TextMetadataEntry { text }
    ... on UrlMetadataEntry { url } ... on BoolMetadataEntry { boolValue } } } } } }"""
T = TypeVar("T")


def until(what: str, look: Callable[[], T | None], seconds: float = RUN_SECONDS) -> T:
    """What `look` finds, as soon as it finds something true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


@dataclass
class Terminal:
    """One `ml-platform up` and what it has printed so far."""

    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] = field(init=False)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _over: bool = False

    def __post_init__(self) -> None:
        """It runs, and a thread reads along."""
        self.process = subprocess.Popen(
            [str(COMMAND), "up"], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, words: str, seconds: float) -> None:
        """A line with these words has been printed."""
        with self._news:
            said = self._news.wait_for(lambda: any(words in line for line in self.lines) or self._over, seconds)
        assert said, f"{words!r} was not said within {seconds:.0f} s\n{self.text()}"
        assert any(words in line for line in self.lines), f"ended before it said {words!r}\n{self.text()}"

    def text(self) -> str:
        """Everything printed so far."""
        return "".join(self.lines)

    def end(self, sig: signal.Signals) -> int:
        """The exit code after a signal."""
        self.process.send_signal(sig)
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(10)
        return code

    def _read(self) -> None:
        for line in self.process.stdout or []:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()


@dataclass
class Up:
    """The platform of one state folder."""

    state: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})
    terminal: Terminal = field(init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What its user has set: a folder and ports of its own, nothing else."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "DAGSTER_"))}
        ports = {f"{PREFIX}{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        return inherited | ports | {f"{PREFIX}STATE": str(self.state)}

    @cached_property
    def page(self) -> DagsterPage:
        """Dagster's page, for questions."""
        return DagsterPage(f"http://127.0.0.1:{self.ports['dagster']}")

    @property
    def secrets(self) -> dict[str, str]:
        """What nobody may find elsewhere."""
        names = ("postgres_password", "serving_token")
        return {name: (self.state / "secrets" / name).read_text(encoding="ascii") for name in names}

    @property
    def settings(self) -> dict[str, str]:
        """What the platform publishes for the commands beside it."""
        return folder.published(self.state)

    def start(self, seconds: float = START_SECONDS) -> None:
        """It says that it is ready."""
        self.terminal = Terminal(self.environment)
        self.terminal.wait_for(READY, seconds)

    def interrupt(self) -> int:
        """The exit code after Ctrl-C."""
        return self.terminal.end(signal.SIGINT)

    def is_running(self) -> bool:
        """Whether somebody still has it open."""
        return self.terminal.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Every process that it started, itself included."""
        top = psutil.Process(self.terminal.process.pid)
        return [top, *top.children(recursive=True)]

    def type(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a command typed in a second terminal says."""
        return subprocess.run(
            [str(COMMAND), *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """Dagster's answer to a GraphQL question."""
        return self.page.ask(query, **variables)

    def wait_for_run(self, run_id: str) -> dict[str, Any]:
        """A run that is over: its status, its tags, when it began and ended."""

        def over() -> dict[str, Any] | None:
            run: dict[str, Any] = self.ask(TAGS, run=run_id)["runOrError"]
            return run if run["status"] in OVER else None

        run = until(f"run {run_id} is over", over)
        return run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}}

    def wait_until_quiet(self) -> None:
        """No run waits or is under way."""
        until("no run is under way", lambda: not self.page.runs(statuses=[*WAITING, *UNDER_WAY]))

    def rooms_made(self, run_id: str) -> set[str]:
        """The rooms that a run materialized."""
        made = self.ask(MADE, run=run_id)["runOrError"]["assetMaterializations"]
        return {one["assetKey"]["path"][1] for one in made}

    def metadata(self, model: str, room: str) -> dict[str, Any]:
        """Texts, links and yes-or-nos of a room's newest materialization."""
        newest = self.ask(METADATA, key={"path": [model, room]})["assetOrError"]["assetMaterializations"][0]
        return {
            entry["label"]: value
            for entry in newest["metadataEntries"]
            for kind, value in entry.items()
            if kind != "label"
        }

    def live(self) -> dict[str, str]:
        """The version that answers, for each model."""
        answer = httpx.get(f"{self.settings[f'{PREFIX}SERVING_URL']}/models", timeout=30, trust_env=False).json()
        return {model["name"]: model["version"] for model in answer["models"]}

    def answer_one_row(self, model: str, times: int) -> None:
        """The model has answered the same row many times: nothing like the rows that it was trained on."""
        url = f"{self.settings[f'{PREFIX}SERVING_URL']}/models/{model}"
        row = httpx.get(url, timeout=30, trust_env=False).json()["example"]
        answer = httpx.post(f"{url}/predict", json={"rows": [row] * times}, timeout=60, trust_env=False)
        assert answer.is_success, answer.text

    def look_for_drift(self, model: str) -> str:
        """The id of a finished run of the drift job."""
        selector = LOCATION | {"jobName": "drift", "assetSelection": [{"path": [model, "drift_report"]}]}
        params = {"selector": selector, "runConfigData": {}}
        run_id = str(self.ask(LAUNCH_DRIFT, params=params)["launchRun"]["run"]["runId"])
        assert self.wait_for_run(run_id)["status"] == "SUCCESS"
        return run_id


@contextmanager
def started(state: Path) -> Iterator[Up]:
    """A platform with both models live, from an empty folder to the end of the block; nothing of it remains."""
    up = Up(state)
    try:
        up.start()
        assert set(up.live()) == set(MODELS), up.terminal.text()
        yield up
    finally:
        if up.is_running():
            tree = up.tree()
            up.interrupt()
            for process in psutil.wait_procs(tree, 10)[1]:
                process.kill()


def dagster_of(up: Up, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What Dagster's own command says in a shell that took over the platform's settings."""
    dagster = Path(sys.executable).with_name("dagster")
    script = f'eval "$("{COMMAND}" env)" && exec "{dagster}" "$@"'
    return subprocess.run(
        ["sh", "-c", script, "sh", *arguments], cwd=PROJECT, env=up.environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
