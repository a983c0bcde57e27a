"""Reconciling: traffic, the champion alias and the ledger must say the same; where they do not, which of them holds."""

from dataclasses import dataclass
from enum import StrEnum


class Finding(StrEnum):
    """What was found."""

    AGREED = "agreed"
    NOTHING_SERVED = "nothing is served"
    REFUSED_SERVED = "a refused version is served"
    HALF_PROMOTED = "a promotion stopped half-way"
    TRAFFIC_MOVED = "traffic was moved by hand"
    ALIAS_MOVED = "the alias was moved by hand"
    WINNER_WAITS = "a winner never went live"
    UNRECORDED = "the ledger does not know"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The version that each of the three names, the winner that waits to go live, and versions nobody may serve."""

    traffic: str | None
    alias: str | None
    ledger: str | None
    pending: str | None = None
    refused: frozenset[str] = frozenset()
    earlier: tuple[str, ...] = ()
    """What answered before, newest first."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found, in words, and the version that is to answer; None when none can."""

    finding: Finding
    words: str
    version: str | None


def diagnose(seen: Seen) -> Diagnosis:
    """Decide which version is to answer.

    A promotion moves traffic, then the alias, then the ledger. So traffic ahead of the others is a promotion that died
    if it is a registered winner or answered before, and a stranger otherwise; an alias that differs from traffic and
    ledger was moved by hand.
    """
    said = f"traffic {_name(seen.traffic)}, alias {_name(seen.alias)}, ledger {_name(seen.ledger)}"

    def found(finding: Finding, version: str | None) -> Diagnosis:
        return Diagnosis(finding=finding, words=f"{finding}: {said}", version=version)

    if seen.traffic is not None and seen.traffic in seen.refused:
        return found(Finding.REFUSED_SERVED, _last_good(seen))
    if seen.traffic is None and seen.alias is None and seen.pending not in {None, *seen.refused}:
        return found(Finding.WINNER_WAITS, seen.pending)
    if seen.traffic is None:
        version = seen.alias if seen.alias not in seen.refused else _last_good(seen)
        return found(Finding.AGREED if version is None else Finding.NOTHING_SERVED, version)
    if seen.traffic == seen.alias == seen.ledger:
        waits = seen.pending is not None and seen.pending not in seen.refused
        return found(Finding.WINNER_WAITS if waits else Finding.AGREED, seen.pending if waits else seen.traffic)
    if seen.traffic == seen.alias:
        return found(Finding.UNRECORDED, seen.traffic)
    if seen.traffic == seen.ledger:
        return found(Finding.ALIAS_MOVED, seen.traffic)
    known = seen.traffic == seen.pending or seen.traffic in seen.earlier
    if known or seen.alias is None or seen.alias in seen.refused:
        return found(Finding.HALF_PROMOTED, seen.traffic)
    return found(Finding.TRAFFIC_MOVED, seen.alias)


def _last_good(seen: Seen) -> str | None:
    """The newest version that answered before and was not refused."""
    return next((version for version in seen.earlier if version not in seen.refused), None)


def _name(version: str | None) -> str:
    return f"version {version}" if version else "nothing"
