"""Decisions: what the platform or a person decided about a model, one value for all of them, as the ledger keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

PLATFORM = "platform"


class Kind(StrEnum):
    """What was decided on."""

    TRIGGER = "trigger"
    """Whether to retrain now."""
    GATE = "gate"
    """Whether a challenger is good enough."""
    APPROVAL = "approval"
    """Whether a winner that waits for a person may go live."""
    PROMOTION = "promotion"
    """Whether a release answers live traffic."""
    ROLLBACK = "rollback"
    """To go back to an earlier version."""
    REPAIR = "repair"
    """What to do about traffic, alias and ledger that disagree."""
    DRIFT = "drift"
    """Whether the served requests are still like the training data."""
    PERFORMANCE = "performance"
    """Whether outcomes still are as good as promised."""
    AUTOMATION = "automation"
    """Whether triggers may start anything at all."""
    RUN = "run"
    """How a run ended that did not end well."""


class Outcome(StrEnum):
    """What was decided."""

    STARTED = "started"
    REFUSED = "refused"
    WON = "won"
    LOST = "lost"
    WAITING = "waiting"
    RELEASED = "released"
    LIVE = "live"
    FAILED = "failed"
    PAUSED = "paused"
    RESUMED = "resumed"
    OK = "ok"
    UNKNOWN = "unknown"
    """Too little is known to say."""
    DRIFTED = "drifted"
    DEGRADED = "degraded"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decision with its reason. `key` makes it one: written twice, it is in the ledger once.

    `evidence` is what it rests on, as JSON; the links are ids of Dagster, MLflow and the registry. A decision whose
    outcome is `LIVE` says what answers from then on: version and digest are given.
    """

    key: str
    at: datetime
    model: str
    kind: Kind
    outcome: Outcome
    reason: str
    actor: str = PLATFORM
    evidence: Mapping[str, Any] = field(default_factory=dict)
    dagster_run: str | None = None
    mlflow_run: str | None = None
    version: str | None = None
    digest: str | None = None
