"""Loading the definitions of many models, against bare assets of the same number; and all sensor ticks of 100 models.

    python -m benchmarks.load [--sizes 1,10,100,500] [--rounds N] [--ticks MODELS]

Loading is what a code server does before it answers: build the Definitions, resolve them to a repository, and make and
serialize the snapshot that it sends. Ours are the whole definitions of that many models: rooms, checks, jobs, sensors,
schedules and resources, from specs made in memory. Bare are functions under `@asset` with the same keys, upstream keys
and checks, and nothing else. Every measurement is a process forked from one that has imported everything and loaded one
model; ours and bare take turns, and the median counts. Nothing is waited for, so the seconds are the process's own.

A tick is what the code server does when the daemon asks, through the same function: evaluate one sensor with its
resources and the instance. The new-data and the drift sensor of every model are evaluated one after the other against
an embedded PostgreSQL, which holds a table for each model, and Dagster's storage with a materialization of each
trained_model, pictures included, and drift_report; the median of the rounds after the first counts. The last line is
one JSON object.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import dagster as dg
import msgspec
import psycopg
from dagster._core.definitions.repository_definition import RepositoryDefinition
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.remote_representation.external_data import RepositorySnap, SensorExecutionErrorSnap
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc.impl import get_external_sensor_execution
from dagster._serdes import serialize_value

from ml_platform import settings
from ml_platform.assets.drift_report import DRIFTED
from ml_platform.definitions import definitions_for
from ml_platform.local import services
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port
from ml_platform.modeling.spec import ModelSpec, PostgresTable, PromotionPolicy, Task
from ml_platform.modeling.splitting import Split
from ml_platform.resources.datasets import TableVersion
from ml_platform.resources.products import PRODUCT, Pulled, TrainedModel
from ml_platform.resources.source import SourceDatabase

TICK_ROUNDS = 4
PICTURES = "a picture " * 30_000
"""As long as those of a training."""
NOTHING_TO_DO = ("0 of 500 rows are new or changed", "the newest drift report is not drifted")
FORK = multiprocessing.get_context("fork")

Make = Callable[[int], dg.Definitions]
Metadata = Mapping[str, str | bool | dg.JsonMetadataValue]


def specs(count: int) -> tuple[ModelSpec, ...]:
    """Models that exist only here."""
    return tuple(
        ModelSpec(
            name=f"model_{number}",
            owner="team:benchmarks",
            purpose="Is loaded.",
            source=PostgresTable(f"table_{number}", key="id", changed_at="updated_at"),
            label="label",
            task=Task.BINARY,
            promotion=PromotionPolicy(metric="roc_auc", floor=0.5),
        )
        for number in range(count)
    )


def ours(count: int) -> dg.Definitions:
    """The whole definitions of that many models."""
    return definitions_for(specs(count), settings.load())


@cache
def shape() -> list[tuple[str, list[str], list[str]]]:
    """The assets of one model: name, names upstream, names of checks."""
    found = ours(1).resolve_asset_graph()
    nodes = [found.get(key) for key in found.toposorted_asset_keys]
    return [
        (node.key.path[-1], [up.path[-1] for up in node.parent_keys], [check.name for check in node.check_keys])
        for node in nodes
    ]


def bare(count: int) -> dg.Definitions:
    """As many assets and checks, with nothing else to them."""
    assets = []
    for number in range(count):
        for name, upstream, checks in shape():
            key = dg.AssetKey([f"model_{number}", name])

            @dg.asset(
                key=key,
                deps=[dg.AssetKey([f"model_{number}", up]) for up in upstream],
                check_specs=[dg.AssetCheckSpec(check, asset=key) for check in checks],
            )
            def nothing() -> Iterator[dg.MaterializeResult[None]]:
                yield dg.MaterializeResult()

            assets.append(nothing)
    return dg.Definitions(assets=assets)


def load(make: Make, count: int) -> float:
    """Seconds from nothing to the serialized snapshot."""
    began = time.process_time()
    repository = make(count).get_repository_def()
    serialize_value(RepositorySnap.from_def(repository, defer_snapshots=True))
    return time.process_time() - began


def load_apart(make: Make, count: int) -> float:
    """The same in a process of its own."""
    here, there = FORK.Pipe(duplex=False)

    def measure(out: Connection) -> None:
        out.send(load(make, count))

    process = FORK.Process(target=measure, args=(there,))
    process.start()
    seconds: float = here.recv()
    process.join()
    return seconds


def compare(sizes: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds by way and number of models."""
    for make in (ours, bare):
        load(make, 1)
    result: dict[str, dict[str, float]] = {"models": {}, "bare": {}}
    for size in sizes:
        taken = [(load_apart(ours, size), load_apart(bare, size)) for _ in range(rounds)]
        mine, other = (statistics.median(way) for way in zip(*taken, strict=True))
        result["models"][str(size)], result["bare"][str(size)] = round(mine, 3), round(other, 3)
        print(f"{size} models: {mine:.3f} s, bare {other:.3f} s, {mine / other:.2f} times", flush=True)
    return result


