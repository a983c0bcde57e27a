"""Refreshes that die: a process of its own that kills itself with SIGKILL at a chosen moment of a chosen room."""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from ml_platform.assets.lifecycle import ROOMS
from ml_platform.automation.jobs import REFRESH

MOMENTS: Mapping[str, tuple[str, str, str]] = {
    "raw_data": ("ml_platform.resources.datasets", "DatasetStore", "upsert"),
    "validated_data": ("ml_platform.resources.datasets", "DatasetStore", "overwrite"),
    "features": ("ml_platform.resources.datasets", "DatasetStore", "overwrite"),
    "trained_model": ("ml_platform.resources.tracking", "ExperimentTracking", "run"),
    "evaluation": ("ml_platform.resources.tracking", "ExperimentTracking", "log_metrics"),
    "registered_model": ("ml_platform.resources.tracking", "ExperimentTracking", "register"),
    "image": ("ml_platform.resources.tracking", "ExperimentTracking", "fetch_bundle"),
    "deployment": ("ml_platform.resources.serving", "LocalServing", "switch"),
}
"""The step of each room after which its work is done but nobody knows yet: the hardest moment to die in."""


def refresh_and_die(
    instance: dg.DagsterInstance,
    environment: Mapping[str, str],
    model: str,
    room: str,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Start a refresh, with these tags, that kills its own process in a room.

    Returns:
        The Dagster run id; the run still says STARTED.
    """
    before = {run.run_id for run in instance.get_runs()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "ml_platform.definitions"])
    process = context.Process(
        target=_refresh, args=(instance.get_ref(), dict(environment), model, room, dict(tags or {}))
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"the run in {room} was not killed: {process.exitcode}"
    (run_id,) = {run.run_id for run in instance.get_runs()} - before
    return run_id


def _refresh(ref: InstanceRef, environment: dict[str, str], model: str, room: str, tags: dict[str, str]) -> None:
    os.environ |= environment
    from ml_platform import settings  # noqa: PLC0415 - reads the environment just set
    from ml_platform.definitions import definitions_for  # noqa: PLC0415
    from ml_platform.models.catalogue import model as of_catalogue  # noqa: PLC0415

    _die_in(room)
    defs = definitions_for((of_catalogue(model),), settings.load())
    with dg.DagsterInstance.from_ref(ref) as instance:
        defs.resolve_job_def(REFRESH).execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([model, name]) for name in ROOMS],
            tags=tags,
            raise_on_error=False,
        )


def _die_in(room: str) -> None:
    """Let the room's decisive step happen, then kill this process."""
    module, owner, name = MOMENTS[room]
    kind = getattr(importlib.import_module(module), owner)
    step: Callable[..., Any] = getattr(kind, name)

    def last_step(*args: Any, **kwargs: Any) -> Any:
        done = step(*args, **kwargs)
        if _is_in(room, args):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(kind, name, last_step)


def _is_in(room: str, args: tuple[Any, ...]) -> bool:
    """Several rooms write tables; the table's name tells them apart."""
    name = getattr(args[1], "name", args[1]) if len(args) > 1 else ""
    return room not in {"raw_data", "validated_data", "features"} or str(name).endswith(f"/{room}")
