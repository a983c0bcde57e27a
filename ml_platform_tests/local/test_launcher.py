"""Forked runs end the way they should, whoever dies on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher.base import WorkerStatus

from ml_platform.local.launcher import WORKER_TAG, ForkRunLauncher, Worker
from ml_platform.local.leftovers import fail_dead_runs

DEADLINE = 60
JOBS = """
import os, signal, sys, time
from pathlib import Path
import dagster as dg

HERE = Path(__file__).parent

@dg.op
def quick():
    print("said by the step")

@dg.op
def wrong():
    raise ValueError("as intended")

@dg.op
def slow(context):
    (HERE / f"begun-{context.run_id}").touch()
    time.sleep(600)

@dg.op
def deaf(context):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (HERE / f"begun-{context.run_id}").touch()
    time.sleep(600)

@dg.op
def leaves():
    print("my last words", file=sys.stderr, flush=True)
    os._exit(7)

@dg.op
def environment():
    (HERE / "environment").write_text(os.environ.get("GIVEN_BY_THE_LAUNCHER", "nothing"))

@dg.repository
def all_jobs():
    return [dg.GraphDefinition(f"{op.name}_job", node_defs=[op]).to_job(executor_def=dg.in_process_executor)
            for op in (quick, wrong, slow, deaf, leaves, environment)]
"""
INSTANCE = """
run_launcher:
  module: ml_platform.local.launcher
  class: ForkRunLauncher
  config:
    preload: [{preload}]
    grace_seconds: 2
run_monitoring:
  enabled: true
telemetry:
  enabled: false
"""
LAUNCH_AND_HANG = """
import sys, time
from pathlib import Path
from ml_platform_tests.local.test_launcher import Bench
if __name__ == "__main__":
    bench = Bench(Path(sys.argv[1]))
    print(bench.launch(sys.argv[2]).run_id, flush=True)
    time.sleep(float(sys.argv[3]))
"""


class Bench:
    """A Dagster instance with the launcher, and a few jobs to launch."""

    def __init__(self, folder: Path, preload: str = "dagster._cli.api") -> None:
        """Write what is not there yet, and open the instance."""
        self.folder = folder
        self.jobs = folder / "jobs.py"
        if not self.jobs.exists():
            self.jobs.write_text(JOBS)
            (folder / "dagster.yaml").write_text(INSTANCE.format(preload=preload))
        self.instance = DagsterInstance.from_config(str(folder))

    @property
    def launcher(self) -> ForkRunLauncher:
        """The launcher under test."""
        launcher = self.instance.run_launcher
        assert isinstance(launcher, ForkRunLauncher)
        return launcher

    def create(
        self,
        job: str,
        tags: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> DagsterRun:
        """A run of the job that nobody has launched, its code in another file if so asked."""
        name = f"{job}_job"
        repository = ReconstructableRepository.for_file(str(self.jobs), "all_jobs", str(self.folder))
        elsewhere = ReconstructableRepository.for_file(str(file or self.jobs), "all_jobs", str(self.folder))
        return self.instance.create_run_for_job(
            repository.get_reconstructable_job(name).get_definition(),
            job_code_origin=elsewhere.get_reconstructable_job(name).get_python_origin(),
            tags=tags,
        )

    def launch(self, job: str, file: Path | None = None) -> DagsterRun:
        """A run of the job, launched."""
        run = self.create(job, file=file)
        return self.instance.launch_run(run.run_id, None)  # type: ignore[arg-type]  # no workspace is needed

    def run(self, run_id: str) -> DagsterRun:
        """The run as it is now."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def wait_for(self, run_id: str, *statuses: DagsterRunStatus) -> DagsterRun:
        """The run once it has one of the statuses."""
        wait_until(lambda: self.run(run_id).status in statuses, lambda: self.told(run_id))
        return self.run(run_id)

    def told(self, run_id: str) -> str:
        """All that the run's event log says."""
        return "\n".join(
            f"{entry.user_message} {entry.dagster_event.message if entry.dagster_event else ''}"
            for entry in self.instance.all_logs(run_id)
        )

    def wait_until_slow(self, run_id: str) -> Worker:
        """The worker of the run, whose slow step has begun."""
        wait_until((self.folder / f"begun-{run_id}").exists, lambda: self.told(run_id))
        worker = Worker.of(self.run(run_id))
        assert worker is not None
        return worker


