"""Alerting: which decisions people must hear of, in words that say what to do, each once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.governor import Rule

QUIET = timedelta(days=7)
"""How long the same thing is not said again while it lasts."""


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
            return ("drifted",)
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
    model, version = entry.model, f"version {entry.version}"
    history, again = f"`ml-platform history {model}`", f"`ml-platform refresh {model}`"
    back = f"`ml-platform rollback {model} --because ...`"
    match entry.kind, entry.outcome:
        case Kind.RUN, Outcome.FAILED:
            about, title = f"run failed {entry.reason}", "a run failed"
            done, may = "the champion goes on answering", f"mend the cause, then {again}"
        case Kind.DRIFT, Outcome.DRIFTED:
            about, title = "drifted", "its requests drifted"
            done = "it asks the governor for a refresh as soon as enough windows show it"
            may = f"read the report; what was decided: {history}"
        case Kind.PERFORMANCE, Outcome.DEGRADED:
            about, title = "degraded", "it answers worse than promised"
            done, may = "it asks the governor for a refresh", f"look at the slices; go back: {back}"
        case Kind.TRIGGER, Outcome.REFUSED if entry.evidence.get("rule") == Rule.CIRCUIT:
            about, title = "circuit", "retraining does not help any more"
            done = "it stopped retraining by itself; the champion goes on answering"
            may = f"look at data and features, then `ml-platform resume {model} --because ...`"
        case Kind.GATE, Outcome.WAITING:
            about, title = (
                "waiting",
                f"{version} waits for approval" if entry.version else "a winner waits for approval",
            )
            done = "the champion goes on answering"
            may = f"`ml-platform approve {model} --because ...`, or `ml-platform refuse {model} --because ...`"
        case Kind.PROMOTION, Outcome.LIVE:
            about, title = f"live {entry.key}", f"{version} is live"
            done, may = "it proved the golden rows before and after the switch", f"go back: {back}"
        case Kind.ROLLBACK, Outcome.LIVE:
            about, title = f"live {entry.key}", f"rolled back to {version}"
            done = "it refused the version that answered before, proved this one and moved traffic and alias"
            may = f"return to the other: `ml-platform rollback {model} --to VERSION --because ...`"
        case Kind.REPAIR, Outcome.LIVE:
            about, title = f"live {entry.key}", f"{version} answers after a repair"
            done, may = "it let traffic, alias and ledger say the same again", f"see what happened: {history}"
        case ((Kind.PROMOTION | Kind.ROLLBACK | Kind.REPAIR), Outcome.FAILED):
            about, title = f"not live {entry.version}", f"{version} could not go live"
            done, may = "what answered before goes on answering", f"see the run's log; {again} tries anew"
        case _:
            return None
    return about, Alert(model=model, title=f"{model}: {title}", happened=entry.reason, done=done, may=may)
