"""Approval: a person releases a winner that waits, or refuses it for good, and says why."""

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, REFUSED, WAITING, ExperimentTracking, Version
from ml_platform.resources.traffic import Doors, Order


class ApprovalError(RuntimeError):
    """A version that cannot be released or refused; the message says why, and what can be done instead."""


def approve(order: Order, doors: Doors) -> Version:
    """Release a version that waits: the next refresh takes it to live traffic, before it trains anything.

    Raises:
        ApprovalError: when there is no such version, or it does not wait.
    """
    version = _wanted(order, doors.tracking)
    champion = doors.tracking.version_with_alias(order.model, CHAMPION)
    where = f"{order.model}: version {version.version}"
    if REFUSED in version.tags:
        msg = f"{where} was refused: {version.tags[REFUSED]}; to let it answer after all, {_by_hand(order, version)}"
        raise ApprovalError(msg)
    if champion and int(champion.version) >= int(version.version):
        is_it = champion.version == version.version
        newer = f"is older than the champion, version {champion.version}; to go back to it, {_by_hand(order, version)}"
        msg = f"{where} {'is the champion already' if is_it else newer}"
        raise ApprovalError(msg)
    if WAITING not in version.tags:
        msg = f"{where} does not wait for anybody: the next refresh takes it to live traffic"
        raise ApprovalError(msg)
    # The ledger first: killed in between, the version still waits, and the same click is told once.
    doors.ledger.record(_entry(order, version, Outcome.RELEASED))
    doors.tracking.release(order.model, version.version, order.actor, order.because)
    return version


def refuse(order: Order, doors: Doors) -> Version:
    """Refuse a version for good: neither it nor the same model under another number is tried again.

    Raises:
        ApprovalError: when there is no such version, or it answers live traffic.
    """
    version = _wanted(order, doors.tracking)
    if doors.tracking.champion_version(order.model) == version.version:
        msg = f"{order.model}: version {version.version} is live; use `ml-platform rollback {order.model}`"
        raise ApprovalError(msg)
    doors.ledger.record(_entry(order, version, Outcome.REFUSED))
    doors.tracking.refuse(order.model, version.version, f"by {order.actor}: {order.because}")
    return version


def _wanted(order: Order, tracking: ExperimentTracking) -> Version:
    """The version that was named, or the newest winner."""
    version = (
        tracking.version(order.model, order.to) if order.to else tracking.version_with_alias(order.model, CHALLENGER)
    )
    if version is None:
        what = f"version {order.to} is not registered" if order.to else "no winner was registered yet"
        msg = f"{order.model}: {what}"
        raise ApprovalError(msg)
    return version


def _by_hand(order: Order, version: Version) -> str:
    return f"use `ml-platform rollback {order.model} --to {version.version}`"


def _entry(order: Order, version: Version, outcome: Outcome) -> Entry:
    return Entry(
        key=f"{order.model} version {version.version} {outcome}",
        at=order.at,
        model=order.model,
        kind=Kind.APPROVAL,
        outcome=outcome,
        reason=order.because,
        actor=order.actor,
        dagster_run=order.dagster_run,
        mlflow_run=version.run_id,
        version=version.version,
        digest=version.digest,
    )