def wait_until(true: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """It has become true, within the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One instance for all: making its storage takes longer than a run. No worker survives."""
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    for run in made.instance.get_runs():
        if worker := Worker.of(run):
            worker.kill()
    made.launcher.join()
    made.instance.dispose()


def hanging(
    bench: Bench, job: str, seconds: float = 600, env: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[str], str]:
    """Another process that has launched the job, and the run's id."""
    other = subprocess.Popen(
        [sys.executable, "-c", LAUNCH_AND_HANG, str(bench.folder), job, str(seconds)],
        stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert other.stdout is not None
    return other, other.stdout.readline().strip()


def test_a_run_succeeds(bench: Bench) -> None:
    """The ordinary case; the run's page says which process did it."""
    run_id = bench.launch("quick").run_id

    run = bench.wait_for(run_id, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)

    assert run.status == DagsterRunStatus.SUCCESS, bench.told(run_id)
    assert f"Forked the run's worker (pid: {run.tags[WORKER_TAG].split()[0]})" in bench.told(run_id)


def test_a_failing_run_fails_with_its_own_reason(bench: Bench) -> None:
    """The worker's exit code adds nothing to an error that Dagster has already reported."""
    run_id = bench.launch("wrong").run_id

    bench.wait_for(run_id, DagsterRunStatus.FAILURE)
    bench.launcher.join()

    assert "Steps failed" in bench.told(run_id)
    assert "The run's worker" not in bench.told(run_id)


def test_what_a_step_and_its_worker_print_is_kept(bench: Bench) -> None:
    """Dagster's page finds the step's output where it expects it; the worker's own stands beside it."""
    run_id = bench.launch("quick").run_id
    bench.wait_for(run_id, DagsterRunStatus.SUCCESS)
    bench.launcher.join()

    kept = [path for path in bench.folder.rglob("*.out") if run_id in path.parts]

    assert "worker.out" in [path.name for path in kept]
    assert any("said by the step" in path.read_text() for path in kept if path.name != "worker.out")


def test_the_environment_of_the_launcher_reaches_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was set after the forking server had started."""
    bench.wait_for(bench.launch("quick").run_id, DagsterRunStatus.SUCCESS)
    monkeypatch.setenv("GIVEN_BY_THE_LAUNCHER", "a secret")

    bench.wait_for(bench.launch("environment").run_id, DagsterRunStatus.SUCCESS)

    assert (bench.folder / "environment").read_text() == "a secret"


def test_a_killed_worker_fails_its_run_at_once(bench: Bench) -> None:
    """Kill -9, as the kernel does when memory runs out."""
    run_id = bench.launch("slow").run_id
    os.kill(bench.wait_until_slow(run_id).pid, signal.SIGKILL)

    bench.wait_for(run_id, DagsterRunStatus.FAILURE)

    assert "exit code -9 (SIGKILL)" in bench.told(run_id)


def test_a_worker_that_exits_in_the_middle_fails_its_run_with_code_and_last_words(bench: Bench) -> None:
    """A crash in a native library looks like this."""
    run_id = bench.launch("leaves").run_id

    bench.wait_for(run_id, DagsterRunStatus.FAILURE)

    assert "exit code 7" in bench.told(run_id)
    assert "my last words" in bench.told(run_id)


def test_code_that_cannot_be_imported_is_reported_on_the_run(bench: Bench) -> None:
    """The error stands in the run's event log, not only in a log file."""
    broken = bench.folder / "broken.py"
    broken.write_text("raise RuntimeError('this file is broken')")

    run_id = bench.launch("quick", file=broken).run_id
    bench.wait_for(run_id, DagsterRunStatus.FAILURE)

    errors = [str(entry.dagster_event.event_specific_data) for entry in bench.instance.all_logs(run_id)
              if entry.dagster_event]  # fmt: skip
    assert "this file is broken" in "\n".join([*errors, bench.told(run_id)])


def test_a_terminated_run_becomes_canceled(bench: Bench) -> None:
    """Dagster ends it properly: the step is interrupted."""
    run_id = bench.launch("slow").run_id
    bench.wait_until_slow(run_id)

    assert bench.launcher.terminate(run_id)

    bench.wait_for(run_id, DagsterRunStatus.CANCELED)
    assert not bench.launcher.terminate(run_id)


def test_a_run_that_does_not_listen_is_killed_after_the_grace_period(bench: Bench) -> None:
    """Nothing that a step does can keep it from being cancelled."""
    run_id = bench.launch("deaf").run_id
    worker = bench.wait_until_slow(run_id)

    bench.launcher.terminate(run_id)

    assert worker.is_alive(), "asking waited for the end"
    bench.wait_for(run_id, DagsterRunStatus.CANCELED)
    assert not worker.is_alive()


def test_a_run_outlives_its_launcher_and_can_be_terminated_from_elsewhere(bench: Bench) -> None:
    """The daemon is killed: the run goes on, is known to live, and obeys."""
    daemon, run_id = hanging(bench, "slow")
    bench.wait_until_slow(run_id)
    daemon.kill()
    daemon.wait()

    health = bench.launcher.check_run_worker_health(bench.run(run_id))

    assert health.status == WorkerStatus.RUNNING
    assert bench.launcher.terminate(run_id)
    bench.wait_for(run_id, DagsterRunStatus.CANCELED)


def test_a_launcher_that_exits_does_not_wait_for_its_run_whose_death_is_noticed_later(bench: Bench) -> None:
    """What run monitoring of the next daemon asks is answered right, before and after."""
    daemon, run_id = hanging(bench, "slow", seconds=0)
    worker = bench.wait_until_slow(run_id)
    daemon.wait(DEADLINE)

    alive = bench.launcher.check_run_worker_health(bench.run(run_id))
    worker.kill()
    dead = bench.launcher.check_run_worker_health(bench.run(run_id))

    assert (alive.status, dead.status) == (WorkerStatus.RUNNING, WorkerStatus.FAILED)


def test_a_platform_that_starts_settles_what_died_with_the_last_one(bench: Bench) -> None:
    """Nobody watches these runs any more: they are failed, and their living workers ended first."""
    daemon, living = hanging(bench, "slow", seconds=0)
    worker = bench.wait_until_slow(living)
    daemon.wait(DEADLINE)

    settled_by_a_daemon_that_was_restarted = list(fail_dead_runs(bench.instance, end_living=False))
    settled_by_a_new_platform = list(fail_dead_runs(bench.instance, end_living=True))

    assert living not in settled_by_a_daemon_that_was_restarted
    assert settled_by_a_new_platform == [living]
    assert not worker.is_alive()
    assert bench.run(living).status == DagsterRunStatus.FAILURE


def test_a_reused_process_id_is_not_taken_for_the_worker(bench: Bench) -> None:
    """Our own process has the id, but did not begin when the worker did."""
    run_id = bench.launch("quick").run_id
    run = bench.wait_for(run_id, DagsterRunStatus.SUCCESS)
    impostor = Worker(os.getpid(), "another-boot-1").tags(run_id)

    health = bench.launcher.check_run_worker_health(run.with_tags({**run.tags, **impostor}))

    assert health.status == WorkerStatus.FAILED


def test_a_reexecuted_run_does_not_inherit_the_worker_of_its_parent(bench: Bench) -> None:
    """Dagster copies the parent's tags to the new run."""
    parent = bench.launch("quick")
    tags = bench.wait_for(parent.run_id, DagsterRunStatus.SUCCESS).tags
    child = bench.create("quick", tags=tags)

    assert Worker.of(bench.run(parent.run_id)) is not None
    assert Worker.of(child) is None


def test_runs_leave_no_zombies(bench: Bench) -> None:
    """Neither this process nor the forking server keeps dead children."""
    bench.wait_for(bench.launch("quick").run_id, DagsterRunStatus.SUCCESS)
    bench.launcher.join()

    assert [child for child in family() if child.status() == psutil.STATUS_ZOMBIE] == []


def family() -> Sequence[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


def test_a_preload_that_breaks_does_not_keep_runs_from_being_launched(tmp_path: Path) -> None:
    """The run imports for itself, and reports what it cannot import."""
    (tmp_path / "explodes.py").write_text("raise RuntimeError('not on my watch')")
    bench = Bench(tmp_path, preload="explodes")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    daemon, run_id = hanging(bench, "quick", seconds=0, env={**os.environ, "PYTHONPATH": paths})
    daemon.wait(DEADLINE)

    run = bench.wait_for(run_id, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)

    assert run.status == DagsterRunStatus.SUCCESS, bench.told(run.run_id)
    bench.instance.dispose()
