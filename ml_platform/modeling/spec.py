"""The spec: everything the platform must know about a model that is not code."""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Literal

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
RESERVED = frozenset({"fleet"})
MIN_CONFIDENCE, MAX_CONFIDENCE = 0.5, 0.999
SCORE_TOLERANCE, ERROR_TOLERANCE = 0.02, 0.05
"""What counts as as good: so much less of a score, or so large a share more of an error."""


class SpecError(ValueError):
    """A spec that cannot be right; the message names the model, the field and the remedy."""


class Task(StrEnum):
    """What is predicted: one of two classes, one of several, or a number."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Direction(StrEnum):
    """Which way a metric improves."""

    UP = "up"
    DOWN = "down"


METRICS: dict[Task, dict[str, Direction]] = {
    Task.BINARY: {
        "roc_auc": Direction.UP,
        "average_precision": Direction.UP,
        "accuracy": Direction.UP,
        "log_loss": Direction.DOWN,
        "brier": Direction.DOWN,
    },
    Task.MULTICLASS: {"accuracy": Direction.UP, "f1_macro": Direction.UP, "log_loss": Direction.DOWN},
    Task.REGRESSION: {"r2": Direction.UP, "rmse": Direction.DOWN, "mae": Direction.DOWN},
}


@dataclass(frozen=True)
class PostgresTable:
    """The table a model learns from.

    `key` identifies a row for ever. `changed_at` is when the row last changed: it feeds the new-data sensor and the
    freshness check; what is pulled is decided by PostgreSQL's own row versions, so a wrong clock loses nothing.
    `event_time` is when the thing itself happened: where there is one, it splits training from holdout.
    """

    table: str
    key: str
    changed_at: str | None = None
    event_time: str | None = None
    full_sync_cron: str | None = "30 2 * * 6"


@dataclass(frozen=True, kw_only=True)
class QualityPolicy:
    """What the data must be like before anything is trained on it."""

    max_quarantine_share: float = 0.05
    min_rows: int = 200
    max_source_age: timedelta = timedelta(days=30)


class Approval(StrEnum):
    """Who lets a winner go live: the gate alone, or a person after it."""

    AUTO = "auto"
    HUMAN = "human"


@dataclass(frozen=True, kw_only=True)
class PromotionPolicy:
    """When a challenger goes live. Gains, margins and floors are in the metric's own unit.

    `floor` is what a model must reach at all: at least for a score, at most for an error.

    There are two ways to beat a champion, both by the interval of the gain on the shared holdout, at `confidence`.
    *Superiority*: the whole interval is above 0, and the gain itself is more than `min_improvement`. *Non-inferiority*,
    once the champion is older than `max_age` (never when None): the whole interval is above minus `margin`.

    Guardrails hold for every winner; where chance plays a part, only what is beyond doubt breaks one. No slice is worse
    by more than `max_slice_drop`, the calibration error has not grown by more than `max_calibration_drop`, one row
    takes at most `max_latency_ratio` times as long as with the champion, the bundle is at most `max_bundle_mib` large.
    `math.inf` switches a guardrail off. A margin or slice drop of None is 0.02 for a score, and for an error 5 % of the
    champion's.
    """

    metric: str
    floor: float
    min_improvement: float = 0.0
    confidence: float = 0.95
    margin: float | None = None
    max_age: timedelta | None = timedelta(days=28)
    max_slice_drop: float | None = None
    max_calibration_drop: float = 0.02
    max_latency_ratio: float = 3.0
    max_bundle_mib: float = 500.0
    approval: Approval | Literal["auto", "human"] = Approval.AUTO
    holdout: float = 0.25


@dataclass(frozen=True, kw_only=True)
class RetrainPolicy:
    """When the model is refreshed without anybody asking, and what keeps that from running wild.

    `cron`, `new_rows` (new or changed at the source), drift and degraded outcomes each wish for a refresh. It is
    granted when the last one began at least `cooldown` ago, fewer than `weekly_budget` began within 7 days, and fewer
    than `max_losers` challengers were rejected in a row. Drift counts when `drift_windows` show it: 2 of the last 3.
    """

    cron: str = "0 0 * * 0"
    new_rows: int = 500
    on_drift: bool = True
    on_degraded: bool = True
    cooldown: timedelta = timedelta(hours=12)
    weekly_budget: int = 3
    drift_windows: tuple[int, int] = (2, 3)
    max_losers: int = 15


@dataclass(frozen=True, kw_only=True)
class MonitoringPolicy:
    """How served traffic and outcomes are watched.

    At each time of `cron` the requests of the last `window`, the newest `max_rows` of them, are held against the
    training data, if there are `min_rows`. The thresholds are such that chance alone raises `false_alarms_per_year`.

    At each time of `outcomes_cron` the predictions of `outcomes_window` that are older than `maturity`, so that their
    outcome at the source is final, are held against what was promised at promotion, if `min_outcomes` are known. Worse
    by `tolerance`, in the metric's own unit, is as good; None is 0.02 for a score, 5 % of the promise for an error.
    """

    cron: str = "0 6 * * *"
    window: timedelta = timedelta(days=1)
    max_rows: int = 10_000
    min_rows: int = 50
    false_alarms_per_year: float = 1.0
    outcomes_cron: str = "30 6 * * *"
    outcomes_window: timedelta = timedelta(days=28)
    maturity: timedelta = timedelta(days=7)
    min_outcomes: int = 100
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What the prediction log keeps of personal data: some columns not at all, some only as a keyed hash."""

    exclude: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A table whose every row the champion answers, on a schedule.

    `into` gets the newest answer to each row of `table`, by the column `key`; without one, by the source's key.
    A scoring that was interrupted is continued while its last progress is at most `continue_within` old; after that,
    what it has done is out of date, and the next one begins anew.
    """

    table: str
    into: str
    key: str | None = None
    cron: str = "0 5 * * *"
    continue_within: timedelta = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a room needs when it runs in a container of its own, in Kubernetes' units."""

    cpu: str = "1"
    memory: str = "2Gi"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model of the catalogue. `package` is filled in by the catalogue: where its code lives."""

    name: str
    owner: str
    purpose: str
    source: PostgresTable
    label: str
    task: Task
    promotion: PromotionPolicy
    slices: tuple[str, ...] = ()
    quality: QualityPolicy = field(default_factory=QualityPolicy)
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)
    monitoring: MonitoringPolicy = field(default_factory=MonitoringPolicy)
    serving: Serving = field(default_factory=Serving)
    scoring: Scoring | None = None
    resources: dict[str, Resources] = field(default_factory=dict)
    seed: int = 20_240_101
    package: str = ""

    def __post_init__(self) -> None:
        """Refuse a spec that cannot work, before anything runs."""
        if not NAME.fullmatch(self.name) or self.name in RESERVED:
            self._refuse("name", "use lower-case letters, digits and underscores, starting with a letter")
        if not (self.owner.startswith("team:") or "@" in self.owner):
            self._refuse("owner", "write 'team:NAME' or an e-mail address")
        metrics = METRICS[self.task]
        if self.promotion.metric not in metrics:
            self._refuse("promotion.metric", f"for a {self.task} model choose one of {', '.join(metrics)}")
        for name, (is_right, remedy) in self._promotion_rules().items():
            if not is_right:
                self._refuse(f"promotion.{name}", remedy)
        if not 0 <= self.quality.max_quarantine_share < 1:
            self._refuse("quality.max_quarantine_share", "give a share between 0 and 1")
        if self.quality.max_source_age < timedelta(minutes=1):
            self._refuse("quality.max_source_age", "give a minute or more")
        self._check_retrain(self.retrain)
        self._check_monitoring(self.monitoring)
        self._check_outcomes(self.monitoring)
        for where, cron in self._crons().items():
            if len(cron.split()) != 5:  # noqa: PLR2004 - the five fields of cron
                self._refuse(where, "write five cron fields, such as '0 0 * * 0' for Sunday midnight")

    def _promotion_rules(self) -> dict[str, tuple[bool, str]]:
        """Whether each number of the policy can be meant, and what else to write."""
        policy, a_score = self.promotion, self.direction is Direction.UP
        tolerances = {"margin": policy.margin, "max_slice_drop": policy.max_slice_drop}
        return {
            "floor": (
                policy.floor <= 1 if a_score else policy.floor >= 0,
                _floor_remedy(policy.metric, self.direction),
            ),
            "holdout": (0 < policy.holdout < 1, "give the share of rows to hold out, between 0 and 1"),
            "min_improvement": (policy.min_improvement >= 0, "give 0 or more, in the metric's own unit"),
            "confidence": (MIN_CONFIDENCE <= policy.confidence <= MAX_CONFIDENCE, "give 0.5 to 0.999, such as 0.95"),
            "max_age": (policy.max_age is None or policy.max_age > timedelta(0), "give a time, or None for never"),
            **{
                name: (given is None or given >= 0, "give 0 or more, in the metric's own unit, or None for the default")
                for name, given in tolerances.items()
            },
            "max_calibration_drop": (policy.max_calibration_drop >= 0, "give a share, 0 or more, such as 0.02"),
            "max_latency_ratio": (policy.max_latency_ratio >= 1, "give 1 or more: how many times as long it may take"),
            "max_bundle_mib": (policy.max_bundle_mib > 0, "give more than 0 MiB"),
            "approval": (policy.approval in set(Approval), "write 'auto', or 'human' for a person to release winners"),
        }

    def _check_retrain(self, policy: RetrainPolicy) -> None:
        need, of = policy.drift_windows
        if not 1 <= need <= of:
            self._refuse("retrain.drift_windows", "give how many of how many windows, such as (2, 3)")
        if policy.cooldown < timedelta(0):
            self._refuse("retrain.cooldown", "give a time of 0 or more")
        for name in ("new_rows", "weekly_budget", "max_losers"):
            if getattr(policy, name) < 1:
                self._refuse(f"retrain.{name}", "give a whole number of 1 or more")

    def _check_monitoring(self, policy: MonitoringPolicy) -> None:
        if policy.window <= timedelta(0):
            self._refuse("monitoring.window", "give how far back requests are compared, such as timedelta(days=1)")
        if policy.false_alarms_per_year <= 0:
            self._refuse("monitoring.false_alarms_per_year", "give more than 0: no threshold is never passed by chance")
        if not 2 <= policy.min_rows <= policy.max_rows:  # noqa: PLR2004 - two rows are the fewest that can be compared
            self._refuse("monitoring.min_rows", "give at least 2, and no more than max_rows")

    def _check_outcomes(self, policy: MonitoringPolicy) -> None:
        if policy.outcomes_window <= timedelta(0):
            self._refuse("monitoring.outcomes_window", "give how far back outcomes count, such as timedelta(days=28)")
        if policy.maturity < timedelta(0):
            self._refuse("monitoring.maturity", "give how long it takes until an outcome is final, 0 or more")
        if policy.min_outcomes < 1:
            self._refuse("monitoring.min_outcomes", "give 1 or more")
        if policy.tolerance is not None and policy.tolerance < 0:
            self._refuse("monitoring.tolerance", "give 0 or more, in the metric's own unit, or None for the default")

    def _crons(self) -> dict[str, str]:
        crons = {"retrain.cron": self.retrain.cron, "monitoring.cron": self.monitoring.cron}
        crons["monitoring.outcomes_cron"] = self.monitoring.outcomes_cron
        return crons | ({"scoring.cron": self.scoring.cron} if self.scoring else {})

    def _refuse(self, where: str, remedy: str) -> None:
        msg = f"model {self.name!r}, field {where}: {remedy}"
        raise SpecError(msg)

    @property
    def direction(self) -> Direction:
        """Which way the promotion metric improves."""
        return METRICS[self.task][self.promotion.metric]

    def tolerance(self, given: float | None, champion: float) -> float:
        """How much worse than the champion's value of the promotion metric still counts as as good."""
        if given is not None:
            return given
        return SCORE_TOLERANCE if self.direction is Direction.UP else ERROR_TOLERANCE * abs(champion)


def _floor_remedy(metric: str, direction: Direction) -> str:
    if direction is Direction.UP:
        return f"{metric} is never above 1; give what a model must reach at least, such as 0.65"
    return f"{metric} is never below 0; give what it may be at most"
