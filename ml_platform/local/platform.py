"""The whole platform on one machine: started in order, kept alive, told about in plain words, stopped without loss."""

import json
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx
import psutil

from ml_platform.local import services, state
from ml_platform.local.postgres import EmbeddedPostgres, create_databases
from ml_platform.local.processes import PlatformError
from ml_platform.local.runs import TRIGGER, DagsterPage
from ml_platform.local.services import DATABASES, HOST, Service
from ml_platform.local.supervisor import Supervisor
from ml_platform.local.watchdog import Watchdog
from ml_platform.local.watching import Watch
from ml_platform.resources.alert_channel import AlertChannel
from ml_platform.settings import PREFIX, PROJECT, Settings

RESTARTS = 3
LOOK_SECONDS = 1.0
TERMINATE_SECONDS = 30.0
# MLflow's first page is that of language models; this one lists the trainings.
EXPERIMENTS = "/#/experiments?workflowType=machine_learning"


def up(asked: Settings, say: Callable[[str], None]) -> None:
    """The platform has run until it was asked to stop.

    Raises:
        PlatformError: when something stands in the way; the message is one line with the remedy.
    """
    state.prepare(asked.state)
    with state.exclusive(asked.state):
        Platform(asked, say).run()


@dataclass
class Platform:
    """One platform, from its first process to its last."""

    asked: Settings
    say: Callable[[str], None]
    _here: Settings = field(init=False)
    _postgres: EmbeddedPostgres | None = None
    _supervisor: Supervisor = field(init=False)
    _watch: Watch = field(init=False)
    _watchdog: Watchdog | None = None
    _doors: Path = field(init=False)
    _stopping: bool = False
    _revivals: int = 0

    def run(self) -> None:
        """It has run until Ctrl-C or SIGTERM, or until something failed for good; everything it started has ended."""
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._interrupted)
        self._supervisor = Supervisor(self.asked.state, {}, self.say)
        self._doors = Path(tempfile.mkdtemp(prefix="ml-platform-"))
        try:
            self._start()
            self._materialize_what_is_missing()
            self._say_where()
            while True:
                self._live()
        except KeyboardInterrupt:
            pass
        finally:
            self._stopping = True
            self._stop()
            shutil.rmtree(self._doors, ignore_errors=True)

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        """The first signal stops the platform; the next one stops it faster."""
        if self._stopping:
            self._supervisor.hurry.set()
        else:
            self._stopping = True
            raise KeyboardInterrupt

    # Starting

    def _start(self) -> None:
        """Everything answers; predictions first, since they need the least."""
        if self._supervisor.end_leftovers():
            self.say("Ended what an earlier platform had left running.")
        if not self.asked.postgres_url:
            # Killed together with the platform it may still be writing its last: that port is our own.
            EmbeddedPostgres(self.asked.state, self.asked.postgres_port).stop_leftover()
        self._refuse_busy_ports()
        self._here = services.complete(self.asked, self._start_postgres())
        services.install_ledger(self._here)
        self._supervisor.environment = services.environment(self._here)
        self._start_services()
        page = DagsterPage(self._here.dagster_page)
        self._wait_for_definitions(page)
        self._watch = Watch(page, self.say)
        self._watchdog = Watchdog(page, AlertChannel(self._here.alert_urls), self.say)
        self._watchdog.start()
        state.publish(self._here.state, self._here.as_environment() | {"DAGSTER_HOME": str(PROJECT)})

    def _refuse_busy_ports(self) -> None:
        ports = {
            "dagster": self.asked.dagster_port,
            "mlflow": self.asked.mlflow_port,
            "serving": self.asked.serving_port,
        }
        if not self.asked.postgres_url:
            ports["postgres"] = self.asked.postgres_port
        for name, port in ports.items():
            refuse_busy_port(name, port)

    def _start_postgres(self) -> str:
        """The address of a PostgreSQL server that has our databases."""
        if self.asked.postgres_url:
            create_databases(self.asked.postgres_url, DATABASES)
            return self.asked.postgres_url
        self.say("Starting PostgreSQL.")
        self._postgres = EmbeddedPostgres(self.asked.state, self.asked.postgres_port)
        self._postgres.start()
        self._postgres.create_databases(DATABASES)
        return self._postgres.url("postgres")

    def _start_services(self) -> None:
        here, door = self._here, self._doors / "code.sock"
        workspace = services.write_workspace(here, door)
        self.say("Starting the model server, MLflow and Dagster.")
        first = (services.model_server(here), services.tracking_server(here), services.code_server(door))
        for service in first:
            self._supervisor.start(service)
        self._load_demo_company()
        self._supervisor.wait_until_ready(["model server", "code server"])
        then: tuple[Service, ...] = (services.dagster_page(here, workspace), services.dagster_daemon(workspace))
        for service in then:
            self._supervisor.start(service)
        self._supervisor.wait_until_ready(["mlflow", "dagster page", "dagster daemon"])

    def _load_demo_company(self) -> None:
        """The demo company has its tables. A database of the user's own is left alone."""
        if self.asked.source_url:
            return
        from ml_platform.local import company  # noqa: PLC0415 - brings pandas and the data

        for table, rows in company.load(self._here.source_url, datetime.now(UTC)).items():
            self.say(f"  loaded the demo table {table}: {rows:,} rows")

    def _wait_for_definitions(self, page: DagsterPage) -> None:
        while (error := page.load_error()) is None:
            self._supervisor.check()
            time.sleep(0.2)
        if error:
            msg = f"Dagster cannot load ml_platform.definitions: {error}"
            raise PlatformError(msg)

    # Running

    def _materialize_what_is_missing(self) -> None:
        """Every model of the catalogue has been refreshed unless it is live already."""
        missing = sorted({path[0] for path in self._watch.page.refreshable()} - set(self._live_models()))
        if not missing:
            self._watch.forget_the_past()
            return
        self.say(f"Not live yet: {', '.join(missing)}. Taking them from the table to live traffic.")
        refreshing = self._watch.already_refreshing()
        why = {TRIGGER: "not live yet"}
        runs = [refreshing.get(model) or self._watch.page.submit_refresh(model, why) for model in missing]
        while not self._watch.are_over(runs):
            self._live()
        self._say_what_is_not_live(missing, self._watch.obstacles(runs))

    def _say_what_is_not_live(self, tried: Sequence[str], obstacles: Mapping[str, str]) -> None:
        """The user knows which models that were to go live did not, why, and when that is tried again."""
        left = sorted(set(tried) - set(self._live_models()))
        for model in left:
            self.say(f"{model} is not live: {obstacles.get(model, 'its run in Dagster says why')}")
        if left:
            self.say("That is tried again at the next start, and by `ml-platform refresh MODEL`.")

    def _live(self) -> None:
        """A moment has passed: dead services were restarted, and what happened was told."""
        self._supervisor.check()
        self._revive_postgres()
        with suppress(PlatformError):  # The page is being restarted: look again in a moment.
            self._watch.look()
        time.sleep(LOOK_SECONDS)

    def _revive_postgres(self) -> None:
        """PostgreSQL runs; what was committed before it died is there."""
        if self._postgres is None or self._postgres.is_running():
            return
        self._revivals += 1
        if self._revivals > RESTARTS:
            msg = f"PostgreSQL ends again and again; its log is {self._postgres.log}"
            raise PlatformError(msg)
        self.say(f"PostgreSQL ended unexpectedly and is started again; what it said is in {self._postgres.log}.1")
        self._postgres.start()

    def _live_models(self) -> list[str]:
        """The names of the models that answer; waits for a model server that is just being restarted."""
        while True:
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self._here.serving_url}/models", timeout=10, trust_env=False).json()
                return [model["name"] for model in answer["models"]]
            self._supervisor.check()
            time.sleep(LOOK_SECONDS)

    def _say_where(self) -> None:
        """The user knows where to look and what to type."""
        here = self._here
        self.say("")
        self.say(f"Dagster, the asset graph  {here.dagster_page}/asset-groups/")
        self.say(f"MLflow, the experiments   {here.mlflow_url}{EXPERIMENTS}")
        self.say(f"Model server              {here.serving_url}/models")
        self.say("")
        live = self._live_models()
        for name in live:
            with suppress(httpx.HTTPError):
                self.say(curl(here.serving_url, name))
        if not live:
            self.say("No model is live yet.")
        self.say("")
        command = os.path.relpath(sys.argv[0]) if "/" in sys.argv[0] else sys.argv[0]
        self.say("In a second terminal:")
        self.say(f"  Change data:      {command} demo-rows loan_approval --rows 120")
        self.say(f'                    {command} sql "UPDATE ..."')
        self.say(f"  Refresh by hand:  {command} refresh MODEL")
        self.say(f"  Everything else:  {command} --help")
        self.say("Ctrl-C stops everything and loses nothing.")
        self.say("")

    # Stopping

    def _stop(self) -> None:
        """Everything that was started has ended, in the order in which nothing is lost; told as it goes."""
        state.withdraw(self.asked.state)
        if self._watchdog:
            self._watchdog.stop()
        if self._supervisor.is_empty() and self._postgres is None:
            return
        self.say("\nStopping. Ctrl-C again to stop at once.")
        # Without the daemon nothing leaves the queue: what waits there now goes on at the next start.
        self._supervisor.stop("dagster daemon")
        self._terminate_runs()
        self._supervisor.stop_all()
        if self._postgres:
            self._postgres.stop(seconds=5 if self._supervisor.hurry.is_set() else 30)
        self.say("Stopped. Everything is kept; `make run` continues.")

    def _terminate_runs(self) -> None:
        """No run is under way: each has become CANCELED and released what it held."""
        watch = getattr(self, "_watch", None)
        deadline = time.monotonic() + TERMINATE_SECONDS
        with suppress(PlatformError):
            while watch and (runs := watch.under_way()) and time.monotonic() < deadline:
                if self._supervisor.hurry.is_set():
                    return
                self.say(
                    f"  cancelling {len(runs)} run{'s'[: len(runs) > 1]} under way; queued ones go on at the next start"
                )
                watch.page.terminate(runs)
                while set(watch.under_way()) & set(runs) and time.monotonic() < deadline:
                    time.sleep(0.3)


def refuse_busy_port(name: str, port: int) -> None:
    """The port is free.

    Raises:
        PlatformError: when somebody listens on it; the message names the holder, where it may be known, and the option.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            option = f"--{name}-port NUMBER or {PREFIX}{name.upper()}_PORT"
            msg = (
                f"port {port} is not free ({error.strerror}{_holder(port)}): stop what uses it, or choose with {option}"
            )
            raise PlatformError(msg) from None


def _holder(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f", held by {psutil.Process(connection.pid).name()} with process id {connection.pid}"
    return ""


def curl(serving_url: str, model: str) -> str:
    """A command that asks the live model about a real row."""
    example = httpx.get(f"{serving_url}/models/{model}", timeout=10, trust_env=False).json()["example"]
    body = shlex.quote(json.dumps({"rows": [example]}))
    return f"curl -s {serving_url}/models/{model}/predict -H 'content-type: application/json' -d {body}"
