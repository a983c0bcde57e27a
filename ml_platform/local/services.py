"""The services of one machine: how each is started and how one knows that it is ready."""

import os
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from ml_platform.local.processes import PlatformError
from ml_platform.settings import PROJECT, Settings

HOST = "127.0.0.1"
DATABASES = ("company", "platform", "dagster", "mlflow")
LEDGER_ROLE = "ml_platform_ledger"
WORKSPACE = """load_from:
  - grpc_server:
      socket: {socket}
      location_name: ml_platform
"""
QUIET = {
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
}
# OpenMP's threads spin while they wait; two trainings on two cores then take a hundred times as long as one.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
# Compiling every imported library anew doubles the time that everything takes to start.
UNWANTED = frozenset({"PYTHONDONTWRITEBYTECODE"})


@dataclass(frozen=True, kw_only=True)
class Service:
    """A process that the platform keeps running."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    patience: float = 15.0
    restart: tuple[str, ...] = ()

    @property
    def log_name(self) -> str:
        """The file under `logs/` that has what it says."""
        return f"{self.name.replace(' ', '_')}.log"

    def again(self) -> "Service":
        """The same after a crash."""
        return replace(self, command=self.restart) if self.restart else self


def model_server(here: Settings) -> Service:
    """What answers predictions."""
    return Service(
        name="model server",
        command=(sys.executable, "-m", "ml_platform.serving"),
        is_ready=lambda: _answers(f"{here.serving_url}/healthz"),
        patience=here.drain_seconds + 30.0,  # Its workers drain, then what they answered last is shipped.
    )


def tracking_server(here: Settings) -> Service:
    """MLflow: experiments and the model registry."""
    return Service(
        name="mlflow",
        command=(sys.executable, "-m", "ml_platform.local.tracking_server"),
        is_ready=lambda: _answers(f"{here.mlflow_url}/health"),
    )


def code_server(door: Path) -> Service:
    """The definitions, loaded once for the page and the daemon; *Reload definitions* in the page loads them again."""
    module = ("-m", "ml_platform.definitions", "--location-name", "ml_platform", "-d", str(PROJECT))
    return Service(
        name="code server",
        command=(sys.executable, "-m", "dagster", "code-server", "start", "--socket", str(door), *module),
        is_ready=lambda: _accepts(door),
    )


def dagster_page(here: Settings, workspace: Path) -> Service:
    """Dagster's web page."""
    address = ("-h", HOST, "-p", str(here.dagster_port), "-w", str(workspace))
    return Service(
        name="dagster page",
        command=(sys.executable, "-m", "dagster_webserver", *address),
        is_ready=lambda: _answers(f"{here.dagster_page}/server_info"),
    )


def dagster_daemon(workspace: Path) -> Service:
    """What runs schedules, sensors and the run queue."""
    command = (sys.executable, "-m", "ml_platform.local.daemon", "-w", str(workspace))
    return Service(name="dagster daemon", command=(*command, "--fresh"), is_ready=lambda: True, restart=command)


def complete(here: Settings, server_url: str) -> Settings:
    """The settings with everything filled in that was left to the platform."""
    platform_url, secrets_of = database_url(server_url, "platform"), here.state / "secrets"
    made = {
        "source_url": database_url(server_url, "company"),
        "platform_url": platform_url,
        "ledger_url": _as_user(
            here.platform_url or platform_url, LEDGER_ROLE, here.state / "secrets" / "ledger_password"
        ),
        # Dagster speaks to PostgreSQL through SQLAlchemy, in the words of psycopg2: its NOTIFY fails with psycopg 3.
        "dagster_url": database_url(server_url, "dagster").replace("postgresql://", "postgresql+psycopg2://", 1),
        "mlflow_backend_url": database_url(server_url, "mlflow"),
        "mlflow_url": f"http://{HOST}:{here.mlflow_port}",
        "serving_url": f"http://{HOST}:{here.serving_port}",
        "serving_token": _secret(secrets_of / "serving_token"),
        "hash_key": _secret(secrets_of / "hash_key"),
        "dagster_page": f"http://{HOST}:{here.dagster_port}",
        "dagster_files": str(here.state / "dagster"),
    }
    return replace(here, **{name: value for name, value in made.items() if not getattr(here, name)})  # type: ignore[arg-type]


def install_ledger(here: Settings) -> None:
    """The platform's database has the decision ledger and the role that writes it.

    Raises:
        PlatformError: when the database does not allow it.
    """
    import psycopg  # noqa: PLC0415 - a third of a second that only this needs

    from ml_platform.resources import ledger_table  # noqa: PLC0415 - as above

    try:
        ledger_table.install(here.platform_url, here.ledger_url)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"the decision ledger cannot be set up ({reason}): let the user of ML_PLATFORM_PLATFORM_URL create tables "
            f"and roles, or create the role yourself and give its address as ML_PLATFORM_LEDGER_URL"
        )
        raise PlatformError(msg) from None


def environment(here: Settings) -> dict[str, str]:
    """The environment of every service and of every run."""
    inherited = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    loopback = ",".join(filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), HOST, "localhost"]))
    return {
        **PATIENT,
        **inherited,
        **QUIET,
        **here.as_environment(),
        "DAGSTER_HOME": str(PROJECT),
        "MLFLOW_TRACKING_URI": here.mlflow_url,
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def write_workspace(here: Settings, door: Path) -> Path:
    """The workspace file that points the page and the daemon at the one code server."""
    path = here.state / "workspace.yaml"
    path.write_text(WORKSPACE.format(socket=door), encoding="utf-8")
    return path


def database_url(server_url: str, name: str) -> str:
    """The address of a database on the server."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def _as_user(url: str, user: str, password: Path) -> str:
    """The same database for another user, whose password is kept in a file."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{_secret(password)}@{host}"))


def _secret(path: Path) -> str:
    """A secret that is made up once and kept for its owner only."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    secret = path.read_text(encoding="ascii")
    if not secret:
        msg = f"{path} is empty: delete it, and a new secret will be made"
        raise PlatformError(msg)
    return secret


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2, trust_env=False).is_success
    return False


def _accepts(door: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(door))
        return True
    return False
