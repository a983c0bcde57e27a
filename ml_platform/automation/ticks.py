"""Ticks: what makes looking cheap enough to do it for every model, every half minute."""

import os
from typing import Any

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.instance.ref import InstanceRef

STATEMENT_TIMEOUT_MS = 30_000
RECYCLE_S = 600
MOST_CONNECTIONS = 8


class ThriftySensor(dg.SensorDefinition):
    """A sensor whose ticks share one open instance, and keep the doors that the first of them was given.

    Dagster would make both anew for every tick: eight connections to PostgreSQL, and most of the time a tick takes.
    """

    _doors: Any = None

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """Evaluate with what this process keeps; only a code server has it, a test brings its own."""
        if context.instance_ref:
            # Dagster has no public way to hand these in.
            context._instance = _instance(context.instance_ref)  # noqa: SLF001
            self._doors = self._doors or context.resources
            context._resources = self._doors  # noqa: SLF001
        return super().evaluate_tick(context)


_open: dict[tuple[int, object], dg.DagsterInstance] = {}


def _instance(ref: InstanceRef) -> dg.DagsterInstance:
    """The instance, with a pool of connections to its storage; a forked child must not use its parent's."""
    key = (os.getpid(), ref.storage_data)
    if key not in _open:
        _open[key] = dg.DagsterInstance.from_ref(ref)
        _open[key].optimize_for_webserver(STATEMENT_TIMEOUT_MS, RECYCLE_S, MOST_CONNECTIONS)
    return _open[key]
