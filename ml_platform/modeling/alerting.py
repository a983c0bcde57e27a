"""Alerting: which decisions people must hear of, in words that say what to do, each once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.governor import Rule

QUIET = timedelta(days=7)
"""How long the same thing is not said again while it lasts."""
BROKEN = ("traffic_stopped", "schema_changed")
"""Windows that could not be judged because something is wrong with the requests themselves."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What happened, what the platform did, and what a person may do."""

    model: str
    title: str
    happened: str
    done: str
    may: str

    def text(self, link: str) -> str:
        """The message below its title."""
        return (
            f"What happened: {self.happened}\nWhat the platform did: {self.done}\nWhat you may do: {self.may}\n{link}"
        )


@dataclass(frozen=True)
class Said:
    """When each thing was last said, by what it is about; what ended meanwhile is not there."""

    at: Mapping[str, datetime] = field(default_factory=dict)


def alerts(entries: Iterable[Entry], said: Said) -> tuple[list[Alert], Said]:
    """What must be said about these decisions, and what has been said after that.

    A state that lasts (drifted, degraded, circuit open, the same failure) is said when it begins and once a week.

    Args:
        entries: new decisions, oldest first.
        said: what was said before.
    """
    found, at = [], dict(said.at)
    for entry in entries:
        over = tuple(f"{entry.model} {ended}" for ended in _ends(entry))
        at = {about: when for about, when in at.items() if not about.startswith(over)} if over else at
        told = _told(entry)
        if told is None:
            continue
        about, alert = told
        key = f"{entry.model} {about}"
        if key not in at or entry.at - at[key] >= QUIET:
            at[key] = entry.at
            found.append(alert)
    newest = max(at.values(), default=None)
    return found, Said({key: when for key, when in at.items() if newest is None or newest - when < QUIET})


def _ends(entry: Entry) -> tuple[str, ...]:
    """The states that are over with this decision, by what their alerts are about."""
    match entry.kind, entry.outcome:
        case Kind.DRIFT, Outcome.OK:
            return ("drifted", *BROKEN)
        case Kind.PERFORMANCE, Outcome.OK:
            return ("degraded",)
        case Kind.GATE, Outcome.WON:
            return ("circuit", "run failed")
        case Kind.GATE, _:
            return ("run failed",)
        case (Kind.AUTOMATION, _) | (Kind.TRIGGER, Outcome.STARTED):
            return ("circuit",)
        case _, Outcome.LIVE:
            return ("drifted", "degraded", "circuit", "run failed", "waiting")
    return ()


def _told(entry: Entry) -> tuple[str, Alert] | None:
    """What the alert is about, and the alert; None for what people need not hear of."""
    found = _of_traffic(entry) or _of_watching(entry)
    if found is None:
        return None
    about, title, done, may = found
    alert = Alert(model=entry.model, title=f"{entry.model}: {title}", happened=entry.reason, done=done, may=may)
    return about, alert


Words = tuple[str, str, str, str]
"""What it is about, the title, what the platform did, and what a person may do."""


def _of_watching(entry: Entry) -> Words | None:
    """Runs, drift, outcomes, the circuit, and winners that wait."""
    model, state = entry.model, str(entry.evidence.get("state"))
    match entry.kind, entry.outcome:
        case Kind.RUN, Outcome.FAILED:
            may = f"mend the cause, then `ml-platform refresh {model}`"
            return f"run failed {entry.reason}", "a run failed", "the champion goes on answering", may
        case Kind.DRIFT, Outcome.DRIFTED:
            done = "it asks the governor for a refresh as soon as enough windows show it"
            may = f"read the report; what was decided: `ml-platform history {model}`"
            return "drifted", "its requests drifted", done, may
        case Kind.DRIFT, Outcome.UNKNOWN if state in BROKEN:
            done = "nothing: no new model would help"
            return state, state.replace("_", " "), done, "ask whoever sends the requests what has changed"
        case Kind.PERFORMANCE, Outcome.DEGRADED:
            may = f"look at the slices; go back: `ml-platform rollback {model} --because ...`"
            return "degraded", "it answers worse than promised", "it asks the governor for a refresh", may
        case Kind.TRIGGER, Outcome.REFUSED if entry.evidence.get("rule") == Rule.CIRCUIT:
            done = "it stopped retraining by itself; the champion goes on answering"
            may = f"look at data and features, then `ml-platform resume {model} --because ...`"
            return "circuit", "retraining does not help any more", done, may
        case Kind.GATE, Outcome.WAITING:
            may = f"`ml-platform approve {model} --because ...`, or `ml-platform refuse {model} --because ...`"
            return "waiting", "a winner waits for approval", "the champion goes on answering", may
    return None


def _of_traffic(entry: Entry) -> Words | None:
    """Versions that went live, or could not."""
    version, back = f"version {entry.version}", f"`ml-platform rollback {entry.model} --because ...`"
    match entry.kind, entry.outcome:
        case Kind.PROMOTION, Outcome.LIVE:
            done = "it proved the golden rows before and after the switch"
            return f"live {entry.key}", f"{version} is live", done, f"go back: {back}"
        case Kind.ROLLBACK, Outcome.LIVE:
            done = "it refused the version that answered before, proved this one and moved traffic and alias"
            may = f"return to the other: `ml-platform rollback {entry.model} --to VERSION --because ...`"
            return f"live {entry.key}", f"rolled back to {version}", done, may
        case Kind.REPAIR, Outcome.LIVE:
            done, may = "it let traffic, alias and ledger say the same again", "see `ml-platform history`"
            return f"live {entry.key}", f"{version} answers after a repair", done, may
        case ((Kind.PROMOTION | Kind.ROLLBACK | Kind.REPAIR), Outcome.FAILED):
            may = f"see the run's log; `ml-platform refresh {entry.model}` tries anew"
            done = "what answered before goes on answering"
            return f"not live {entry.version}", f"{version} could not go live", done, may
    return None
