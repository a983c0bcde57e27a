"""Judging: the rows of a window held against the reference, at a stated rate of false alarms."""

from collections.abc import Sequence

import msgspec
import polars as pl

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.drift import wording
from ml_platform.modeling.drift.calibration import Calibration, Threshold, calibrated, chance_of_new
from ml_platform.modeling.drift.cells import kind_of
from ml_platform.modeling.drift.decision import Alarm, Basis, State
from ml_platform.modeling.drift.profile import Profile
from ml_platform.modeling.drift.statistics import Measure, Moments, distances, never_seen, resampled

FEWEST_BLOCKS = 40


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows tell, whenever they were served: the state is ok, drifted or schema_changed."""

    state: State
    reason: str
    alarms: tuple[Alarm, ...]
    basis: Basis


def judge(profiles: Sequence[Profile], windows: Sequence[pl.DataFrame], rate: float) -> Verdict:
    """Hold windows of the same rows against their references.

    Args:
        profiles: of one reference, or of several that have different rows, such as inputs and predictions.
        windows: for each profile a frame of the same n rows; a column may be left out where it is missing in all.
        rate: the share of undrifted windows that may have an alarm.
    """
    pairs = list(zip(profiles, windows, strict=True))
    calibration = calibrated(profiles, len(windows[0]), rate)
    basis = _basis(profiles, rate)
    changes = [change for profile, window in pairs for change in _schema_changes(profile, window)]
    if changes:
        return _verdict(State.SCHEMA_CHANGED, changes, basis)
    found: list[tuple[float, Alarm]] = []
    for (profile, window), threshold in zip(pairs, calibration.thresholds, strict=True):
        found += _moved(profile, window, threshold, calibration)
    return _verdict(State.DRIFTED if found else State.OK, _said_once(found), basis)


def _said_once(found: Sequence[tuple[float, Alarm]]) -> list[Alarm]:
    """Of each column what surprises most, the greatest surprise first; correlations only of columns that stayed.

    A column that moves takes its level, its shares and its correlations along: one thing happened, not many.
    """
    alarms: list[Alarm] = []
    moved: set[str] = set()
    for _, alarm in sorted(found, key=lambda pair: (len(pair[1].columns), -pair[0])):
        if moved.isdisjoint(alarm.columns):
            alarms.append(alarm)
            if len(alarm.columns) == 1:
                moved.update(alarm.columns)
    return alarms


def _verdict(state: State, alarms: Sequence[Alarm], basis: Basis) -> Verdict:
    reason = f"none of {basis.statistics} statistics is further off than chance takes it"
    if alarms:
        reason = f"{alarms[0].reason}{f'; and {len(alarms) - 1} more' if len(alarms) > 1 else ''}"
    return Verdict(state=state, reason=reason, alarms=tuple(alarms), basis=basis)


def _basis(profiles: Sequence[Profile], rate: float) -> Basis:
    block = max(profile.block for profile in profiles)
    blocks = min(profile.rows // profile.block for profile in profiles)
    unit = "blocks of event time" if block > 1 else "rows"
    few = f"the reference has only {blocks} {unit}: the rate is approximate, and small changes go unnoticed"
    return Basis(
        false_alarm_rate=rate,
        resampled=unit,
        block_rows=block,
        reference_rows=min(profile.rows for profile in profiles),
        statistics=sum(len(resampled(profile)) + len(never_seen(profile)) for profile in profiles),
        caveat=few if blocks < FEWEST_BLOCKS else "",
    )


def _schema_changes(profile: Profile, window: pl.DataFrame) -> list[Alarm]:
    """Columns that are gone though the reference always has them, and columns that hold something else."""
    changes = []
    for cells, counts in zip(profile.columns, profile.counts, strict=True):
        kind = kind_of(window[cells.name].dtype) if cells.name in window.columns else None
        if cells.name not in window.columns and not counts[cells.missing]:
            changes.append(wording.gone(cells.name))
        elif kind not in (None, cells.kind) and cells.kind is not Kind.TIME:
            changes.append(wording.other_kind(cells.name, str(kind), cells.kind))
    return changes


def _moved(
    profile: Profile, window: pl.DataFrame, threshold: Threshold, calibration: Calibration
) -> list[tuple[float, Alarm]]:
    """The statistics that are over the threshold, each with its surprise."""
    gone = [cells.name for cells in profile.columns if cells.name not in window.columns]
    sums = profile.sums(window.with_columns(pl.lit(None).alias(name) for name in gone))
    before, after = Moments.of(profile, profile.own_sums), Moments.of(profile, sums)
    found, limit = distances(profile, profile.own_sums, sums), threshold.distance(calibration.surprise)
    surprises = threshold.surprise(found)
    moved = [
        (float(surprises[k]), wording.moved(profile, statistic, before, after, (found[k], limit[k])))
        for k, statistic in enumerate(resampled(profile))
        if surprises[k] > calibration.surprise
    ]
    for statistic in never_seen(profile):
        cells = profile.columns[statistic.columns[0]]
        code = cells.unseen if statistic.measure is Measure.NEW_VALUES else cells.missing
        count = int(after.counts[statistic.columns[0]][code])
        chance = chance_of_new(profile, statistic, len(window))
        if (surprise := chance.surprise(count)) > calibration.surprise:
            limit_of_new = chance.limit(calibration.surprise)
            moved.append((surprise, wording.new(cells.name, statistic.measure, count, limit_of_new, len(window))))
    return moved
