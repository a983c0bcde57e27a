"""The digest: a week of a model in a few lines that people read."""

from collections import Counter
from collections.abc import Sequence

from ml_platform.modeling.decisions import Entry, Kind, Outcome


def digest(model: str, answered: int, week: Sequence[Entry], live: str | None) -> str:
    """What happened to a model within a week.

    Args:
        model: its name.
        answered: how many rows it answered.
        week: what was decided, newest first.
        live: the version that answers now.
    """
    lines = [
        f"{model}: {f'version {live}' if live else 'nothing'} answers, {answered:,} rows answered",
        f"  drift: {_newest(week, Kind.DRIFT)}",
        f"  realised against promised: {_newest(week, Kind.PERFORMANCE)}",
    ]
    counted = Counter((entry.kind, entry.outcome) for entry in week if entry.kind not in (Kind.DRIFT, Kind.PERFORMANCE))
    decided = ", ".join(f"{count} {kind} {outcome}" for (kind, outcome), count in sorted(counted.items()))
    lines.append(f"  decisions: {decided or 'none'}")
    attention = [entry for entry in week if entry.outcome in (Outcome.FAILED, Outcome.WAITING)]
    lines += [f"  look at: {entry.at:%a %H:%M} {entry.kind} {entry.outcome}: {entry.reason}" for entry in attention[:5]]
    return "\n".join(lines)


def _newest(week: Sequence[Entry], kind: Kind) -> str:
    found = [entry for entry in week if entry.kind is kind]
    if not found:
        return "not looked at this week"
    bad = sum(entry.outcome in (Outcome.DRIFTED, Outcome.DEGRADED) for entry in found)
    return f"{found[0].outcome} ({found[0].reason}); {bad} of {len(found)} looks raised an alarm"
