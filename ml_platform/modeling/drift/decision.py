"""The decision: whether a window of served rows is still like the reference, and what is not."""

from datetime import datetime
from enum import StrEnum

import msgspec


class State(StrEnum):
    """What a look at a window came to."""

    OK = "ok"
    DRIFTED = "drifted"
    SCHEMA_CHANGED = "schema_changed"
    TOO_FEW_ROWS = "too_few_rows"
    NO_TRAFFIC = "no_traffic"
    TRAFFIC_STOPPED = "traffic_stopped"
    NOTHING_TO_COMPARE = "nothing_to_compare"
    NO_CHAMPION = "no_champion"


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as in the reference: which column or pair, by which measure, how far, and in words.

    `threshold` is how far chance would take it, at the stated rate and this size of the window.
    """

    columns: tuple[str, ...]
    measure: str
    value: float
    threshold: float
    reason: str


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """How the thresholds came about: the stated rate of false alarms per window, and what was resampled for it.

    `caveat` says where the reference is too small to tell much; empty where it is not.
    """

    false_alarm_rate: float
    resampled: str
    block_rows: int
    reference_rows: int
    statistics: int
    caveat: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on one window, with the evidence; `start` and `end` are the window's."""

    state: State
    reason: str
    rows: int
    start: datetime
    end: datetime
    alarms: tuple[Alarm, ...] = ()
    basis: Basis | None = None