def fill(source_url: str, models: tuple[ModelSpec, ...], instance: dg.DagsterInstance) -> None:
    """Each model has its table, a training that knows all its rows, and a drift report."""
    with psycopg.connect(source_url, autocommit=True) as connection:
        for model in models:
            table = model.source.table
            rows = "SELECT id, now() AS updated_at FROM generate_series(1, 1000) id"
            connection.execute(f"CREATE TABLE {table} AS {rows}; CREATE INDEX ON {table} (updated_at)".encode())
    for model in models:
        with SourceDatabase(url=source_url).pull(model.source, None) as pull:
            pulled = Pulled(cursor=pull.cursor.dumps(), watermark=datetime.now(UTC))
        validated = TableVersion(name=f"{model.name}/validated_data", version=1, rows=1)
        split = Split(column="id", share=0.2)
        product = TrainedModel(run_id="1", digest="1", split=split, validated=validated, as_of=None, pulled=pulled)
        trained: Metadata = {PRODUCT: dg.MetadataValue.json(msgspec.to_builtins(product)), "pictures": PICTURES}
        reported: Metadata = {DRIFTED: False}
        for room, metadata in (("trained_model", trained), ("drift_report", reported)):
            instance.report_runless_asset_event(dg.AssetMaterialization([model.name, room], metadata=metadata))


def tick(repository: RepositoryDefinition, sensor: str, instance: dg.DagsterInstance) -> None:
    """One sensor has been evaluated as the code server does it, and found nothing to do."""
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ml_platform.definitions"))
    answer = get_external_sensor_execution(repository, origin, instance.get_ref(), sensor, None, None, None, None, None)
    said = str(answer) if isinstance(answer, SensorExecutionErrorSnap) else str(answer.skip_message)
    if said not in NOTHING_TO_DO:
        msg = f"{sensor} was to find nothing to do, but said: {said}"
        raise RuntimeError(msg)


def all_ticks(count: int) -> float:
    """Median seconds that one round of all new-data and drift sensors takes."""
    models = specs(count)
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        server = EmbeddedPostgres(state=Path(folder), port=free_port())
        server.start()
        try:
            server.create_databases(services.DATABASES)
            here = services.complete(replace(settings.load(), state=Path(folder)), server.url("postgres"))
            os.environ |= services.environment(here)
            with dg.DagsterInstance.get() as instance:
                fill(here.source_url, models, instance)
                repository = definitions_for(models, here).get_repository_def()
                sensors = [f"{model.name}_{kind}" for model in models for kind in ("new_data", "drift")]
                return statistics.median([_round(repository, sensors, instance) for _ in range(1 + TICK_ROUNDS)][1:])
        finally:
            server.stop()


def _round(repository: RepositoryDefinition, sensors: list[str], instance: dg.DagsterInstance) -> float:
    began = time.perf_counter()
    for sensor in sensors:
        tick(repository, sensor, instance)
    seconds = time.perf_counter() - began
    print(f"{len(sensors)} ticks: {seconds:.2f} s", flush=True)
    return seconds


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,10,100,500", help="numbers of models to load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ticks", type=int, default=100, metavar="MODELS")
    given = parser.parse_args()
    loaded = compare([int(size) for size in given.sizes.split(",")], given.rounds)
    print(json.dumps({**loaded, f"tick_s_{given.ticks}": round(all_ticks(given.ticks), 3)}))


if __name__ == "__main__":
    main()
