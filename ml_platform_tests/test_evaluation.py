"""The evaluation: what it shows of a decision, and what becomes of a champion that is old, lost, broken or outdated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_platform.assets import room as rooms
from ml_platform.local import company
from ml_platform.modeling.decisions import Kind, Outcome
from ml_platform.resources.tracking import CHAMPION, SPLIT, ExperimentTracking, Version
from ml_platform.resources.unavailable import UnavailableError
from ml_platform_tests.platform import Platform

MODEL = "student_dropout"
Break = Callable[[Platform, Version], Any]


@pytest.fixture(scope="module")
def trained(platform: Platform) -> Platform:
    """A champion answers, and a challenger was trained on more rows."""
    if platform.tracking.champion_version(MODEL) is None:
        assert platform.refresh(MODEL).success
    assert company.arrive(platform.settings.source_url, MODEL, 10, datetime.now(UTC)) == 10
    assert platform.refresh(MODEL, ["raw_data", "validated_data", "features", "trained_model"]).success
    return platform


def _evaluated(platform: Platform, **promotion: Any) -> dict[str, Any]:
    """What the room shows."""
    spec = platform.spec(MODEL)
    wanted = replace(spec, promotion=replace(spec.promotion, **promotion))
    assert platform.refresh(MODEL, ["evaluation"], spec=wanted).success
    return platform.metadata(MODEL, "evaluation")


def _champion(platform: Platform) -> Version:
    champion = platform.tracking.version_with_alias(MODEL, CHAMPION)
    assert champion is not None
    return champion


def test_a_decision_is_shown_with_all_it_rests_on(trained: Platform) -> None:
    """Interval in numbers and as a picture, guardrails in a table; the ledger has the same."""
    shown = _evaluated(trained)

    assert shown["gain_low"] <= shown["gain"] <= shown["gain_high"]
    assert shown["gain"] == pytest.approx(shown["challenger_score"] - shown["champion_score"])
    assert "data:image/png;base64," in shown["picture"]
    rails = {record.data["guardrail"]: record.data["holds"] for record in shown["guardrails"].records}
    assert {"bundle size", "latency", "calibration", "slice female=0", "slice female=1"} <= rails.keys()
    entry = next(e for e in trained.ledger.history(MODEL) if e.kind is Kind.GATE)
    assert entry.outcome is (Outcome.WON if shown["decision"] == "promote" else Outcome.LOST)
    assert entry.reason == shown["reason"]
    assert entry.evidence["gain"]["low"] == shown["gain_low"]
    assert entry.evidence["guardrails"].keys() == rails.keys()


def test_a_guardrail_that_breaks_keeps_the_champion_and_says_why(trained: Platform) -> None:
    """The winner of the comparison is too large."""
    shown = _evaluated(trained, margin=1.0, max_age=timedelta(microseconds=1), max_bundle_mib=1e-6)

    assert shown["decision"] == "keep the champion"
    assert "but guardrail bundle size: 0.0 MiB, at most 1e-06 (max_bundle_mib)" in shown["reason"]


def test_a_champion_is_old_by_the_platforms_clock(trained: Platform, tmp_path: Path) -> None:
    """Four weeks and a day later, as good is good enough."""
    clock = tmp_path / "clock"
    clock.write_text((datetime.now(UTC) + timedelta(days=29)).isoformat())
    later = replace(trained, settings=replace(trained.settings, clock=str(clock)))

    now, then = _evaluated(trained, margin=1.0), _evaluated(later, margin=1.0)

    assert now["way"] != "non-inferiority"
    assert then["way"] == "non-inferiority"
    assert "as good within 1, and the champion is 29 days old" in then["reason"]


@contextmanager
def _changed(platform: Platform, champion: Version) -> Iterator[None]:
    """A byte of its bundle is another."""
    file = platform.settings.bundles / champion.digest / "features.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + " ", encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")


@contextmanager
def _lost(platform: Platform, champion: Version) -> Iterator[None]:
    """Its bundle is nowhere: neither in the store nor in MLflow."""
    state = platform.settings.state
    places = [p for p in (state / "mlflow").rglob(champion.digest) if p.is_dir()] + [
        state / "bundles" / champion.digest
    ]
    for place in places:
        place.rename(place.with_name("aside"))
    try:
        yield
    finally:
        for place in places:
            place.with_name("aside").rename(place)


@contextmanager
def _out_of_date(platform: Platform, champion: Version) -> Iterator[None]:
    """It was split by a column that the table does not have any more."""
    client, split = platform.tracking.client, champion.tags[SPLIT]
    client.set_model_version_tag(MODEL, champion.version, SPLIT, split.replace("student_id", "pupil_id"))
    try:
        yield
    finally:
        client.set_model_version_tag(MODEL, champion.version, SPLIT, split)


@pytest.mark.parametrize(
    ("broken", "why"),
    [(_changed, "features.py was changed"), (_lost, "has no bundle"), (_out_of_date, "pupil_id")],
    ids=["changed", "lost", "out of date"],
)
def test_a_champion_that_cannot_be_compared_with_is_named_and_the_floor_decides(
    trained: Platform, broken: Break, why: str
) -> None:
    """Never a crash, never a silent win."""
    champion = _champion(trained)

    with broken(trained, champion):
        shown, below = _evaluated(trained), _evaluated(trained, floor=0.999)

    assert shown["way"] == "unopposed"
    assert f"the champion, version {champion.version}, cannot be compared with: " in shown["reason"]
    assert why in shown["reason"]
    assert below["decision"] == "keep the champion"
    assert _evaluated(trained)["way"] != "unopposed"


def test_an_outage_is_not_taken_for_a_lost_champion(trained: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle has to be fetched, and MLflow is away: the room tries again, then fails; nobody wins."""
    monkeypatch.setattr(rooms, "FIRST_WAIT_S", 0.01)
    before = trained.metadata(MODEL, "evaluation")

    def away(*_: object) -> None:
        msg = "MLflow cannot be reached"
        raise UnavailableError(msg)

    with _lost(trained, _champion(trained)), monkeypatch.context() as outage:
        outage.setattr(ExperimentTracking, "download", away)
        result = trained.refresh(MODEL, ["evaluation"])

    assert not result.success
    assert trained.metadata(MODEL, "evaluation") == before
