"""Approval: a winner waits for a person, who releases it without another training, or refuses it for good."""

from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest

from ml_platform.automation.clicks import APPROVE, REFUSE, click_config
from ml_platform.automation.jobs import release_keys
from ml_platform.definitions import definitions_for
from ml_platform.local import company, decisions
from ml_platform.local.processes import PlatformError
from ml_platform.local.runs import RELEASE_ROOMS
from ml_platform.modeling import gate
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.reconciling import Finding
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import CHALLENGER, RELEASED_BECAUSE, RELEASED_BY
from ml_platform.resources.traffic import Doors, look
from ml_platform_tests.platform import Platform

MODEL = "student_dropout"


@pytest.fixture
def live(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A model answers, more rows arrived, and every challenger is good enough."""
    if platform.tracking.champion_version(MODEL) is None:
        assert platform.refresh(MODEL).success
    _arrive(platform)
    monkeypatch.setattr("ml_platform.resources.judging.decide", lambda s, h, c, *_, **__: gate.decide(s, h, c, None))
    return platform


def _arrive(platform: Platform) -> None:
    assert company.arrive(platform.settings.source_url, MODEL, 10, datetime.now(UTC)) == 10


def _careful(platform: Platform) -> ModelSpec:
    spec = platform.spec(MODEL)
    return replace(spec, promotion=replace(spec.promotion, approval="human"))


def _waiting(platform: Platform) -> str:
    """Refresh; the version that waits then."""
    result = platform.refresh(MODEL, spec=_careful(platform))
    assert result.success
    assert not {"image", "deployment"} & _rooms(result)
    version = platform.tracking.version_with_alias(MODEL, CHALLENGER)
    assert version is not None
    return version.version


def _rooms(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}


def _answers(platform: Platform) -> str:
    return str(platform.predict(MODEL, [platform.example(MODEL)])["version"])


def _newest(platform: Platform) -> Entry:
    return platform.ledger.history(MODEL, 1)[0]


def _finding(platform: Platform) -> Finding:
    here = platform.settings
    doors = Doors(
        tracking=platform.tracking,
        serving=LocalServing(url=here.serving_url, token=here.serving_token),
        bundles=BundleStore(root=str(here.bundles)),
        ledger=platform.ledger,
    )
    return look([MODEL], doors)[MODEL].finding


def _click(platform: Platform, job: str, **given: str) -> dg.ExecuteInProcessResult:
    found = definitions_for((_careful(platform),), platform.settings).resolve_job_def(job)
    config = click_config(job, model=MODEL, because="looked at it", by="ada", **given)
    return found.execute_in_process(run_config=config, instance=platform.instance, raise_on_error=False)


def test_a_released_winner_goes_live_without_another_training(live: Platform) -> None:
    """Until then nothing changes, nobody repairs it, and the page says whom it waits for."""
    before = _answers(live)
    waiting = _waiting(live)

    assert _answers(live) == before
    assert "ml-platform approve student_dropout" in live.metadata(MODEL, "registered_model")["waits_for"]
    assert (_newest(live).kind, _newest(live).outcome, _newest(live).version) == (
        Kind.APPROVAL,
        Outcome.WAITING,
        waiting,
    )
    assert _finding(live) is Finding.AGREED

    trained = live.metadata(MODEL, "trained_model")["mlflow_run"]
    _arrive(live)
    decisions.approve(live.settings, MODEL, None, "the slices look fine", "ada", print)
    released = live.tracking.version(MODEL, waiting)
    assert released is not None
    assert (released.tags[RELEASED_BY], released.tags[RELEASED_BECAUSE]) == ("ada", "the slices look fine")
    assert (_newest(live).outcome, _newest(live).actor, _newest(live).reason) == (
        Outcome.RELEASED,
        "ada",
        "the slices look fine",
    )
    assert _finding(live) is Finding.WINNER_WAITS

    assert live.refresh(MODEL, RELEASE_ROOMS, spec=_careful(live)).success
    assert _answers(live) == waiting
    assert live.metadata(MODEL, "trained_model")["mlflow_run"] == trained
    with pytest.raises(PlatformError, match=f"version {waiting} is the champion already"):
        decisions.approve(live.settings, MODEL, None, "again", "ada", print)
    with pytest.raises(PlatformError, match="is live; use `ml-platform rollback"):
        decisions.refuse(live.settings, MODEL, waiting, "too late", "ada", print)


def test_a_newer_winner_takes_the_place_of_the_one_that_waits(live: Platform) -> None:
    """A person on holiday does not stop the refreshes; the click in the page releases the newest, or the one named."""
    older = _waiting(live)
    _arrive(live)
    newer = _waiting(live)
    assert int(newer) > int(older)

    clicked = _click(live, APPROVE)

    assert clicked.success
    assert live.refresh(MODEL, RELEASE_ROOMS, spec=_careful(live)).success
    assert _answers(live) == newer
    with pytest.raises(PlatformError, match=f"version {older} is older than the champion, version {newer}"):
        decisions.approve(live.settings, MODEL, older, "after all", "ada", print)


def test_a_refused_winner_is_never_tried_again(live: Platform) -> None:
    """Neither by the next refresh of the same rows, nor by an approval."""
    before = _answers(live)
    waiting = _waiting(live)

    assert _click(live, REFUSE, to=waiting).success

    assert (_newest(live).kind, _newest(live).outcome, _newest(live).actor) == (
        Kind.APPROVAL,
        Outcome.REFUSED,
        "ada",
    )
    again = live.refresh(MODEL, spec=_careful(live))
    assert again.success
    assert "registered_model" not in _rooms(again)
    assert f"version {waiting} was refused: by ada: looked at it" in live.metadata(MODEL, "evaluation")["reason"]
    assert _answers(live) == before
    assert not _click(live, APPROVE).success
    with pytest.raises(PlatformError, match="was refused: by ada: looked at it; to let it answer after all, use"):
        decisions.approve(live.settings, MODEL, waiting, "after all", "ada", print)
    with pytest.raises(PlatformError, match="version 999 is not registered"):
        decisions.refuse(live.settings, MODEL, "999", "no such", "ada", print)


def test_the_rooms_of_a_release_are_those_that_the_command_asks_for(platform: Platform) -> None:
    """The command line does not import Dagster, so it names them itself."""
    assert [key.path[-1] for key in release_keys(platform.spec(MODEL))] == list(RELEASE_ROOMS)
