"""Settings: the only reader of the environment; says where everything lives."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "ML_PLATFORM_"
MAX_PORT, MAX_COUNT = 65_535, 999_999
COUNTS = {"serving_workers": 1, "request_seconds": 1, "drain_seconds": 0, "prediction_days": 1, "journal_mib": 1}
"""Fields that are whole numbers, and the least that makes sense."""
PROJECT = Path(__file__).resolve().parent.parent


class SettingsError(RuntimeError):
    """A setting that is missing or wrong; the message names it and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where everything lives. Each field is read from `ML_PLATFORM_<FIELD>`; `ml-platform env` prints them all.

    URLs are `postgresql://user:password@host:port/database`, one database each: MLflow and Dagster collide in one.
    `postgres_url` is a server on which those databases may be made; without it the platform brings its own.
    """

    state: Path
    postgres_url: str = ""
    postgres_port: int = 5433
    dagster_port: int = 3000
    mlflow_port: int = 5000
    serving_port: int = 8080
    source_url: str = ""
    platform_url: str = ""
    ledger_url: str = ""
    dagster_url: str = ""
    mlflow_url: str = ""
    mlflow_backend_url: str = ""
    serving_url: str = ""
    serving_token: str = ""
    serving_tokens: str = ""
    serving_workers: int = 1
    request_seconds: int = 10
    drain_seconds: int = 2
    hash_key: str = ""
    prediction_days: int = 90
    journal_mib: int = 1024
    models: str = ""
    automation: str = "on"
    executor: str = "in_process"
    alert_urls: str = ""
    clock: str = ""
    dagster_page: str = ""
    dagster_files: str = ""

    @property
    def datasets(self) -> str:
        """Root of the Delta tables."""
        return str(self.state / "datasets")

    @property
    def bundles(self) -> Path:
        """Root of the content-addressed bundles."""
        return self.state / "bundles"

    @property
    def pins(self) -> Path:
        """Root of what models were trained from."""
        return self.state / "pins"

    @property
    def journal(self) -> Path:
        """Where answered requests wait for the database."""
        return self.state / "serving" / "journal"

    def require(self, name: str) -> str:
        """The value of a setting that cannot be empty here.

        Raises:
            SettingsError: when it is empty.
        """
        value = str(getattr(self, name))
        if not value:
            msg = f"{PREFIX}{name.upper()} is not set: start the platform with `make run`, or set it yourself"
            raise SettingsError(msg)
        return value

    def as_environment(self) -> dict[str, str]:
        """The same settings as environment variables, for child processes."""
        return {variable(f.name): str(getattr(self, f.name)) for f in fields(self)}


def variable(field: str) -> str:
    """The environment variable that a field is read from."""
    return f"{PREFIX}{field.upper()}"


def load() -> Settings:
    """The settings of this process."""
    given = {f.name: os.environ[key] for f in fields(Settings) if (key := variable(f.name)) in os.environ}
    state = Path(given.pop("state", "") or PROJECT / ".ml_platform").absolute()
    ports = {name: _port(name, given.pop(name)) for name in list(given) if name.endswith("_port")}
    counts = {name: _count(name, given.pop(name)) for name in list(given) if name in COUNTS}
    return Settings(state=state, **ports, **counts, **given)  # type: ignore[arg-type]  # all the others are text


def _count(name: str, text: str) -> int:
    least = COUNTS[name]
    if not (text.isdecimal() and least <= int(text) <= MAX_COUNT):
        msg = f"{PREFIX}{name.upper()} is {text!r}: give a whole number from {least} to {MAX_COUNT}"
        raise SettingsError(msg)
    return int(text)


def _port(name: str, text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= MAX_PORT):
        msg = f"{PREFIX}{name.upper()} is {text!r}: give a port number from 1 to {MAX_PORT}"
        raise SettingsError(msg)
    return int(text)
