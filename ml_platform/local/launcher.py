"""The run launcher of one machine: each run is a process forked from one that has already imported everything heavy."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

from dagster import Array, DagsterInstance, DagsterRun, DagsterRunStatus, Field, Float
from dagster._config.config_schema import UserConfigSchema
from dagster._core.errors import DagsterLaunchFailedError
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from ml_platform.local import processes

WORKER_TAG = ".dagster/ml_platform_worker"  # this prefix hides it in the page
PRELOAD = "ml_platform.local.preload"
TAIL_BYTES = 4_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """The process that executes a run: its id, and when it began, so that a reused id is not taken for it."""

    pid: int
    since: str

    @classmethod
    def of(cls, run: DagsterRun) -> Self | None:
        """The worker noted on the run. A re-executed run inherits its parent's tags, but not its parent's worker."""
        pid, _, rest = run.tags.get(WORKER_TAG, "").partition(" ")
        since, _, run_id = rest.partition(" ")
        return cls(int(pid), since) if run_id == run.run_id else None

    def tags(self, run_id: str) -> dict[str, str]:
        """The note from which any process finds the worker again."""
        return {WORKER_TAG: f"{self.pid} {self.since} {run_id}"}

    def is_alive(self) -> bool:
        """Whether it still works."""
        return processes.is_alive(self.pid, self.since)

    def kill(self) -> None:
        """It is gone, and the processes it started with it."""
        processes.end(self.pid, self.since, [(signal.SIGKILL, 10.0)])


@dataclass(frozen=True)
class _Order:
    """What a fresh worker needs to know."""

    arguments: str
    environment: dict[str, str]
    output: tuple[Path, Path] | None
    go: Connection


def _work(order: _Order) -> None:
    """Execute the run, in a session of its own: neither Ctrl-C nor the end of the launching process reaches it."""
    os.setsid()
    try:
        order.go.recv()
    except EOFError:
        return  # The launcher died before it noted down who we are, or the run was cancelled meanwhile.
    os.environ.clear()
    os.environ.update(order.environment)
    if order.output:
        _redirect(*order.output)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Otherwise every forked run would draw the same numbers.
    from dagster._cli.api import execute_run_command  # noqa: PLC0415 - imported before the fork, where there was time

    execute_run_command.main(args=[order.arguments], standalone_mode=True)


def _redirect(out: Path, err: Path) -> None:
    """What the worker prints from now on is in the files where Dagster's page looks for it."""
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("ab") as file:
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


class ForkRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Launches runs by forking, and knows from any process whether they are alive.

    The forking server is started by the first launch, or by `warm_up`: processes that only read the instance, such as
    the webserver, never pay for it. A run outlives the process that launched it.
    """

    def __init__(
        self,
        preload: Sequence[str] = (PRELOAD,),
        grace_seconds: float = 20,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        """Remember what to import before forking, and how long a terminated run may take to end by itself."""
        self._inst_data = inst_data
        self._preload = list(preload)
        self._grace_seconds = grace_seconds
        self._context = multiprocessing.get_context("forkserver")
        self._starting = threading.Lock()
        self._watchers: dict[str, threading.Thread] = {}
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Where this launcher was configured."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """The keys under `config:` in dagster.yaml."""
        return {
            "preload": Field(Array(str), is_required=False, default_value=[PRELOAD]),
            "grace_seconds": Field(Float, is_required=False, default_value=20.0),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The launcher described in dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    def warm_up(self) -> None:
        """The forking server is importing; the first run waits only for what is left of it."""
        self._context.set_forkserver_preload(self._preload)
        forkserver.ensure_running()

    def launch_run(self, context: LaunchRunContext) -> None:
        """The run's worker is working and noted on the run.

        It waits for a word from here before it begins: no run is ever executed by a process that nobody could find.
        """
        run = context.dagster_run
        origin = run.job_code_origin
        if origin is None:
            msg = f"run {run.run_id} does not say where its code is"
            raise DagsterLaunchFailedError(msg)  # type: ignore[no-untyped-call]
        arguments = ExecuteRunArgs(origin, run.run_id, self._instance.get_ref(), set_exit_code_on_failure=True)
        waiting, go = self._context.Pipe(duplex=False)
        with waiting, go:
            process = self._start(_Order(serialize_value(arguments), dict(os.environ), self._output(run), waiting))
            worker = Worker(process.pid or 0, processes.started(process.pid or 0))
            self._instance.add_run_tags(run.run_id, worker.tags(run.run_id))
            self._watch(run.run_id, process, worker)
            if self._is_wanted(run.run_id):
                self._instance.report_engine_event(
                    f"Forked the run's worker (pid: {worker.pid}).", run, EngineEventData.in_process(worker.pid)
                )
                with suppress(BrokenPipeError):  # It died at once: its watcher says so.
                    go.send(None)

    def terminate(self, run_id: str) -> bool:
        """The run is on its way to CANCELED: asked to end, and ended if it does not. Returns at once."""
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        if run is None or run.is_finished:
            return False
        if run.status != DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        worker = Worker.of(run)
        if worker is None:
            return True  # Still being launched: it will see that it is no longer wanted.
        if not worker.is_alive():
            self._settle(run_id, worker)
            return True
        processes.send(worker.pid, worker.since, signal.SIGINT)
        threading.Thread(
            target=self._insist, args=(run_id, worker), name=f"terminate-{run_id[:8]}", daemon=True
        ).start()
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker lives, asked from any process, also one that did not launch it."""
        worker = Worker.of(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "launched by something else, which alone can tell")
        if worker.is_alive():
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(worker.pid))
        if watcher := self._watchers.get(run.run_id):
            watcher.join(5)  # It knows the exit code and reports it; monitoring then finds the run already finished.
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process (pid: {worker.pid}) is gone")

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:  # noqa: FBT001, FBT002 - Dagster's signature
        """The end of what the worker printed outside its steps."""
        del include_container_logs
        output = self._output(run)
        said = _tail(output[1]) if output else ""
        return f"The end of what it printed ({output[1]}):\n{said}" if output and said else None

    def join(self, timeout: int = 30) -> None:
        """The runs launched from here have ended, or the time is over."""
        for watcher in list(self._watchers.values()):
            watcher.join(timeout)

    def _start(self, order: _Order) -> ForkServerProcess:
        """A worker process, even when something that was to be imported beforehand breaks the import."""
        self._context.set_forkserver_preload(self._preload)
        try:
            return self._fork(order)
        except (EOFError, OSError):
            logger.exception("could not preload %s: runs import it themselves, slower", ", ".join(self._preload))
            self._await_death_of_forkserver()
            self._preload = []
            self._context.set_forkserver_preload([])
            return self._fork(order)

    def _fork(self, order: _Order) -> ForkServerProcess:
        with self._starting:
            process = self._context.Process(target=_work, args=(order,), name="ml-platform-run")
            process.start()
            # Otherwise Python would wait at its exit until the run is over.
            multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]  # noqa: SLF001
            return process

    @staticmethod
    def _await_death_of_forkserver() -> None:
        """A broken forking server has ended: while it is still ending, Python would take it for a working one."""
        server: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # noqa: SLF001
        if server is not None:
            processes.wait_until_gone(server, processes.started(server), 10)

    def _is_wanted(self, run_id: str) -> bool:
        """Whether the run still is to be executed; it may have been cancelled while it was launched."""
        run = self._instance.get_run_by_id(run_id)
        return run is not None and run.status in {DagsterRunStatus.STARTING, DagsterRunStatus.NOT_STARTED}

    def _watch(self, run_id: str, process: ForkServerProcess, worker: Worker) -> None:
        """The run will be settled as soon as its worker has ended, in whatever way."""
        watcher = threading.Thread(
            target=self._wait_and_settle, args=(run_id, process, worker), name=f"watch-{run_id[:8]}", daemon=True
        )
        self._watchers[run_id] = watcher
        watcher.start()

    def _wait_and_settle(self, run_id: str, process: ForkServerProcess, worker: Worker) -> None:
        process.join()
        # Should the forking server die, the worker only looks dead from here.
        processes.wait_until_gone(worker.pid, worker.since, float("inf"))
        self._settle(run_id, worker, process.exitcode)
        self._watchers.pop(run_id, None)

    def _insist(self, run_id: str, worker: Worker) -> None:
        """The worker has ended, by force if need be, and so has its run."""
        half = self._grace_seconds / 2
        # The worker already had its SIGINT: half of its time is waiting, then it is reminded, then it is killed.
        if not processes.wait_until_gone(worker.pid, worker.since, half):
            processes.end(worker.pid, worker.since, [(signal.SIGTERM, half), (signal.SIGKILL, 10.0)])
        if run_id not in self._watchers:
            self._settle(run_id, worker)

    def _settle(self, run_id: str, worker: Worker, exit_code: int | None = None) -> None:
        """A run whose worker is gone is over: failed with the reason, or cancelled where that was wanted."""
        run = self._instance.get_run_by_id(run_id) if self.has_instance else None
        if run is None or run.is_finished:
            return
        if run.status == DagsterRunStatus.CANCELING:
            self._instance.report_run_canceled(run, "The run was terminated.")
            return
        how = "is gone" if exit_code is None else f"ended with {processes.in_words(exit_code)} before the run was over"
        debug = self.get_run_worker_debug_info(run)
        message = f"The run's worker (pid: {worker.pid}) {how}."
        self._instance.report_run_failed(run, f"{message}\n{debug}" if debug else message)

    def _output(self, run: DagsterRun) -> tuple[Path, Path] | None:
        """The files for what the worker prints, beside those of its steps; they exist."""
        manager = self._instance.compute_log_manager
        if not isinstance(manager, LocalComputeLogManager):
            return None
        key = manager.build_log_key_for_run(run.run_id, "worker")
        out, err = (Path(manager.get_captured_local_path(key, kind)) for kind in ("out", "err"))
        out.parent.mkdir(parents=True, exist_ok=True)
        return out, err


def _tail(path: Path) -> str:
    """The end of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
