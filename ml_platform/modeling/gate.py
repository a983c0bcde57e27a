"""The gate: whether a challenger takes the champion's place, in which way, and why."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from ml_platform.modeling import guardrails
from ml_platform.modeling.bootstrap import Interval, effective_rows, paired, value
from ml_platform.modeling.guardrails import MIN_CLASS_ROWS, Contender, Guardrail, Holdout
from ml_platform.modeling.spec import Direction, ModelSpec, PromotionPolicy, Task
from ml_platform.modeling.weighted_metrics import metric

MIN_ROWS = 50
"""Held-out rows below which nobody is judged."""


class Way(StrEnum):
    """How a challenger won."""

    FIRST = "first model"
    SUPERIORITY = "superiority"
    NON_INFERIORITY = "non-inferiority"
    PRIVACY = "privacy"
    """No worse, and it logs as spec.serving says now."""
    UNOPPOSED = "unopposed"
    """The champion could not be compared with."""


@dataclass(frozen=True, kw_only=True)
class Champion:
    """Who is to be beaten: how long it has been registered, and what it did or, when it could do nothing, why not."""

    version: str
    age: timedelta
    contender: Contender | None
    incomparable: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The gate's answer and the numbers it rests on; `way` is None for a loser, `gain` where nobody was compared."""

    way: Way | None
    reason: str
    challenger: float
    champion: float | None = None
    gain: Interval | None = None
    guardrails: tuple[Guardrail, ...] = ()

    @property
    def won(self) -> bool:
        """Whether the challenger takes the champion's place."""
        return self.way is not None


def too_few(spec: ModelSpec, holdout: Holdout) -> str:
    """Why nobody can be judged on these rows; empty when they are enough."""
    rows = len(holdout.actual)
    if rows < MIN_ROWS:
        return f"{rows} rows that nobody was trained on are too few to judge; {MIN_ROWS} are needed"
    rarer = effective_rows(holdout.actual, spec.task)
    if spec.task is Task.BINARY and rarer < MIN_CLASS_ROWS:
        return (
            f"{rarer} of {rows} rows that nobody was trained on are of the rarer class, too few to judge; "
            f"{MIN_CLASS_ROWS} are needed"
        )
    return ""


def decide(
    spec: ModelSpec,
    holdout: Holdout,
    challenger: Contender,
    champion: Champion | None,
    *,
    logs_otherwise: bool = False,
) -> Decision:
    """Judge a challenger on rows that neither it nor the champion was trained on.

    A tie keeps the champion, except where the challenger `logs_otherwise`: what is agreed on personal data goes live
    with the first model that is no worse.
    """
    if reason := too_few(spec, holdout):
        return Decision(way=None, reason=reason, challenger=float("nan"))
    than = champion.contender if champion else None
    scores = _scores(spec, holdout, challenger, than)
    checked = guardrails.check(spec, holdout, challenger, than)
    way, reason = _verdict(spec, scores, champion, logs_otherwise=logs_otherwise)
    broken = "; ".join(f"guardrail {rail.name}: {rail.said}" for rail in checked if not rail.holds)
    if way and broken:
        way, reason = None, f"{reason}; but {broken}"
    return Decision(way=way, reason=reason, guardrails=checked, **vars(scores))


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """The promotion metric of both, and the gain."""

    challenger: float
    champion: float | None = None
    gain: Interval | None = None


def _scores(spec: ModelSpec, holdout: Holdout, challenger: Contender, champion: Contender | None) -> _Scores:
    measure = metric(spec.promotion.metric)
    reached = value(measure, holdout.actual, challenger.predicted)
    if champion is None:
        return _Scores(challenger=reached)
    gain = paired(
        measure,
        holdout.actual,
        challenger.predicted,
        champion.predicted,
        sign=_sign(spec),
        confidence=spec.promotion.confidence,
        seed=spec.seed,
    )
    return _Scores(challenger=reached, champion=value(measure, holdout.actual, champion.predicted), gain=gain)


def _verdict(
    spec: ModelSpec, scores: _Scores, champion: Champion | None, *, logs_otherwise: bool
) -> tuple[Way | None, str]:
    """The way the challenger wins, guardrails aside, and the reason."""
    policy = spec.promotion
    said = f"{policy.metric} {scores.challenger:.4f}"
    if not _sign(spec) * scores.challenger >= _sign(spec) * policy.floor:
        return None, f"{said} misses the floor of {policy.floor:.4f}"
    meets = f"{said} meets the floor of {policy.floor:.4f}"
    if champion is None:
        return Way.FIRST, f"{meets}, and there is no champion yet"
    if scores.champion is None or scores.gain is None:
        unable = f"the champion, version {champion.version}, cannot be compared with: {champion.incomparable}"
        return Way.UNOPPOSED, f"{meets}; {unable}"
    said = f"{said}, the champion's {scores.champion:.4f}, gain {scores.gain}"
    margin = spec.tolerance(policy.margin, scores.champion)
    way, why = _way(policy, scores.gain, champion.age, margin, logs_otherwise=logs_otherwise)
    return way, f"{said}: {why}"


def _way(
    policy: PromotionPolicy, gain: Interval, age: timedelta, margin: float, *, logs_otherwise: bool
) -> tuple[Way | None, str]:
    """Who wins by the interval of the gain."""
    if gain.low > 0 and gain.estimate > policy.min_improvement:
        return Way.SUPERIORITY, "beyond doubt, and enough"
    if logs_otherwise and gain.estimate >= 0:
        return Way.PRIVACY, "no worse, and spec.serving was changed"
    old = policy.max_age is not None and age > policy.max_age
    if old and gain.low > -margin:
        return Way.NON_INFERIORITY, f"as good within {margin:.4g}, and the champion is {age.days} days old"
    short = f"not more than {policy.min_improvement:g}" if gain.low > 0 else "not beyond doubt"
    missed = f", nor as good within {margin:.4g} beyond doubt" if old else ""
    return None, f"{short}{missed}; the champion stays"


def _sign(spec: ModelSpec) -> float:
    return 1.0 if spec.direction is Direction.UP else -1.0
