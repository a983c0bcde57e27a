"""Clicks: what a person does to a model beside refreshing it, each a job whose launchpad asks for model and reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ml_platform.assets.room import MODEL, SOMEBODY
from ml_platform.modeling.decisions import Outcome
from ml_platform.modeling.promotion import PromotionError
from ml_platform.modeling.spec import Approval, ModelSpec
from ml_platform.resources.approval import ApprovalError, approve, refuse
from ml_platform.resources.traffic import Doors, Order, RollbackError, repair, roll_back, switch

ROLLBACK, REPAIR, PAUSE, RESUME = "rollback", "repair", "pause", "resume"
APPROVE, REFUSE = "approve", "refuse"
DOORS = {"tracking", "serving", "bundles", "ledger", "clock"}


def clicks(models: Sequence[ModelSpec], doors: Mapping[str, dg.ResourceDefinition]) -> list[dg.JobDefinition]:
    """The jobs; their launchpad completes the names of the models.

    Args:
        models: the catalogue.
        doors: the resources by name. They are bound here: to bind them later Dagster would copy the jobs, and make of
            the sensor that starts one of them a plain sensor.
    """
    name = dg.Enum("Model", [dg.EnumValue(spec.name) for spec in models])
    asked = {
        "model": dg.Field(name, description="Which model"),
        "because": dg.Field(str, description="Why, for those who read the ledger later"),
        "by": dg.Field(str, default_value=SOMEBODY, description="Who wants it"),
    }
    to = dg.Field(str, is_required=False, description="The version to go back to; without it, the one before this")
    made = [
        (ROLLBACK, _roll_back, "Send traffic and alias back to an earlier version, proven first", asked | {"to": to}),
        (REPAIR, _repair, "Let traffic, champion alias and ledger say the same again", asked),
        (PAUSE, _pause, "Let no schedule and no sensor refresh a model until it is resumed", asked),
        (RESUME, _resume, "Let schedules and sensors refresh a model again; closes an open circuit too", asked),
    ]
    if any(spec.promotion.approval == Approval.HUMAN for spec in models):
        which = dg.Field(str, is_required=False, description="The version; without it, the newest winner")
        made += [
            (APPROVE, _approve, "Release a winner that waits; it goes live a minute later", asked | {"to": which}),
            (REFUSE, _refuse, "Refuse a winner for good", asked | {"to": which}),
        ]
    return [_job(*click, doors) for click in made]


def click_config(job: str, **given: str) -> dict[str, Any]:
    """The run config of one of the jobs."""
    return {"ops": {_op(job): {"config": given}}}


def _op(job: str) -> str:
    """The name of a job's one op, since Dagster wants op and job to be told apart."""
    return f"{job}_model"


def _job(
    name: str,
    act: Callable[[dg.OpExecutionContext, Order, Doors], None],
    what: str,
    asked: Mapping[str, dg.Field],
    doors: Mapping[str, dg.ResourceDefinition],
) -> dg.JobDefinition:
    @dg.op(name=_op(name), description=what, config_schema=dict(asked), required_resource_keys=DOORS)
    def click(context: dg.OpExecutionContext) -> None:
        config, at = context.op_config, context.resources.clock.now()
        context.instance.add_run_tags(context.run.run_id, {MODEL: config["model"]})
        order = Order(
            model=config["model"],
            actor=config["by"],
            because=config["because"],
            at=at,
            to=config.get("to"),
            dagster_run=context.run.run_id,
        )
        act(context, order, Doors(**{door: getattr(context.resources, door) for door in DOORS - {"clock"}}))

    @dg.job(name=name, description=what, resource_defs=dict(doors))
    def job() -> None:
        click()

    return job


def _roll_back(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    with _said_clearly():
        roll_back(order, doors, context.log.info)


def _repair(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    with _said_clearly():
        repair(order, doors, context.log.info)


def _pause(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    doors.ledger.record(switch(order, Outcome.PAUSED, context.run.run_id))


def _resume(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    doors.ledger.record(switch(order, Outcome.RESUMED, context.run.run_id))


def _approve(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    with _said_clearly():
        version = approve(order, doors)
    context.log.info(f"version {version.version} is released; the sensor `reconcile` takes it to live traffic")


def _refuse(context: dg.OpExecutionContext, order: Order, doors: Doors) -> None:
    with _said_clearly():
        version = refuse(order, doors)
    context.log.info(f"version {version.version} is refused for good")


@contextmanager
def _said_clearly() -> Iterator[None]:
    """What a person can put right fails at once, and in one line."""
    try:
        yield
    except (RollbackError, PromotionError, ApprovalError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
