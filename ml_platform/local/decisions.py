"""The commands about decisions: what was decided on a model, what served when, and what a person decides now."""

import getpass
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime

from ml_platform.local.processes import PlatformError
from ml_platform.modeling.decisions import Entry, Outcome
from ml_platform.modeling.promotion import ConflictError, PromotionError
from ml_platform.modeling.spec import SpecError
from ml_platform.models.catalogue import model as of_catalogue
from ml_platform.resources import approval
from ml_platform.resources.approval import ApprovalError
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.resources.traffic import Doors, Order, RollbackError, roll_back, switch
from ml_platform.settings import Settings

Say = Callable[[str], None]


def history(here: Settings, model: str, limit: int, say: Say, *, as_json: bool) -> None:
    """Print the newest decisions about a model, newest first."""
    _known(model)
    entries = _ledger(here).history(model, limit)
    for entry in entries:
        say(json.dumps(asdict(entry), default=str) if as_json else line(entry))
    if not entries and not as_json:
        say(f"nothing was decided about {model} yet")


def served(here: Settings, model: str, at: datetime, say: Say) -> None:
    """Print what answered at a time, and why.

    Raises:
        PlatformError: when nothing did.
    """
    _known(model)
    entry = _ledger(here).served(model, at)
    if entry is None:
        msg = f"{model}: nothing answered at {at.isoformat()}"
        raise PlatformError(msg)
    say(f"{model}: version {entry.version} answered at {at.isoformat()}")
    say(f"  since   {entry.at.isoformat(timespec='seconds')}, by {entry.kind} ({entry.actor}): {entry.reason}")
    say(f"  bundle  {entry.digest}")
    say(f"  trained {here.mlflow_url}/#/models/{model}/versions/{entry.version} (MLflow run {entry.mlflow_run})")
    if entry.dagster_run:
        say(f"  made by {here.dagster_page}/runs/{entry.dagster_run}")


def moment(here: Settings, written: str | None) -> datetime:
    """The time that was written, or now.

    Raises:
        PlatformError: when it cannot be read.
    """
    if written is None:
        return Clock(file=here.clock).now()
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        msg = f"--at {written!r} is not a time: write it as 2026-03-01T12:00 or 2026-03-01T12:00+01:00"
        raise PlatformError(msg) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def rollback(here: Settings, model: str, to: str | None, because: str, say: Say) -> None:
    """Send traffic and alias of a model back."""
    _known(model)
    with _correctable():
        release = roll_back(_order(here, model, because, to), _doors(here), say)
    say(f"{model}: version {release.version} answers")


def approve(here: Settings, model: str, version: str | None, because: str, by: str, say: Say) -> None:
    """Release a winner that waits."""
    _known(model)
    with _correctable():
        released = approval.approve(replace(_order(here, model, because, version), actor=by), _doors(here))
    say(f"{model}: version {released.version} is released by {by}")


def refuse(here: Settings, model: str, version: str | None, because: str, by: str, say: Say) -> None:
    """Refuse a winner for good."""
    _known(model)
    with _correctable():
        refused = approval.refuse(replace(_order(here, model, because, version), actor=by), _doors(here))
    say(f"{model}: version {refused.version} is refused by {by} and will not be tried again")


def automation(here: Settings, model: str, outcome: Outcome, because: str, say: Say) -> None:
    """Pause the automatic refreshes of a model, or resume them."""
    _known(model)
    _ledger(here).record(switch(_order(here, model, because), outcome, uuid.uuid4().hex))
    say(f"{model}: automatic refreshes are {outcome}")


def line(entry: Entry) -> str:
    """A decision in one line."""
    version = f" version {entry.version}" if entry.version else ""
    return f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.kind:<11} {entry.outcome:<8}{version}  {entry.reason} [{entry.actor}]"


def _order(here: Settings, model: str, because: str, to: str | None = None) -> Order:
    now = Clock(file=here.clock).now()
    return Order(model=model, actor=getpass.getuser(), because=because, at=now, to=to)


@contextmanager
def _correctable() -> Iterator[None]:
    """What a person can put right is one line."""
    try:
        yield
    except (RollbackError, PromotionError, ConflictError, ApprovalError) as error:
        raise PlatformError(str(error)) from error


def _ledger(here: Settings) -> DecisionLedger:
    return DecisionLedger(url=here.require("ledger_url"))


def _doors(here: Settings) -> Doors:
    return Doors(
        tracking=ExperimentTracking(url=here.require("mlflow_url")),
        serving=LocalServing(url=here.require("serving_url"), token=here.require("serving_token")),
        bundles=BundleStore(root=str(here.bundles)),
        ledger=_ledger(here),
    )


def _known(model: str) -> None:
    try:
        of_catalogue(model)
    except SpecError as error:
        raise PlatformError(str(error)) from None
