"""Alerting: people hear of what matters once, with what to do, and of the rest not at all."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.modeling.alerting import Said, alerts
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.governor import Rule

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TOLD = {
    (Kind.RUN, Outcome.FAILED), (Kind.DRIFT, Outcome.DRIFTED), (Kind.PERFORMANCE, Outcome.DEGRADED),
    (Kind.GATE, Outcome.WAITING), (Kind.PROMOTION, Outcome.LIVE), (Kind.ROLLBACK, Outcome.LIVE),
    (Kind.REPAIR, Outcome.LIVE), (Kind.PROMOTION, Outcome.FAILED), (Kind.ROLLBACK, Outcome.FAILED),
    (Kind.REPAIR, Outcome.FAILED),
}  # fmt: skip


def _entry(kind: Kind, outcome: Outcome, days: float = 0, model: str = "m", **evidence: str) -> Entry:
    return Entry(
        key=f"{kind} {outcome} {days}", at=NOW + DAY * days, model=model, kind=kind, outcome=outcome, reason="so it is",
        version="3", evidence=evidence,
    )  # fmt: skip


def _titles(*entries: Entry) -> list[str]:
    """What is said when the decisions come one by one."""
    said, titles = Said(), []
    for entry in entries:
        found, said = alerts([entry], said)
        titles += [alert.title for alert in found]
    return titles


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_matters_is_said(kind: Kind, outcome: Outcome) -> None:
    """With what happened, what was done, and what one may do."""
    found, _ = alerts([_entry(kind, outcome)], Said())

    assert len(found) == ((kind, outcome) in TOLD)
    for alert in found:
        text = alert.text("http://page")
        assert alert.title.startswith("m: ")
        assert all(part in text for part in ("so it is", "http://page", "What you may do: "))


def test_an_open_circuit_is_said_and_other_refusals_are_not() -> None:
    """A cool-down is nobody's business."""
    refused = _entry(Kind.TRIGGER, Outcome.REFUSED, rule=Rule.CIRCUIT)

    assert _titles(refused, refused) == ["m: retraining does not help any more"]
    assert _titles(_entry(Kind.TRIGGER, Outcome.REFUSED, rule=Rule.COOLDOWN)) == []


@pytest.mark.parametrize(("state", "said"), [("traffic_stopped", 1), ("schema_changed", 1), ("no_traffic", 0)])
def test_requests_that_are_broken_are_said(state: str, said: int) -> None:
    """Few requests are a state, a traffic that stopped is news."""
    assert len(_titles(_entry(Kind.DRIFT, Outcome.UNKNOWN, state=state))) == said


def test_what_lasts_is_said_when_it_begins_and_once_a_week() -> None:
    """Daily windows that drift for nine days are two messages; drift that ended and came back is a new one."""
    lasting = [_entry(Kind.DRIFT, Outcome.DRIFTED, days) for days in range(9)]
    ended = _entry(Kind.DRIFT, Outcome.OK, 9)
    back = _entry(Kind.DRIFT, Outcome.DRIFTED, 10)

    assert len(_titles(*lasting)) == 2
    assert len(_titles(*lasting, ended, back)) == 3
    assert len(_titles(lasting[0], _entry(Kind.PROMOTION, Outcome.LIVE, 1), lasting[2])) == 3


def test_models_do_not_silence_each_other() -> None:
    """What was said of one is news of the other, and one that goes live does not end the other's drift."""
    drifted = [_entry(Kind.DRIFT, Outcome.DRIFTED, model=model) for model in ("m", "m2")]

    assert _titles(*drifted) == ["m: its requests drifted", "m2: its requests drifted"]
    assert _titles(*drifted, _entry(Kind.DRIFT, Outcome.OK, model="m"), drifted[1]) == _titles(*drifted)


ENTRIES = st.lists(
    st.builds(_entry, st.sampled_from(Kind), st.sampled_from(Outcome), st.integers(0, 40), st.sampled_from(["m", "n"])),
    max_size=20,
).map(lambda entries: sorted(entries, key=lambda entry: entry.at))


@given(ENTRIES, st.integers(0, 20))
def test_it_does_not_matter_how_many_are_told_at_once(entries: list[Entry], cut: int) -> None:
    """Read in two goes or in one, the same is said, and what is remembered stays small."""
    first, said = alerts(entries[:cut], Said())
    second, in_two = alerts(entries[cut:], said)
    at_once, in_one = alerts(entries, Said())

    assert first + second == at_once
    assert in_two == in_one
