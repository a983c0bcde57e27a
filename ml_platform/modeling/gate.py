"""The gate: whether a challenger takes the champion's place, and why."""

from dataclasses import dataclass

from ml_platform.modeling.spec import Direction, ModelSpec

MIN_ROWS = 50
"""Held-out rows below which nobody is judged."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The gate's answer and the numbers it rests on; `champion` is None where there was none to compare with."""

    won: bool
    reason: str
    metric: str
    challenger: float
    champion: float | None
    floor: float


def decide(spec: ModelSpec, challenger: float, champion: float | None, *, logs_otherwise: bool = False) -> Decision:
    """Compare two scores of the promotion metric, measured on the same rows that neither was trained on.

    A tie keeps the champion, except where the challenger `logs_otherwise`: what is agreed on personal data goes live
    with the first model that is no worse.
    """
    policy = spec.promotion
    sign = 1.0 if spec.direction is Direction.UP else -1.0

    def answer(won: bool, reason: str) -> Decision:  # noqa: FBT001 - the one outcome there is
        return Decision(
            won=won,
            reason=reason,
            metric=policy.metric,
            challenger=challenger,
            champion=champion,
            floor=policy.floor,
        )

    said = f"{policy.metric} {challenger:.4f}"
    if sign * challenger < sign * policy.floor:
        return answer(won=False, reason=f"{said} misses the floor of {policy.floor:.4f}")
    if champion is None:
        return answer(won=True, reason=f"{said} meets the floor of {policy.floor:.4f}, and there is no champion yet")
    gain = sign * (challenger - champion)
    if gain > policy.min_improvement:
        return answer(won=True, reason=f"{said} beats the champion's {champion:.4f}")
    if logs_otherwise and gain >= 0:
        return answer(won=True, reason=f"{said} is no worse than the champion's, and spec.serving was changed")
    return answer(won=False, reason=f"{said} does not beat the champion's {champion:.4f}: the champion stays")
