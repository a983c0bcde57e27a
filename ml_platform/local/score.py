"""`ml-platform score`: the champion answers a table, in this process, told as it goes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ml_platform.local.processes import PlatformError
from ml_platform.modeling.bundle import BundleError
from ml_platform.modeling.spec import ModelSpec, Scoring, SpecError
from ml_platform.modeling.trust import UntrustedModelError
from ml_platform.models.catalogue import model as of_catalogue
from ml_platform.resources.clock import Clock
from ml_platform.resources.score_target import ScoreError
from ml_platform.resources.scoring import Order, Scored, champion_of, score
from ml_platform.resources.source import SourceDatabase, SourceError
from ml_platform.resources.tracking import ExperimentTracking
from ml_platform.resources.unavailable import UnavailableError
from ml_platform.settings import Settings

CORRECTABLE = (SpecError, ScoreError, SourceError, UnavailableError, BundleError, UntrustedModelError)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was typed; what was not is in the model's spec."""

    model: str
    table: str | None = None
    into: str | None = None
    key: str | None = None
    anew: bool = False


def run(wish: Wish, here: Settings, say: Callable[[str], None]) -> None:
    """The table is scored, and it was said what came of it.

    Raises:
        PlatformError: when it cannot be; the message is one line with the remedy.
    """
    try:
        order = _order(of_catalogue(wish.model), wish)
        champion = champion_of(ExperimentTracking(url=here.require("mlflow_url")), here.bundles, wish.model)
        source = SourceDatabase(url=here.require("source_url"))
        scored = score(source, champion, order, Clock(file=here.clock), say)
    except CORRECTABLE as error:
        raise PlatformError(str(error)) from None
    for line in _told(scored):
        say(line)


def _order(spec: ModelSpec, wish: Wish) -> Order:
    """What was typed, completed by the spec."""
    written = spec.scoring
    table, into = wish.table or (written and written.table), wish.into or (written and written.into)
    if not table or not into:
        missing = "--from TABLE" if not table else "--to TABLE"
        msg = f"say with {missing} what to score and where to: the spec of {spec.name} has no scoring"
        raise PlatformError(msg)
    same = written is not None and written.table == table
    return Order(
        table=table,
        key=wish.key or (written.key if written and same else None) or spec.source.key,
        into=into,
        continue_within=(written or Scoring(table=table, into=into)).continue_within,
        anew=wish.anew,
    )


def _told(scored: Scored) -> Iterator[str]:
    here = f", {scored.rows:,} of them now" if scored.rows_before else ""
    took = f"{scored.seconds:.1f} s, {scored.rows_per_s:,.0f} rows/s"
    yield f"{scored.rows_scored:,} rows scored, {scored.rows_rejected:,} rejected{here} ({took})"
    yield f"  answers   {scored.into}"
    if scored.rows_rejected:
        yield f"  rejected  {scored.rejected}, with field, rule and value"
    yield f"  scorings  {scored.runs}"
