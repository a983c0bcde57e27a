"""Services are kept running, and none of them survives its platform."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.local import processes
from ml_platform.local.processes import PlatformError
from ml_platform.local.services import Service
from ml_platform.local.supervisor import RESTARTS, Supervisor

BRIEFLY = 10
SERVE = "import pathlib, time; print('begun', flush=True); pathlib.Path('up').touch(); time.sleep(600)"
WITH_CHILD = (
    "import pathlib, subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "pathlib.Path('child').write_text(str(child.pid)); pathlib.Path('up').touch(); time.sleep(600)"
)
DEAF = (
    "import pathlib, signal, time; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; "
    "pathlib.Path('up').touch(); time.sleep(600)"
)
PLATFORM = """
import os, sys, time
from pathlib import Path
from ml_platform.local.services import Service
from ml_platform.local.supervisor import Supervisor
state = Path(sys.argv[1])
supervisor = Supervisor(state, os.environ, print)
command = (sys.executable, "-c", sys.argv[2])
supervisor.start(Service(name="thing", command=command, is_ready=(state / "up").exists))
supervisor.wait_until_ready(["thing"])
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def told() -> list[str]:
    """What the supervisor said."""
    return []


@pytest.fixture
def supervisor(tmp_path: Path, told: list[str]) -> Iterator[Supervisor]:
    """A supervisor without services; whatever it starts is gone afterwards."""
    one = Supervisor(tmp_path, dict(os.environ), told.append)
    yield one
    one.hurry.set()
    one.stop_all()


def thing(supervisor: Supervisor, code: str, **more: float) -> Service:
    """A service that runs a piece of Python and is ready when it has made the file `up`."""
    mark = supervisor.state / "up"
    return Service(name="thing", command=(sys.executable, "-c", code), is_ready=mark.exists, **more)  # type: ignore[arg-type]


def pid_of(supervisor: Supervisor) -> int:
    """The process of the only service, as it is remembered on disk."""
    return int(json.loads((supervisor.state / "processes.json").read_text())[0]["pid"])


def test_a_service_is_told_about_when_it_is_up(supervisor: Supervisor, told: list[str]) -> None:
    """And what it says is in its log."""
    supervisor.start(thing(supervisor, SERVE))
    supervisor.wait_until_ready(["thing"])

    assert told == ["  thing is up (0 s)"]
    assert (supervisor.state / "logs" / "thing.log").read_text() == "begun\n"


def test_a_service_that_cannot_start_is_named_with_its_last_words(supervisor: Supervisor) -> None:
    """One message says which, why, and where to read on."""
    supervisor.start(thing(supervisor, "import sys; sys.exit('no such table')"))

    with pytest.raises(
        PlatformError, match=r"thing ended unexpectedly \(exit code 1\).*thing\.log\n  \| no such table"
    ):
        supervisor.wait_until_ready(["thing"])


def test_a_crashed_service_is_started_again_but_not_for_ever(supervisor: Supervisor, told: list[str]) -> None:
    """A few crashes are survived; a service that cannot live ends the platform."""
    supervisor.start(thing(supervisor, SERVE))
    for _ in range(RESTARTS):
        kill(pid_of(supervisor))
        supervisor.check()

    assert len([line for line in told if "started again" in line]) == RESTARTS
    kill(pid_of(supervisor))
    with pytest.raises(PlatformError, match="SIGKILL"):
        supervisor.check()


def kill(pid: int) -> None:
    """The process has been killed; its parent may not have looked yet."""
    since = processes.started(pid)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until_gone(pid, since, BRIEFLY)


def test_stopping_ends_what_a_service_has_started(supervisor: Supervisor) -> None:
    """No grandchild goes on holding a port."""
    supervisor.start(thing(supervisor, WITH_CHILD))
    supervisor.wait_until_ready(["thing"])
    child = int((supervisor.state / "child").read_text())
    since = processes.started(child)

    supervisor.stop("thing")

    assert processes.wait_until_gone(child, since, BRIEFLY)


def test_a_service_that_does_not_listen_is_killed_after_its_patience(supervisor: Supervisor) -> None:
    """Stopping always comes to an end."""
    supervisor.start(thing(supervisor, DEAF, patience=0.3))
    supervisor.wait_until_ready(["thing"])
    pid, since = pid_of(supervisor), processes.started(pid_of(supervisor))

    supervisor.stop("thing")

    assert not processes.is_alive(pid, since)


def test_in_a_hurry_nobody_waits(supervisor: Supervisor) -> None:
    """The second Ctrl-C."""
    supervisor.start(thing(supervisor, DEAF, patience=600))
    supervisor.wait_until_ready(["thing"])
    supervisor.hurry.set()
    begun = time.monotonic()

    supervisor.stop_all()

    assert time.monotonic() - begun < BRIEFLY


def test_a_log_is_kept_for_one_more_start(supervisor: Supervisor) -> None:
    """What an earlier start said can still be read."""
    for _ in range(2):
        (supervisor.state / "up").unlink(missing_ok=True)
        supervisor.start(thing(supervisor, SERVE))
        supervisor.wait_until_ready(["thing"])
        supervisor.stop("thing")

    logs = supervisor.state / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["thing.log", "thing.log.1"]
    assert (logs / "thing.log").read_text() == "begun\n"


@pytest.mark.parametrize("code", [SERVE, DEAF])
def test_after_kill_9_of_the_platform_the_next_one_finds_nothing_running(
    supervisor: Supervisor, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel asks the services to end; the next platform makes sure."""
    monkeypatch.setattr("ml_platform.local.supervisor.LEFTOVER_SECONDS", 0.3)
    platform = subprocess.Popen(
        [sys.executable, "-c", PLATFORM, str(supervisor.state), code], stdout=subprocess.PIPE, text=True
    )
    assert platform.stdout is not None
    while platform.stdout.readline() != "ready\n":
        assert platform.poll() is None
    pid, since = pid_of(supervisor), processes.started(pid_of(supervisor))
    platform.kill()
    platform.wait()

    supervisor.end_leftovers()

    assert not processes.is_alive(pid, since)


def test_a_process_that_got_the_id_of_a_service_is_left_alone(supervisor: Supervisor) -> None:
    """After a reboot the ids belong to others."""
    bystander = subprocess.Popen(["sleep", "600"])
    record = [{"name": "thing", "pid": bystander.pid, "since": "another-boot-1"}]
    (supervisor.state / "processes.json").write_text(json.dumps(record))

    assert supervisor.end_leftovers() == 0
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
