"""The timeline: what was decided about a model, drawn over time, with the version that answered."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.drawing import AMBER, BLUE, GREEN, GREY, RED, empty

ROWS = (Kind.DRIFT, Kind.PERFORMANCE, Kind.TRIGGER, Kind.GATE, Kind.APPROVAL, Kind.AUTOMATION, Kind.RUN)
COLOURS = {
    Outcome.OK: GREEN,
    Outcome.WON: GREEN,
    Outcome.LIVE: GREEN,
    Outcome.RELEASED: GREEN,
    Outcome.RESUMED: GREEN,
    Outcome.STARTED: BLUE,
    Outcome.WAITING: AMBER,
    Outcome.PAUSED: AMBER,
    Outcome.DEGRADED: AMBER,
    Outcome.DRIFTED: AMBER,
    Outcome.LOST: GREY,
    Outcome.REFUSED: GREY,
    Outcome.UNKNOWN: GREY,
    Outcome.FAILED: RED,
}
LEGEND = {"good": GREEN, "started": BLUE, "look": AMBER, "kept as it is": GREY, "failed": RED}


def draw(model: str, entries: Sequence[Entry], now: datetime) -> Figure:
    """A row for each kind of decision, and below them the versions that answered.

    Args:
        model: for the title.
        entries: the decisions, in any order.
        now: where the newest version's bar ends.
    """
    rows = [kind for kind in ROWS if any(entry.kind is kind for entry in entries)]
    figure, axes = empty(width=9.0, height=1.5 + 0.32 * (len(rows) + 1))
    for height, kind in enumerate(reversed(rows), 1):
        shown = [entry for entry in entries if entry.kind is kind]
        colours = [COLOURS[entry.outcome] for entry in shown]
        axes.scatter([entry.at for entry in shown], [height] * len(shown), c=colours, s=36, zorder=3)
    _versions(axes, sorted((e for e in entries if e.outcome is Outcome.LIVE), key=lambda entry: entry.at), now)
    axes.set_yticks(range(len(rows) + 1), ["answers", *(kind.value for kind in reversed(rows))])
    axes.set(title=model, ylim=(-0.6, len(rows) + 0.6))
    axes.grid(axis="x", color=GREY, alpha=0.3)
    axes.tick_params(axis="x", rotation=20)
    for name, colour in LEGEND.items():
        axes.scatter([], [], c=colour, s=36, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=len(LEGEND), frameon=False, fontsize=8)
    return figure


def _versions(axes: Any, lives: Sequence[Entry], now: datetime) -> None:
    """A bar as long as each version answered; its border says how it came to answer."""
    for entry, (_, end) in zip(lives, pairwise([*(entry.at for entry in lives), now]), strict=True):
        border = {Kind.ROLLBACK: RED, Kind.REPAIR: AMBER}.get(entry.kind, BLUE)
        axes.barh(0, end - entry.at, left=entry.at, height=0.55, color="#dbe7fb", edgecolor=border)
        axes.text(entry.at, 0, f" v{entry.version}", va="center", fontsize=8, clip_on=True)
