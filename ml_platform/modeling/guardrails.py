"""Guardrails: what no winner may make worse, however much better it is on the whole."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ml_platform.modeling.bootstrap import effective_rows, paired, value
from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.scoring import MIN_SLICE_ROWS, slices_of
from ml_platform.modeling.spec import Direction, ModelSpec, Task
from ml_platform.modeling.weighted_metrics import calibration_error, metric

MIN_CLASS_ROWS = 10
"""Rows of the rarer class below which a binary model is not compared."""
SLICE_ROWS = 2_000
"""Rows that the interval of one slice is drawn from: there are many slices."""
UNNOTICED_MS = 2.0
"""What one row may take, whatever the champion takes."""


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Rows that no contender was trained on: their labels, and the columns that slice them."""

    actual: Column
    slices: Mapping[str, Column]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model as it is or would be served: its predictions of the holdout, milliseconds for one row, size in MiB."""

    predicted: Predictions
    row_ms: float
    bundle_mib: float


@dataclass(frozen=True, kw_only=True)
class Guardrail:
    """One thing that was looked at, whether it holds, and the numbers in words."""

    name: str
    holds: bool
    said: str


def check(
    spec: ModelSpec, holdout: Holdout, challenger: Contender, champion: Contender | None
) -> tuple[Guardrail, ...]:
    """Every guardrail that can be judged; without a champion, only the size."""
    found = [_size(spec, challenger)]
    if champion:
        found += [_latency(spec, challenger, champion), *_calibration(spec, holdout, challenger, champion)]
        found += _slices(spec, holdout, challenger, champion)
    return tuple(found)


def _size(spec: ModelSpec, challenger: Contender) -> Guardrail:
    most = spec.promotion.max_bundle_mib
    said = f"{challenger.bundle_mib:.1f} MiB, at most {most:g} (max_bundle_mib)"
    return Guardrail(name="bundle size", holds=challenger.bundle_mib <= most, said=said)


def _latency(spec: ModelSpec, challenger: Contender, champion: Contender) -> Guardrail:
    most = max(spec.promotion.max_latency_ratio * champion.row_ms, UNNOTICED_MS)
    said = (
        f"{challenger.row_ms:.2f} ms for one row, the champion {champion.row_ms:.2f}; at most {most:.2f}, which is "
        f"{spec.promotion.max_latency_ratio:g} times as much (max_latency_ratio) or {UNNOTICED_MS:g} ms"
    )
    return Guardrail(name="latency", holds=challenger.row_ms <= most, said=said)


def _calibration(spec: ModelSpec, holdout: Holdout, challenger: Contender, champion: Contender) -> Iterator[Guardrail]:
    most = spec.promotion.max_calibration_drop
    if spec.task is Task.REGRESSION or math.isinf(most):
        return
    errors = [value(calibration_error, holdout.actual, who.predicted) for who in (challenger, champion)]
    gain = paired(
        calibration_error,
        holdout.actual,
        challenger.predicted,
        champion.predicted,
        sign=-1.0,
        confidence=spec.promotion.confidence,
        seed=spec.seed,
    )
    said = (
        f"calibration error {errors[0]:.4f}, the champion's {errors[1]:.4f}, gain {gain}; broken when it is worse by "
        f"more than {most:g} beyond doubt (max_calibration_drop)"
    )
    yield Guardrail(name="calibration", holds=gain.high >= -most, said=said)


def _slices(spec: ModelSpec, holdout: Holdout, challenger: Contender, champion: Contender) -> Iterator[Guardrail]:
    if spec.promotion.max_slice_drop == math.inf:
        return
    inside = {name: rows for name, rows in slices_of(holdout.slices) if _enough(holdout.actual[rows], spec.task)}
    for name, rows in inside.items():
        # So many looks would find something by chance: all of them together have the doubt of one.
        yield _slice(spec, holdout.actual[rows], name, challenger.predicted.at(rows), champion.predicted.at(rows),
                     confidence=1 - (1 - spec.promotion.confidence) / len(inside))  # fmt: skip


def _slice(
    spec: ModelSpec, actual: Column, name: str, challenger: Predictions, champion: Predictions, *, confidence: float
) -> Guardrail:
    measure, sign = metric(spec.promotion.metric), 1.0 if spec.direction is Direction.UP else -1.0
    most = spec.tolerance(spec.promotion.max_slice_drop, value(measure, actual, champion))
    gain = paired(
        measure,
        actual,
        challenger,
        champion,
        sign=sign,
        confidence=confidence,
        seed=spec.seed,
        most_rows=SLICE_ROWS,
    )
    said = (
        f"{len(actual)} rows, {spec.promotion.metric} gain {gain}; broken when it is worse by more than {most:.4g} "
        f"beyond doubt (max_slice_drop)"
    )
    # Where the metric has no value, nothing is beyond doubt.
    return Guardrail(name=f"slice {name}", holds=not gain.high < -most, said=said)


def _enough(actual: Column, task: Task) -> bool:
    return len(actual) >= MIN_SLICE_ROWS and (task is not Task.BINARY or effective_rows(actual, task) >= MIN_CLASS_ROWS)
