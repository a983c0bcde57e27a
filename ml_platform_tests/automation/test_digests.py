"""The weekly digest: a few lines a model, sent to whoever listens, and written down where nobody does."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ml_platform.automation.digests import DIGEST
from ml_platform.definitions import definitions_for
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.digest import digest
from ml_platform.models.catalogue import all_models
from ml_platform_tests.automation.test_alerts import webhook
from ml_platform_tests.platform import Platform

NOW = datetime(2026, 3, 2, 7, tzinfo=UTC)


def _entry(kind: Kind, outcome: Outcome, reason: str = "so it is") -> Entry:
    return Entry(key=f"{kind}{outcome}{reason}", at=NOW, model="m", kind=kind, outcome=outcome, reason=reason)


def test_a_week_is_a_few_lines() -> None:
    """Traffic, drift, realised against promised, decisions, and what wants a look."""
    week = [
        _entry(Kind.DRIFT, Outcome.OK, "no column moved"),
        _entry(Kind.DRIFT, Outcome.DRIFTED, "income moved"),
        _entry(Kind.TRIGGER, Outcome.REFUSED),
        _entry(Kind.GATE, Outcome.WAITING, "it waits"),
    ]

    assert digest("m", 12_345, week, "3").splitlines() == [
        "m: version 3 answers, 12,345 rows answered",
        "  drift: ok (no column moved); 1 of 2 looks raised an alarm",
        "  realised against promised: not looked at this week",
        "  decisions: 1 gate waiting, 1 trigger refused",
        "  look at: Mon 07:00 gate waiting: it waits",
    ]
    assert digest("m", 0, [], None).startswith("m: nothing answers, 0 rows answered")


def test_it_is_sent_and_written_down(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model of the catalogue is in it."""
    with webhook() as listening:
        monkeypatch.setenv("ML_PLATFORM_ALERT_URLS", listening.url)
        here = replace(platform.settings, alert_urls=listening.url)
        job = definitions_for(all_models(), here).resolve_job_def(DIGEST)
        result = job.execute_in_process(instance=platform.instance)

    (message,) = listening.told
    assert result.success
    assert message["message"].strip() == result.output_for_node(f"send_{DIGEST}").strip()
    for spec in all_models():
        assert f"{spec.name}: " in message["message"]
