"""What all rooms share: how they look in the page, whose they are, and which errors are worth another try."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.unavailable import UnavailableError

AS_OF, FULL_SYNC = "ml_platform/as_of", "ml_platform/full_sync"
TRIGGER, BY = "ml_platform/trigger", "ml_platform/by"
SOMEBODY = "a person"
TRIES = 4
FIRST_WAIT_S = 2.0
PREVIEW_ROWS, PREVIEW_COLUMNS = 5, 12


def room(
    spec: ModelSpec,
    name: str,
    description: str,
    *,
    kinds: Sequence[str],
    after: str | None = None,
    checks: Mapping[str, str] | None = None,
    **more: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make a function one of a model's rooms.

    Args:
        spec: the model.
        name: the room.
        description: what is true after it, for the page.
        kinds: the technologies to show on it.
        after: the room whose product it takes, under that room's name.
        checks: blocking checks that guard its exit, by name, with what they assert.
        more: other arguments of `@dagster.asset`.
    """
    asset_key = key(spec, name)
    described = (checks or {}).items()
    settings = {
        "key": asset_key,
        "group_name": spec.name,
        "description": description,
        "owners": [spec.owner],
        "kinds": set(kinds),
        "tags": {"model": spec.name, "task": spec.task.value},
        "pool": spec.name,
        "io_manager_key": "products",
        "op_tags": _container(spec, name),
        "ins": {after: dg.AssetIn(key=key(spec, after))} if after else None,
        "check_specs": [
            dg.AssetCheckSpec(check, asset=asset_key, blocking=True, description=what) for check, what in described
        ],
    }
    make: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(**settings | more)  # type: ignore[call-overload]
    return lambda function: make(_with_signature(function))


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its signature written down: Dagster asks often, and each time Python would work it out."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def _container(spec: ModelSpec, name: str) -> dict[str, Any]:
    """What the room's container asks for when every room runs in one of its own."""
    wanted = spec.resources.get(name)
    if wanted is None:
        return {}
    limits = {"cpu": wanted.cpu, "memory": wanted.memory}
    return {"dagster-k8s/config": {"container_config": {"resources": {"requests": limits, "limits": limits}}}}


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
    """Try the room again, later and later, when the other side of a door does not answer; no other error is."""
    try:
        yield
    except UnavailableError as error:
        if context.retry_number >= TRIES:
            raise
        wait = FIRST_WAIT_S * 2**context.retry_number
        context.log.warning("%s; trying again in %.0f s (%d of %d)", error, wait, context.retry_number + 1, TRIES)
        raise dg.RetryRequested(max_retries=TRIES, seconds_to_wait=wait) from error


def columns_of(frame: pl.DataFrame) -> dg.TableSchemaMetadataValue:
    """The columns of a table and their types, as the page shows them."""
    return dg.MetadataValue.table_schema(
        dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in frame.schema.items()])
    )


def first_rows(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    """The first few rows and columns, as the page shows them."""
    shown = frame.head(PREVIEW_ROWS).select(frame.columns[:PREVIEW_COLUMNS])
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + "---|" * len(shown.columns)]
    lines += ["| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in shown.iter_rows()]
    return dg.MetadataValue.md("\n".join(lines))


def as_table(rows: Mapping[str, Mapping[str, Any]], first: str) -> dg.TableMetadataValue:
    """Named rows as a table in the page."""
    records = [dg.TableRecord({first: name, **values}) for name, values in rows.items()]
    if records:
        return dg.MetadataValue.table(records)
    return dg.MetadataValue.table([], dg.TableSchema([dg.TableColumn(first)]))
