"""A whole platform without Dagster's page: real PostgreSQL, MLflow and model server, refreshed in this process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psycopg

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.automation.jobs import REFRESH
from ml_platform.definitions import definitions_for
from ml_platform.local import company, headless
from ml_platform.modeling.spec import ModelSpec
from ml_platform.models.catalogue import all_models
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.settings import Settings


@dataclass(frozen=True)
class Platform:
    """Real services, and what a user does with them."""

    settings: Settings
    instance: dg.DagsterInstance

    @property
    def tracking(self) -> ExperimentTracking:
        """The door to its MLflow."""
        return ExperimentTracking(url=self.settings.mlflow_url)

    @property
    def ledger(self) -> DecisionLedger:
        """The door to its decision ledger."""
        return DecisionLedger(url=self.settings.ledger_url)

    def spec(self, model: str) -> ModelSpec:
        """A model of the catalogue as it is on disk now."""
        return next(spec for spec in all_models() if spec.name == model)

    def refresh(
        self,
        model: str,
        rooms: Sequence[str] = ROOMS,
        tags: Mapping[str, str] | None = None,
        job: str = REFRESH,
        spec: ModelSpec | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run rooms of a model, all of the corridor by default; a failed run is a result, not an exception."""
        defs = definitions_for((spec or self.spec(model),), self.settings)
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey([model, room]) for room in rooms],
            tags=dict(tags or {}),
            raise_on_error=False,
        )

    def metadata(self, model: str, room: str) -> dict[str, Any]:
        """The metadata of a room's newest materialization, as plain values."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey([model, room]))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in the company's database; its rows, if it has any."""
        with psycopg.connect(self.settings.source_url) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> dict[str, Any]:
        """An answer of the live model, for the rows with these keys.

        Raises:
            httpx.HTTPStatusError: when the server refuses.
        """
        url = f"{self.settings.serving_url}/models/{model}/predict"
        answer = httpx.post(
            url, json={"rows": list(rows)} | ({"keys": list(keys)} if keys else {}), timeout=30, trust_env=False
        ).raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    def example(self, model: str) -> dict[str, Any]:
        """A row that the live model can answer."""
        url = f"{self.settings.serving_url}/models/{model}"
        row: dict[str, Any] = httpx.get(url, timeout=30, trust_env=False).raise_for_status().json()["example"]
        return row


@contextmanager
def running(state: Path, models: Path | None = None) -> Iterator[Platform]:
    """The services, from an empty state folder to the end of the block.

    Args:
        state: an empty folder.
        models: a folder with more models for the catalogue.
    """
    with headless.running(state, models=str(models or "")) as here:
        company.load(here.source_url, datetime.now(UTC))
        with dg.DagsterInstance.local_temp(str(state)) as instance:
            yield Platform(here, instance)
