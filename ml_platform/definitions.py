"""The front door: every model's lifecycle, its automation, and this environment's resources."""

import inspect
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ml_platform import settings
from ml_platform.assets.lifecycle import lifecycle
from ml_platform.automation.alerts import alerts_sensor, failures_sensor
from ml_platform.automation.clicks import clicks
from ml_platform.automation.digests import digest_job, digest_schedule
from ml_platform.automation.jobs import all_jobs
from ml_platform.automation.reconcile import reconcile_sensor
from ml_platform.automation.schedules import schedules_of
from ml_platform.automation.sensors import degraded_sensor, drift_sensor, mlflow_sensor, new_data_sensor
from ml_platform.automation.timeline import timeline_sensor
from ml_platform.modeling.spec import ModelSpec
from ml_platform.models.catalogue import all_models
from ml_platform.resources.alerts import Alerts
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.pins import PinStore
from ml_platform.resources.predictions import PredictionStore
from ml_platform.resources.products import ProductIOManager
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.settings import Settings, SettingsError, variable


def resources_for(here: Settings) -> dict[str, dg.ResourceDefinition]:
    """The doors to the outside world, as these settings say."""
    return {
        "source": _door(SourceDatabase, {"url": "source_url"}),
        "datasets": _door(DatasetStore, root=here.datasets),
        "bundles": _door(BundleStore, root=str(here.bundles)),
        "pins": _door(PinStore, root=str(here.pins)),
        "tracking": _door(ExperimentTracking, url=here.mlflow_url),
        "serving": _door(LocalServing, {"token": "serving_token"}, url=here.serving_url),
        "store": _door(PredictionStore, {"url": "platform_url"}),
        "ledger": _door(DecisionLedger, {"url": "ledger_url"}),
        "alerts": _door(Alerts, {"urls": "alert_urls"}) if here.alert_urls else _door(Alerts, urls=""),
        "clock": _door(Clock, file=here.clock),
        "io_manager": dg.IOManagerDefinition.hardcoded_io_manager(ProductIOManager(), inspect.getdoc(ProductIOManager)),
    }


def _door(
    kind: type[dg.ConfigurableResource[Any]], secrets: Mapping[str, str] | None = None, **shown: str
) -> dg.ResourceDefinition:
    """A resource whose page shows what it is made of, and that no launchpad asks for or changes.

    Args:
        kind: the class of the resource.
        secrets: the setting of each field that is an address with a password, or a token. It is looked up only in the
            process that needs it, so Dagster has none to store or to show.
        shown: the other fields.
    """
    named = secrets or {}

    def opened(_context: dg.InitResourceContext) -> object:
        now = settings.load()
        return kind(**shown, **{field: now.require(setting) for field, setting in named.items()})

    opened.__name__, opened.__module__ = kind.__name__, kind.__module__  # the type that the page shows
    values = shown | {field: f"${variable(setting)}" for field, setting in named.items()}
    fields = [f"- `{field}`: {value or '-'}" for field, value in values.items()]
    return dg.ResourceDefinition(opened, description="\n".join([inspect.getdoc(kind) or "", "", *fields]))


def definitions_for(models: tuple[ModelSpec, ...], here: Settings) -> dg.Definitions:
    """Everything Dagster needs to know about these models."""
    doors = resources_for(here)
    on = here.automation == "on"
    schedule_status = dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED
    sensor_status = dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED
    sensors = [new_data_sensor(spec, sensor_status) for spec in models]
    sensors += [drift_sensor(spec, sensor_status) for spec in models if spec.retrain.on_drift]
    sensors += [degraded_sensor(spec, sensor_status) for spec in models if spec.retrain.on_degraded]
    schedules = [schedule for spec in models for schedule in schedules_of(spec, schedule_status)]
    shared = [mlflow_sensor(sensor_status), failures_sensor(models, sensor_status), alerts_sensor(here, sensor_status)]
    jobs: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
        *all_jobs(models),
        *clicks(models, doors),
        digest_job(models, doors),
    ]
    shared += [reconcile_sensor(models, jobs, sensor_status), timeline_sensor(models, sensor_status)]
    return dg.Definitions(
        assets=[asset for spec in models for asset in lifecycle(spec)],
        jobs=jobs,
        schedules=[*schedules, digest_schedule(schedule_status)],
        sensors=[*sensors, *shared],
        resources=doors,
        executor=_executor(here),
    )


def _executor(here: Settings) -> dg.ExecutorDefinition:
    """All rooms of a run in its one process, unless the settings say a process each."""
    executors = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}
    if here.executor not in executors:
        msg = f"{variable('executor')} is {here.executor!r}: choose {' or '.join(executors)}"
        raise SettingsError(msg)
    return executors[here.executor]


defs = definitions_for(all_models(), settings.load())
