"""Traffic: whether requests stopped coming, by what is usual for the model."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median

LOOK_BACK = 28
FEWEST_WINDOWS = 5
FEWEST_ROWS = 20
SHARE = 0.1


def has_stopped(now: int, before: Sequence[int]) -> bool:
    """Whether there are less than a tenth of the usual rows, for longer than that has ever happened before.

    So a night or a weekend without requests is no stop where every one is like that.

    Args:
        now: rows of the window.
        before: rows of the windows before it, newest first.
    """
    since_first = list(before[: max((i + 1 for i, rows in enumerate(before) if rows), default=0)])
    if len(since_first) < FEWEST_WINDOWS or usual(since_first) < FEWEST_ROWS:
        return False
    is_low = [rows < SHARE * usual(since_first) for rows in (now, *since_first)]
    current, *earlier = [(low, len(list(run))) for low, run in groupby(is_low)]
    return current[0] and current[1] > max((length for low, length in earlier if low), default=0)


def usual(before: Sequence[int]) -> float:
    """The median of the windows since the first that had any rows."""
    last = max((i + 1 for i, rows in enumerate(before) if rows), default=0)
    return float(median(before[:last])) if last else 0.0
