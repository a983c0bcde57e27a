"""Settings: the only reader of the environment; says where everything lives."""

import os
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "ML_PLATFORM_"
PROJECT = Path(__file__).resolve().parent.parent


class SettingsError(RuntimeError):
    """A setting that is missing or wrong; the message names it and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where everything lives. Each field is read from `ML_PLATFORM_<FIELD>`; `ml-platform env` prints them all.

    URLs are `postgresql://user:password@host:port/database`, one database each: MLflow and Dagster collide in one.
    """

    state: Path
    source_url: str = ""
    platform_url: str = ""
    dagster_url: str = ""
    mlflow_url: str = ""
    mlflow_backend_url: str = ""
    serving_url: str = ""
    serving_token: str = ""
    models: str = ""
    automation: str = "on"
    executor: str = "in_process"
    clock: str = ""
    dagster_page: str = ""

    @property
    def datasets(self) -> str:
        """Root of the Delta tables."""
        return str(self.state / "datasets")

    @property
    def bundles(self) -> Path:
        """Root of the content-addressed bundles."""
        return self.state / "bundles"

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
        return {f"{PREFIX}{f.name.upper()}": str(getattr(self, f.name)) for f in fields(self)}


def load() -> Settings:
    """The settings of this process."""
    given = {f.name: os.environ[key] for f in fields(Settings) if (key := f"{PREFIX}{f.name.upper()}") in os.environ}
    state = Path(given.pop("state", "") or PROJECT / ".ml_platform").absolute()
    return Settings(state=state, **given)
