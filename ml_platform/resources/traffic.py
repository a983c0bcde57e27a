"""Traffic: what changes the version that answers outside a refresh: roll back, and repair what disagrees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ml_platform.modeling import bundle, promotion
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.promotion import PromotionError, Release
from ml_platform.modeling.reconciling import Diagnosis, Finding, Seen, diagnose
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, REFUSED, WAITING, ExperimentTracking, Version


class RollbackError(RuntimeError):
    """There is no version to go back to; the message says which there are."""


@dataclass(frozen=True, kw_only=True)
class Doors:
    """What a change of traffic needs."""

    tracking: ExperimentTracking
    serving: LocalServing
    bundles: BundleStore
    ledger: DecisionLedger


@dataclass(frozen=True, kw_only=True)
class Order:
    """Who wants something of a model's traffic, why and when; for a rollback also the version, if a certain one."""

    model: str
    actor: str
    because: str
    at: datetime
    to: str | None = None
    dagster_run: str | None = None


def roll_back(order: Order, doors: Doors, say: Callable[[str], None]) -> Release:
    """Send traffic and alias back to an earlier version, proven as in any promotion, and refuse the one left.

    Killed anywhere, it is finished by the repair that follows: a refused version does not stay live.

    Raises:
        RollbackError: when there is no such version.
        PromotionError: when the earlier version does not answer as at training time; traffic stays.
    """
    seen = doors.serving.observe(order.model)
    now = seen.live_release.version if seen.live_release else doors.tracking.champion_version(order.model)
    target = _target(order, doors, now)
    doors.tracking.forgive(order.model, target.version)
    left = now if now != target.version else None
    if left:
        doors.tracking.refuse(order.model, left, f"rolled back by {order.actor}: {order.because}")
        say(f"version {left} is refused from now on")
    try:
        return _answer_with(target, Kind.ROLLBACK, order, doors, say)
    except PromotionError:
        if left:
            doors.tracking.forgive(order.model, left)
        raise


def look(models: Sequence[str], doors: Doors) -> dict[str, Diagnosis]:
    """What traffic, alias and ledger say about each model, in one question to each."""
    traffic, aliases = doors.serving.live_versions(), doors.tracking.aliases()
    refused, waiting = doors.tracking.tagged(REFUSED), doors.tracking.tagged(WAITING)
    lives = doors.ledger.lives(models)
    found = {}
    for model in models:
        named, earlier = aliases.get(model, {}), lives.get(model, [])
        champion, challenger = named.get(CHAMPION), named.get(CHALLENGER)
        may_go_live = challenger not in waiting.get(model, frozenset())
        seen = Seen(
            traffic=traffic.get(model),
            alias=champion,
            ledger=earlier[0] if earlier else None,
            pending=challenger if challenger and int(challenger) > int(champion or 0) and may_go_live else None,
            refused=refused.get(model, frozenset()),
            earlier=tuple(earlier),
        )
        found[model] = diagnose(seen)
    return found


def repair(order: Order, doors: Doors, say: Callable[[str], None]) -> Diagnosis:
    """Let traffic, alias and ledger say the same again.

    Raises:
        PromotionError: when the version that is to answer does not answer as at training time.
    """
    found = look([order.model], doors)[order.model]
    say(found.words)
    version = doors.tracking.version(order.model, found.version) if found.version else None
    if found.finding is Finding.AGREED or version is None:
        return found
    if found.finding is Finding.ALIAS_MOVED:
        say(f"to change what answers, use `ml-platform rollback {order.model} --to VERSION`")
    _answer_with(version, Kind.REPAIR, replace(order, because=found.words), doors, say)
    return found


def switch(order: Order, outcome: Outcome, unique: str) -> Entry:
    """The pause of a model's automation, or its end, for the ledger."""
    return Entry(
        key=f"{order.model} {outcome} {unique}",
        at=order.at,
        model=order.model,
        kind=Kind.AUTOMATION,
        outcome=outcome,
        reason=order.because,
        actor=order.actor,
        dagster_run=order.dagster_run,
    )


def _target(order: Order, doors: Doors, now: str | None) -> Version:
    """The version wanted, or the newest that answered before this one and is not refused."""
    earlier = list(dict.fromkeys(doors.ledger.lives([order.model]).get(order.model, [])))
    for number in [order.to] if order.to else [v for v in earlier if v != now]:
        version = doors.tracking.version(order.model, number)
        if version and (order.to or REFUSED not in version.tags):
            return version
    said = f"version {order.to} is not registered" if order.to else f"no version answered before version {now}"
    msg = f"{order.model}: {said}; versions that have answered: {', '.join(earlier) or 'none'}"
    raise RollbackError(msg)


def _answer_with(version: Version, kind: Kind, order: Order, doors: Doors, say: Callable[[str], None]) -> Release:
    """Promote a version and tell the ledger, also when it failed."""
    release = version.release(order.model)
    entry = Entry(
        key=f"{order.model} {kind} to version {release.version} at {order.at.isoformat()} failed",
        at=order.at,
        model=order.model,
        kind=kind,
        outcome=Outcome.FAILED,
        reason=order.because,
        actor=order.actor,
        dagster_run=order.dagster_run,
        mlflow_run=release.run_id,
        version=release.version,
        digest=release.digest,
    )
    folder = doors.tracking.fetch_bundle(release.run_id, doors.bundles.path, release.digest)
    golden = bundle.read_golden(folder, release.digest)
    try:
        promotion.promote(release, folder, golden, serving=doors.serving, registry=doors.tracking, say=say)
    except PromotionError as error:
        doors.ledger.record(replace(entry, reason=f"{order.because}: {error}"))
        raise
    doors.ledger.record_live(release, entry)
    return release
