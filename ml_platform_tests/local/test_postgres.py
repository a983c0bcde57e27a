"""The embedded PostgreSQL keeps what it was given, through crashes, for its owner only."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from ml_platform.local import processes
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import PlatformError, free_port

START_AND_HANG = """
import sys, time
from pathlib import Path
from ml_platform.local.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), int(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def test_it_makes_databases_and_making_them_again_changes_nothing(postgres: EmbeddedPostgres) -> None:
    """Every start asks for the databases."""
    postgres.create_databases(["company", "platform"])
    with psycopg.connect(postgres.url("company")) as connection:
        connection.execute("CREATE TABLE kept (n int)")

    postgres.create_databases(["company", "platform"])

    with psycopg.connect(postgres.url("company")) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_it_listens_on_loopback_only_and_wants_the_password(postgres: EmbeddedPostgres) -> None:
    """Other users of the machine do not get in: there is no open socket and no trust."""
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(postgres.pid).net_connections(kind="all")
        if connection.status == psutil.CONN_LISTEN
    }
    sockets = psutil.Process(postgres.pid).net_connections(kind="unix")

    assert listening == {"127.0.0.1"}
    assert not [one for one in sockets if ".s.PGSQL" in str(one.laddr)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url("postgres").replace(postgres.password, "guess"))


def test_its_password_and_its_data_are_for_the_owner_only(postgres: EmbeddedPostgres) -> None:
    """Neither group nor others may read them."""
    secrets = postgres.state / "secrets"

    assert [stat.S_IMODE(path.stat().st_mode) for path in (secrets, secrets / "postgres_password", postgres.data)] == [
        0o700,
        0o600,
        0o700,
    ]


def test_it_is_durable(postgres: EmbeddedPostgres) -> None:
    """A committed row survives power loss."""
    with psycopg.connect(postgres.url("postgres")) as connection:
        settings = [connection.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit")]

    assert settings == [("on",), ("on",)]


def test_a_half_written_folder_is_done_again(state: Path) -> None:
    """The preparation was interrupted: what it left behind does not count."""
    half = state / "postgres.incomplete" / "data"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    server = EmbeddedPostgres(state, free_port())

    server.start()
    server.stop()

    assert not half.exists()
    assert server.data.exists()


def test_a_server_left_by_a_killed_platform_is_stopped_and_its_rows_are_kept(state: Path) -> None:
    """The platform is killed with -9, then a start on the same folder, on another port."""
    first_port, second_port = free_port(), free_port()
    platform = subprocess.Popen(
        [sys.executable, "-c", START_AND_HANG, str(state), str(first_port)], stdout=subprocess.PIPE, text=True
    )
    assert platform.stdout is not None
    left_behind = int(platform.stdout.readline())
    since = processes.started(left_behind)
    server = EmbeddedPostgres(state, second_port)
    with psycopg.connect(server.url("postgres").replace(str(second_port), str(first_port))) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    platform.kill()
    platform.wait()

    server.start()

    assert not processes.is_alive(left_behind, since)
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
    server.stop()


def test_a_stale_lock_does_not_kill_the_process_that_has_its_old_id(state: Path) -> None:
    """After a reboot the id in the lock file may belong to anybody."""
    server = EmbeddedPostgres(state, free_port())
    server.start()
    server.stop()
    bystander = subprocess.Popen(["sleep", "600"])
    (server.data / "postmaster.pid").write_text(f"{bystander.pid}\n{server.data}\n")

    server.start()
    server.stop()

    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_lost_password_is_one_clear_line(state: Path) -> None:
    """A new password would not open the old database."""
    server = EmbeddedPostgres(state, free_port())
    server.start()
    server.stop()
    (state / "secrets" / "postgres_password").unlink()

    with pytest.raises(PlatformError, match="postgres_password is missing: restore it, or delete"):
        server.start()


def test_a_folder_of_something_else_is_one_clear_line(state: Path) -> None:
    """Somebody's files are not taken for a database."""
    server = EmbeddedPostgres(state, free_port())
    server.data.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(server.data, "nobody")

    with pytest.raises(PlatformError, match="not a PostgreSQL data folder"):
        server.start()


def test_the_kernel_ends_it_with_its_parent(state: Path) -> None:
    """A kill -9 of the platform leaves no server behind, on Linux."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent died")
    platform = subprocess.Popen(
        [sys.executable, "-c", START_AND_HANG, str(state), str(free_port())], stdout=subprocess.PIPE, text=True
    )
    assert platform.stdout is not None
    server = int(platform.stdout.readline())
    since = processes.started(server)
    begun = time.monotonic()

    platform.send_signal(signal.SIGKILL)
    platform.wait()

    assert processes.wait_until_gone(server, since, 20), f"still there after {time.monotonic() - begun:.0f} s"
