"""The governor: whether a wish to retrain is granted now, from the policy, what was decided before, and the time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ml_platform.modeling.decisions import PLATFORM, Entry, Kind, Outcome
from ml_platform.modeling.periods import in_words
from ml_platform.modeling.spec import RetrainPolicy

WEEK = timedelta(days=7)
DRIFT_STATES = (Outcome.OK, Outcome.DRIFTED)


class Cause(StrEnum):
    """Who or what wishes to retrain."""

    SCHEDULE = "schedule"
    NEW_DATA = "new data"
    DRIFT = "drift"
    DEGRADED = "degraded"
    PERSON = "person"


class Rule(StrEnum):
    """What decided."""

    CLICK = "a person's wish is never refused"
    PAUSED = "paused"
    UNDER_WAY = "single flight"
    CIRCUIT = "circuit breaker"
    WINDOWS = "windows"
    SAME_DATA = "same data"
    COOLDOWN = "cool-down"
    BUDGET = "weekly budget"
    GRANTED = "granted"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A wish to retrain.

    `key` is the same as long as the wish is: the pull after which rows arrived, the report that shows drift.
    `data` is a fingerprint of what would be trained now, `trained` of what was trained last; None is not known.
    """

    key: str
    cause: Cause
    reason: str
    data: str | None = None
    trained: str | None = None
    under_way: bool = False
    actor: str = PLATFORM


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """The answer, the rule that decided, and why in words."""

    granted: bool
    rule: Rule
    reason: str


def judge(policy: RetrainPolicy, history: Sequence[Entry], wish: Wish, now: datetime) -> Ruling:
    """Grant the wish or refuse it; the first rule that has an objection decides.

    Args:
        policy: the model's.
        history: its decisions, newest first.
        wish: what is wished for.
        now: the time.
    """
    if wish.cause is Cause.PERSON:
        return Ruling(granted=True, rule=Rule.CLICK, reason=wish.reason)
    for rule, objection in RULES.items():
        against = objection(policy, history, wish, now)
        if against:
            return Ruling(granted=False, rule=rule, reason=f"{wish.reason}; {against}")
    return Ruling(granted=True, rule=Rule.GRANTED, reason=wish.reason)


def decide(model: str, policy: RetrainPolicy, history: Sequence[Entry], wish: Wish, now: datetime) -> Entry:
    """The ruling as an entry of the ledger.

    A wish that was granted stays granted, whoever asks again; one that was refused is asked about anew, and each rule
    that refuses it is told once.
    """
    before = next((entry for entry in history if entry.key == _granted_key(model, wish)), None)
    if before:
        return before
    ruling = judge(policy, history, wish, now)
    refused_key = f"{model} {wish.cause}: {wish.key} refused by {ruling.rule}"
    return Entry(
        key=_granted_key(model, wish) if ruling.granted else refused_key,
        at=now,
        model=model,
        kind=Kind.TRIGGER,
        outcome=Outcome.STARTED if ruling.granted else Outcome.REFUSED,
        reason=ruling.reason,
        actor=wish.actor,
        evidence={"cause": wish.cause.value, "rule": ruling.rule.value, "data": wish.data},
    )


def _granted_key(model: str, wish: Wish) -> str:
    return f"{model} {wish.cause}: {wish.key} started"


def losers_in_a_row(history: Sequence[Entry]) -> int:
    """How many challengers were rejected since the last that won, or since a person last took it in hand."""
    losers = 0
    for entry in history:
        by_person = entry.kind is Kind.TRIGGER and entry.evidence.get("cause") == Cause.PERSON
        if by_person or entry.outcome in (Outcome.WON, Outcome.RESUMED, Outcome.RELEASED):
            return losers
        losers += entry.kind is Kind.GATE and entry.outcome is Outcome.LOST
    return losers


