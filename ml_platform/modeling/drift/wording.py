"""Wording: what moved, in words and in the units that people think in."""

import numpy as np

from ml_platform.modeling.columns import Numbers
from ml_platform.modeling.drift.decision import Alarm
from ml_platform.modeling.drift.profile import Profile
from ml_platform.modeling.drift.statistics import Measure, Moments, Statistic, effective_rows

SCHEMA = "schema"


def gone(column: str) -> Alarm:
    """A column that no row has."""
    return _schema(column, "is in no row any more, though every row of the reference has it")


def other_kind(column: str, now: str, before: str) -> Alarm:
    """A column that holds another kind of values."""
    return _schema(column, f"holds a {now} now, and a {before} in the reference")


def _schema(column: str, what: str) -> Alarm:
    return Alarm(columns=(column,), measure=SCHEMA, value=1.0, threshold=0.0, reason=f"{column} {what}")


def new(column: str, measure: Measure, count: int, limit: float, rows: int) -> Alarm:
    """Values in a cell where the reference has none; `count` and `limit` are of `rows`."""
    what = "has a value that the reference does not know" if measure is Measure.NEW_VALUES else "is missing"
    rest = "" if measure is Measure.NEW_VALUES else ", and never in the reference"
    reason = f"{column} {what} in {count:,} of {rows:,} rows{rest}"
    return Alarm(columns=(column,), measure=measure, value=count / rows, threshold=limit / rows, reason=reason)


def moved(
    profile: Profile, statistic: Statistic, before: Moments, after: Moments, distance: tuple[float, float]
) -> Alarm:
    """A statistic that is over its threshold.

    Args:
        profile: the reference.
        statistic: what was measured.
        before: the reference's moments.
        after: the window's.
        distance: the statistic, and what chance would make of it.
    """
    names = [profile.columns[i].name for i in statistic.columns]
    value, threshold = (float(d / effective_rows(before.rows, after.rows)) for d in distance)
    if statistic.measure in (Measure.LEVEL, Measure.CORRELATION):
        value, threshold = np.sqrt(value).item(), np.sqrt(threshold).item()
    return Alarm(
        columns=tuple(names),
        measure=statistic.measure,
        value=value,
        threshold=threshold,
        reason=_reason(profile, statistic, before, after, names),
    )


def _reason(profile: Profile, statistic: Statistic, before: Moments, after: Moments, names: list[str]) -> str:
    i, name = statistic.columns[0], names[0]
    cells = profile.columns[i]
    if statistic.measure is Measure.CORRELATION:
        was, now = (moments.correlation(*statistic.columns) for moments in (before, after))
        return f"the rank correlation of {name} and {names[1]} went from {was:.2f} to {now:.2f}"
    if statistic.measure is Measure.LEVEL:
        change = float(after.means[i] - before.means[i])
        return f"{name} is {abs(change):.2f} standard deviations {'higher' if change > 0 else 'lower'}"
    if statistic.measure is Measure.MISSING:
        before_share, after_share = (_shares(moments.counts[i])[cells.missing] for moments in (before, after))
        return f"{name} is missing in {after_share:.1%} of the rows, and in {before_share:.1%} of the reference"
    shares_before, shares_after = (_shares(moments.counts[i][: cells.size]) for moments in (before, after))
    most = int(np.abs(shares_after - shares_before).argmax())
    went = f"{cells.label(most)} went from {shares_before[most]:.1%} to {shares_after[most]:.1%}"
    return f"{name} is spread differently: {went}"


def _shares(counts: Numbers) -> Numbers:
    return np.asarray(counts / max(counts.sum(), 1))
