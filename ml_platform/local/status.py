"""The status of each model beyond what is live: which are not, and which nothing but a person refreshes, and why."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from ml_platform.local.processes import PlatformError
from ml_platform.modeling import governor
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.spec import ModelSpec, SpecError
from ml_platform.models.catalogue import all_models
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.settings import Settings

ON_THE_WAY = (Kind.GATE, Kind.APPROVAL, Kind.PROMOTION, Kind.RUN)
OBSTACLES = (Outcome.LOST, Outcome.UNKNOWN, Outcome.WAITING, Outcome.REFUSED, Outcome.FAILED)


def of_catalogue(here: Settings, live: Collection[str]) -> Iterator[str]:
    """What is to be said about the models of the catalogue, in lines.

    Args:
        here: the settings of the running platform.
        live: the names of the models that answer.

    Raises:
        PlatformError: when a spec is wrong.
        UnavailableError: when the ledger cannot be reached.
    """
    try:
        specs = all_models()
    except SpecError as error:
        raise PlatformError(str(error)) from None
    return of_models(specs, DecisionLedger(url=here.require("ledger_url")), live)


def of_models(specs: Iterable[ModelSpec], ledger: DecisionLedger, live: Collection[str]) -> Iterator[str]:
    """What is to be said about these models, in lines; nothing about one that is live and refreshed by itself."""
    for spec in specs:
        history = ledger.standing(spec.name)
        if spec.name not in live:
            yield f"{spec.name}: not live{_obstacle(history)}"
        if pause := governor.is_paused(history):
            yield (
                f"{spec.name}: paused by {pause.actor} since {pause.at:%Y-%m-%d %H:%M}: {pause.reason}; "
                f"`ml-platform resume {spec.name} --because ...` ends it"
            )
        if circuit := governor.open_circuit(spec.retrain, history):
            yield f"{spec.name}: nothing refreshes it by itself: {circuit}"


def _obstacle(history: Sequence[Entry]) -> str:
    """What the newest decision on the way to live traffic has against it."""
    newest = next((entry for entry in history if entry.kind in ON_THE_WAY), None)
    return f": {newest.reason}" if newest and newest.outcome in OBSTACLES else ""
