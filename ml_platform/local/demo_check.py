"""The demo's check: whether each thing happened as the story tells it; what did not is said in words."""

from collections.abc import Iterator, Mapping, Sequence

from ml_platform.local.demo_world import Story
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.gate import Way
from ml_platform.modeling.governor import Cause, Rule

Weeks = Mapping[int, Sequence[Entry]]
Told = Mapping[int, Sequence[str]]


def amiss(story: Story, weeks: Weeks, told: Told) -> Iterator[str]:
    """What did not happen as told.

    Args:
        story: what was injected, and when.
        weeks: what was decided in each week, oldest first.
        told: the titles of the alerts of each week.
    """
    if not _has(weeks[0], Kind.PROMOTION, Outcome.LIVE):
        yield "the first model did not go live"
    for week, entries in weeks.items():
        if not story.is_shifted(week):
            if _has(entries, Kind.DRIFT, Outcome.DRIFTED):
                yield f"week {week}: drift was seen where there was none"
            if _started(entries, Cause.DRIFT):
                yield f"week {week}: a refresh began because of drift that was not there"
        if week != story.broken and _has(entries, Kind.RUN, Outcome.FAILED):
            yield f"week {week}: a run failed"
    if story.shift_from is not None:
        yield from _amiss_in_shift(story.shift_from, weeks, told)
    if story.broken is not None:
        yield from _amiss_in_broken_week(story.broken, weeks, told)


def _amiss_in_shift(shift: int, weeks: Weeks, told: Told) -> Iterator[str]:
    """One window is not enough for the governor, two are; a better model goes live, and people hear of both."""
    if not _has(weeks[shift], Kind.DRIFT, Outcome.DRIFTED):
        yield f"week {shift}: the shift was not seen at once"
    if not any(entry.evidence.get("rule") == Rule.WINDOWS for entry in weeks[shift]):
        yield f"week {shift}: the governor did not wait for a second window"
    later = {week: entries for week, entries in weeks.items() if week > shift}
    if not any(_started(entries, Cause.DRIFT) for entries in later.values()):
        yield "no refresh began because of the shift"
    won = [e for entries in later.values() for e in entries if e.evidence.get("way") == Way.SUPERIORITY]
    live = {e.mlflow_run for entries in later.values() for e in entries if e.outcome is Outcome.LIVE}
    if not any(entry.mlflow_run in live for entry in won):
        yield "no model that is better beyond doubt went live after the shift"
    if not any("drifted" in title for title in told[shift]):
        yield f"week {shift}: nobody was told of the drift"


def _amiss_in_broken_week(broken: int, weeks: Weeks, told: Told) -> Iterator[str]:
    """The check stops the refresh, what answers goes on, people are told, and the next week is as usual."""
    failed = [e for e in weeks[broken] if (e.kind, e.outcome) == (Kind.RUN, Outcome.FAILED)]
    if not any("quarantine" in entry.reason for entry in failed):
        yield f"week {broken}: the broken data did not stop the refresh"
    if _has(weeks[broken], Kind.PROMOTION, Outcome.LIVE):
        yield f"week {broken}: a model went live on broken data"
    if not any("a run failed" in title for title in told[broken]):
        yield f"week {broken}: nobody was told of the broken data"
    if broken + 1 in weeks and not any(entry.kind is Kind.GATE for entry in weeks[broken + 1]):
        yield f"week {broken + 1}: nothing was trained on the mended data"


def _has(entries: Sequence[Entry], kind: Kind, outcome: Outcome) -> bool:
    return any((entry.kind, entry.outcome) == (kind, outcome) for entry in entries)


def _started(entries: Sequence[Entry], cause: Cause) -> bool:
    return any(entry.outcome is Outcome.STARTED and entry.evidence.get("cause") == cause for entry in entries)
