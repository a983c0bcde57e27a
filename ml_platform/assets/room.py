"""What all rooms share: how they look in the page, whose they are, and which errors are worth another try."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.unavailable import UnavailableError

AS_OF, FULL_SYNC = "ml_platform/as_of", "ml_platform/full_sync"
TRIES = 4
FIRST_WAIT_S = 2.0


def room(spec: ModelSpec, name: str, description: str, *kinds: str) -> dict[str, Any]:
    """The arguments of `@asset` that every room of a model has."""
    wanted = spec.resources.get(name)
    limits = {"cpu": wanted.cpu, "memory": wanted.memory} if wanted else {}
    container = {"container_config": {"resources": {"requests": limits, "limits": limits}}} if wanted else {}
    return {
        "key": [spec.name, name],
        "group_name": spec.name,
        "description": description,
        "owners": [spec.owner],
        "kinds": set(kinds),
        "tags": {"model": spec.name, "task": spec.task.value},
        "pool": spec.name,
        "io_manager_key": "products",
        "op_tags": {"dagster-k8s/config": container} if wanted else {},
    }


def key(spec: ModelSpec, name: str) -> dg.AssetKey:
    """The asset key of a model's room."""
    return dg.AssetKey([spec.name, name])


def as_of(context: dg.AssetExecutionContext) -> datetime | None:
    """The past moment this run is for, if any."""
    written = context.run.tags.get(AS_OF)
    if not written:
        return None
    moment = datetime.fromisoformat(written)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def patiently(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Try the room again, later and later, when the other side of a door does not answer; nothing else is tried again."""
    try:
        yield
    except UnavailableError as error:
        if context.retry_number >= TRIES:
            raise
        wait = FIRST_WAIT_S * 2**context.retry_number
        context.log.warning(f"{error}; trying again in {wait:.0f} s ({context.retry_number + 1} of {TRIES})")
        raise dg.RetryRequested(max_retries=TRIES, seconds_to_wait=wait) from error


def as_table(rows: Mapping[str, Mapping[str, Any]], first: str) -> dg.TableMetadataValue:
    """Named rows as a table in the page."""
    records = [dg.TableRecord({first: name, **values}) for name, values in rows.items()]
    if records:
        return dg.MetadataValue.table(records)
    return dg.MetadataValue.table([], dg.TableSchema([dg.TableColumn(first)]))
