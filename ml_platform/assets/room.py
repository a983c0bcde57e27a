"""What all rooms share: how they look in the page, whose they are, and which errors are worth another try."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.products import NOT_PASSED
from ml_platform.resources.unavailable import UnavailableError

AS_OF, FULL_SYNC = "ml_platform/as_of", "ml_platform/full_sync"
MODEL, TRIGGER, BY = "ml_platform/model", "ml_platform/trigger", "ml_platform/by"
SOMEBODY = "a person"
TRIES = 4
FIRST_WAIT_S = 2.0
PREVIEW_ROWS, PREVIEW_COLUMNS = 5, 12
OUTPUT, CONTEXT = "result", "context"


def room(
    spec: ModelSpec,
    description: str,
    *,
    kinds: Sequence[str],
    after: str | None = None,
    beside: Sequence[str] = (),
    checks: Mapping[str, str] | None = None,
    freshness: dg.FreshnessPolicy | None = None,
    may_stay_closed: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make a function the room of a model that has the function's name.

    The function's parameters, all annotated, are `context`, the product of the room before under that room's name, and
    resources; it returns or yields what any asset does. `@dagster.asset` would look far more closely at every function
    of every model, which for some hundreds of models is a third of the time until the page is there.

    Args:
        spec: the model.
        description: what is true after it, for the page.
        kinds: the technologies to show on it.
        after: the room whose product it takes.
        beside: for a room beside the corridor, what it follows there; it holds up no other room, and none holds it up.
        checks: blocking checks that guard its exit, by name, with what they assert.
        freshness: how old its product may be.
        may_stay_closed: whether it may end well without a product, so that the rooms after it are skipped.
    """

    def make(function: Callable[..., Any]) -> dg.AssetsDefinition:
        name, parameters = function.__name__, _parameters(function)
        here, before = key(spec, name), {earlier: key(spec, earlier) for earlier in ([after] if after else beside)}
        op_name = here.to_python_identifier()
        guards = _guards(here, checks or {})
        op = dg.OpDefinition(
            _compute(function, after),
            name=op_name,
            description=description,
            ins={earlier: dg.In(parameters.get(earlier, dg.Nothing)) for earlier in before},
            outs={OUTPUT: dg.Out(is_required=not may_stay_closed)}
            | {guard: dg.Out(dagster_type=None) for guard in guards},
            required_resource_keys=parameters.keys() - {CONTEXT, after},
            tags=_container(spec, name),
            pool=f"{spec.name}_{name}" if beside else spec.name,
        )
        shown = dg.AssetSpec(
            here,
            deps=list(before.values()),
            group_name=spec.name,
            description=description,
            owners=[spec.owner],
            kinds=set(kinds),
            tags={"model": spec.name, "task": spec.task.value},
            freshness_policy=freshness,
        )
        return dg.AssetsDefinition(
            keys_by_input_name=before,
            keys_by_output_name={OUTPUT: here},
            node_def=op,
            specs=[shown],
            check_specs_by_output_name=guards,
        )

    return make


def _guards(here: dg.AssetKey, checks: Mapping[str, str]) -> dict[str, dg.AssetCheckSpec]:
    """The checks by the name of their output."""
    return {
        f"{here.to_python_identifier()}_{check}": dg.AssetCheckSpec(check, asset=here, blocking=True, description=what)
        for check, what in checks.items()
    }


def _parameters(function: Callable[..., Any]) -> dict[str, type]:
    """The function's parameters and their types."""
    return {name: kind for name, kind in function.__annotations__.items() if name != "return"}


def _compute(
    function: Callable[..., Any], after: str | None
) -> Callable[[dg.AssetExecutionContext, Mapping[str, Any]], Iterator[Any]]:
    """The function in the form in which an op is computed."""
    parameters = _parameters(function)

    def compute(context: dg.AssetExecutionContext, products: Mapping[str, Any]) -> Iterator[Any]:
        def given(name: str) -> Any:
            if name == CONTEXT:
                return context
            return products[name] if name == after else getattr(context.resources, name)

        made = function(**{name: given(name) for name in parameters})
        for result in made if inspect.isgenerator(made) else [made]:
            yield _marked(result)

    return compute


def _marked(result: Any) -> Any:
    """A product that did not pass the checks of its room says so, so that no later click takes it further."""
    failed = [check.check_name or "" for check in getattr(result, "check_results", None) or () if not check.passed]
    return result._replace(metadata={**(result.metadata or {}), NOT_PASSED: ", ".join(failed)}) if failed else result


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
    lines += [
        "| " + " | ".join(" ".join(str(v).replace("|", "\\|").split()) for v in row) + " |" for row in shown.iter_rows()
    ]
    return dg.MetadataValue.md("\n".join(lines))


def as_table(rows: Mapping[str, Mapping[str, Any]], first: str) -> dg.TableMetadataValue:
    """Named rows as a table in the page."""
    records = [dg.TableRecord({first: name, **values}) for name, values in rows.items()]
    if records:
        return dg.MetadataValue.table(records)
    return dg.MetadataValue.table([], dg.TableSchema([dg.TableColumn(first)]))