def is_paused(history: Sequence[Entry]) -> Entry | None:
    """The decision to pause the model's automation, if it holds."""
    newest = next((entry for entry in history if entry.kind is Kind.AUTOMATION), None)
    return newest if newest and newest.outcome is Outcome.PAUSED else None


def open_circuit(policy: RetrainPolicy, history: Sequence[Entry]) -> str:
    """What holds automatic refreshes back because challengers were rejected, in words; empty when nothing does."""
    losers = losers_in_a_row(history)
    if losers < policy.max_losers:
        return ""
    return (
        f"{losers} challengers in a row were rejected: retraining does not help, a person has to look; "
        f"a refresh by hand or `ml-platform resume` closes the circuit"
    )


Objection = Callable[[RetrainPolicy, Sequence[Entry], Wish, datetime], str]


def _paused(_policy: RetrainPolicy, history: Sequence[Entry], _wish: Wish, _now: datetime) -> str:
    pause = is_paused(history)
    return f"but {pause.actor} paused the model: {pause.reason}" if pause else ""


def _under_way(_policy: RetrainPolicy, _history: Sequence[Entry], wish: Wish, _now: datetime) -> str:
    return "but a refresh is under way" if wish.under_way else ""


def _circuit(policy: RetrainPolicy, history: Sequence[Entry], _wish: Wish, _now: datetime) -> str:
    circuit = open_circuit(policy, history)
    return f"but {circuit}" if circuit else ""


def _windows(policy: RetrainPolicy, history: Sequence[Entry], wish: Wish, _now: datetime) -> str:
    """Drift counts when enough of the newest windows since the last promotion show it, the newest among them."""
    if wish.cause is not Cause.DRIFT:
        return ""
    need, of = policy.drift_windows
    newest = _windows_of_champion(history)[:of]
    drifted = sum(entry.outcome is Outcome.DRIFTED for entry in newest)
    if not newest or newest[0].outcome is not Outcome.DRIFTED:
        return "but the newest window shows none"
    return "" if drifted >= need else f"but {drifted} of the last {of} windows drifted, {need} are needed"


def _windows_of_champion(history: Sequence[Entry]) -> list[Entry]:
    """The windows that were judged against what answers now."""
    windows = []
    for entry in history:
        if entry.outcome is Outcome.LIVE:
            break
        if entry.kind is Kind.DRIFT and entry.outcome in DRIFT_STATES:
            windows.append(entry)
    return windows


def _same_data(_policy: RetrainPolicy, _history: Sequence[Entry], wish: Wish, _now: datetime) -> str:
    if wish.data is None or wish.data != wish.trained:
        return ""
    return "but nothing has changed since the last training: the same rows and code give the same model"


def _starts(history: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in history if entry.kind is Kind.TRIGGER and entry.outcome is Outcome.STARTED]


def _cooldown(policy: RetrainPolicy, history: Sequence[Entry], _wish: Wish, now: datetime) -> str:
    latest = max((entry.at for entry in _starts(history)), default=None)
    if latest is None or now - latest >= policy.cooldown:
        return ""
    return f"but the last refresh began at {latest:%Y-%m-%d %H:%M} and the cool-down is {in_words(policy.cooldown)}"


def _budget(policy: RetrainPolicy, history: Sequence[Entry], _wish: Wish, now: datetime) -> str:
    spent = sum(entry.at > now - WEEK for entry in _starts(history))
    return (
        f"but {spent} of {policy.weekly_budget} refreshes of 7 days are used up"
        if spent >= policy.weekly_budget
        else ""
    )


RULES: dict[Rule, Objection] = {
    Rule.PAUSED: _paused,
    Rule.UNDER_WAY: _under_way,
    Rule.CIRCUIT: _circuit,
    Rule.WINDOWS: _windows,
    Rule.SAME_DATA: _same_data,
    Rule.COOLDOWN: _cooldown,
    Rule.BUDGET: _budget,
}
"""In the order in which a person would like to hear of them."""
