"""The governor: storms start no more than the budget, clicks are never refused, and each rule says why."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.governor import Cause, Rule, Ruling, Wish, decide, judge, losers_in_a_row
from ml_platform.modeling.spec import RetrainPolicy

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = RetrainPolicy(cooldown=timedelta(hours=6), weekly_budget=3, drift_windows=(2, 3), max_losers=4)
AUTOMATIC = [cause for cause in Cause if cause is not Cause.PERSON]


def _entry(kind: Kind, outcome: Outcome, ago: timedelta = timedelta(0), **evidence: str) -> Entry:
    return Entry(
        key=f"{kind} {outcome} {ago}",
        at=NOW - ago,
        model="m",
        kind=kind,
        outcome=outcome,
        reason="so",
        evidence=evidence,
    )


def _started(ago: timedelta, cause: Cause = Cause.SCHEDULE) -> Entry:
    return _entry(Kind.TRIGGER, Outcome.STARTED, ago, cause=cause)


def _wish(cause: Cause = Cause.NEW_DATA, key: str = "k", **given: object) -> Wish:
    return replace(Wish(key=key, cause=cause, reason="it was wished for"), **given)  # type: ignore[arg-type]


def _judge(*history: Entry, wish: Wish | None = None) -> Ruling:
    return judge(POLICY, history, wish or _wish(), NOW)


ENTRIES = st.builds(
    _entry, st.sampled_from(Kind), st.sampled_from(Outcome), st.timedeltas(timedelta(0), timedelta(days=20))
)
WISHES = st.builds(
    _wish,
    st.sampled_from(AUTOMATIC),
    key=st.text(max_size=5),
    data=st.sampled_from([None, "a", "b"]),
    trained=st.sampled_from([None, "a", "b"]),
    under_way=st.booleans(),
)


@pytest.mark.parametrize("cause", [Cause.SCHEDULE, Cause.NEW_DATA, Cause.DEGRADED])
def test_with_nothing_against_it_a_wish_is_granted(cause: Cause) -> None:
    """A first refresh needs no history."""
    assert _judge(wish=_wish(cause)) == Ruling(granted=True, rule=Rule.GRANTED, reason="it was wished for")


@given(st.lists(ENTRIES, max_size=30), WISHES)
def test_a_person_is_never_refused(history: list[Entry], wish: Wish) -> None:
    """Whatever happened before."""
    assert judge(POLICY, history, replace(wish, cause=Cause.PERSON), NOW).granted


@given(st.lists(ENTRIES, max_size=30), WISHES)
def test_a_refusal_names_its_rule_and_a_grant_breaks_none(history: list[Entry], wish: Wish) -> None:
    """Of any history."""
    ruling = judge(POLICY, history, wish, NOW)

    starts = [e.at for e in history if e.kind is Kind.TRIGGER and e.outcome is Outcome.STARTED]
    if ruling.granted:
        assert ruling.rule is Rule.GRANTED
        assert sum(at > NOW - timedelta(days=7) for at in starts) < POLICY.weekly_budget
        assert all(NOW - at >= POLICY.cooldown for at in starts)
        assert not wish.under_way
        assert wish.data is None or wish.data != wish.trained
        assert losers_in_a_row(history) < POLICY.max_losers
    else:
        assert ruling.reason.startswith(f"{wish.reason}; but ")


@given(st.lists(ENTRIES, max_size=30), WISHES, st.lists(ENTRIES, max_size=5))
def test_more_refreshes_never_make_one_more_likely(history: list[Entry], wish: Wish, more: list[Entry]) -> None:
    """What was started only counts against what comes next."""
    starts = [replace(entry, kind=Kind.TRIGGER, outcome=Outcome.STARTED, evidence={}) for entry in more]

    assert judge(POLICY, history, wish, NOW).granted or not judge(POLICY, [*starts, *history], wish, NOW).granted


@pytest.mark.parametrize("gap", [timedelta(seconds=3.6), timedelta(minutes=9), timedelta(hours=1)])
def test_a_storm_starts_at_most_the_budget(gap: timedelta) -> None:
    """A thousand wishes, each for another reason: within an hour, a week, six weeks; never more than 3 in 7 days."""
    history: list[Entry] = []
    for number in range(1000):
        cause = AUTOMATIC[number % len(AUTOMATIC)]
        history.insert(0, _entry(Kind.DRIFT, Outcome.DRIFTED))
        history.insert(0, decide("m", POLICY, history, _wish(cause, key=str(number)), NOW + gap * number))

    starts = sorted(e.at for e in history if e.outcome is Outcome.STARTED)
    assert starts
    for first in starts:
        assert sum(first <= at < first + timedelta(days=7) for at in starts) <= POLICY.weekly_budget
    assert all(later - earlier >= POLICY.cooldown for earlier, later in pairwise(starts))
    refused = [e for e in history if e.outcome is Outcome.REFUSED]
    assert len(refused) + len(starts) == 1000, "every wish is answered, refusals included"
    assert len({e.key for e in refused}) == len(refused)


def test_a_wish_that_was_granted_stays_granted() -> None:
    """Asked again a moment later, the same answer: the sensor may have died before it could start the run."""
    first = decide("m", POLICY, [], _wish(), NOW)

    assert decide("m", POLICY, [first], _wish(), NOW + timedelta(minutes=1)) == first


def test_a_wish_that_was_refused_is_granted_when_the_reason_is_gone() -> None:
    """Rows that arrived during the cool-down are not forgotten; the refusal is told once."""
    history = [_started(timedelta(hours=1))]
    refused = decide("m", POLICY, history, _wish(), NOW)
    again = decide("m", POLICY, [refused, *history], _wish(), NOW + timedelta(minutes=1))
    later = decide("m", POLICY, [refused, *history], _wish(), NOW + timedelta(hours=5))

    assert (refused.outcome, refused.evidence["rule"]) == (Outcome.REFUSED, Rule.COOLDOWN)
    assert again.key == refused.key
    assert later.outcome is Outcome.STARTED


def test_a_click_counts() -> None:
    """What a person started cools down as well."""
    assert _judge(_started(timedelta(hours=1), Cause.PERSON)).rule is Rule.COOLDOWN


def test_the_budget_is_of_the_last_seven_days() -> None:
    """Three are enough; the oldest leaves after a week."""
    day = timedelta(days=1)
    assert _judge(*[_started(day * n) for n in (1, 3, 6)]).rule is Rule.BUDGET
    assert _judge(*[_started(day * n) for n in (1, 3, 7)]).granted


def test_a_pause_holds_until_it_is_ended() -> None:
    """And says who paused it, and why."""
    pause = replace(_entry(Kind.AUTOMATION, Outcome.PAUSED), actor="ada", reason="audit")

    assert _judge(pause).rule is Rule.PAUSED
    assert _judge(pause).reason == "it was wished for; but ada paused the model: audit"
    assert _judge(_entry(Kind.AUTOMATION, Outcome.RESUMED), pause).granted


def test_one_refresh_at_a_time() -> None:
    """What is under way is finished first."""
    assert _judge(wish=_wish(under_way=True)).rule is Rule.UNDER_WAY


def test_the_same_data_is_not_trained_again() -> None:
    """Unless nobody knows."""
    assert _judge(wish=_wish(data="a", trained="a")).rule is Rule.SAME_DATA
    assert _judge(wish=_wish(data="b", trained="a")).granted
    assert _judge(wish=_wish(data=None, trained=None)).granted


@pytest.mark.parametrize("end", [_entry(Kind.GATE, Outcome.WON), _entry(Kind.AUTOMATION, Outcome.RESUMED),
                                 _started(timedelta(days=1), Cause.PERSON)])  # fmt: skip
def test_rejected_challengers_in_a_row_open_the_circuit(end: Entry) -> None:
    """A winner, a person's refresh, or `resume` closes it."""
    losers = [_entry(Kind.GATE, Outcome.LOST, timedelta(days=n)) for n in range(4)]

    assert _judge(*losers[1:]).granted
    assert _judge(*losers).rule is Rule.CIRCUIT
    assert "4 challengers in a row" in _judge(*losers).reason
    assert _judge(end, *losers).granted


@pytest.mark.parametrize(
    ("windows", "granted"),
    [("", False), ("d", False), ("dd", True), ("dod", True), ("dood", False), ("odd", False), ("dud", True),
     ("dLd", False), ("ddLo", True)],
)  # fmt: skip
def test_drift_must_show_in_enough_of_the_newest_windows(windows: str, granted: bool) -> None:
    """Two of three, the newest among them, since what answers now went live; what could not be judged is no window."""
    meaning = {
        "d": _entry(Kind.DRIFT, Outcome.DRIFTED), "o": _entry(Kind.DRIFT, Outcome.OK),
        "u": _entry(Kind.DRIFT, Outcome.UNKNOWN), "L": _entry(Kind.PROMOTION, Outcome.LIVE),
    }  # fmt: skip

    ruling = _judge(*[meaning[letter] for letter in windows], wish=_wish(Cause.DRIFT))

    assert ruling.granted == granted
    assert granted or ruling.rule is Rule.WINDOWS
