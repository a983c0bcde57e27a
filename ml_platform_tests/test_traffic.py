"""Traffic outside a refresh: rollbacks that may die anywhere, and disagreements that are found and repaired."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from ml_platform.automation.clicks import REPAIR, ROLLBACK, click_config
from ml_platform.automation.jobs import REFRESH
from ml_platform.definitions import definitions_for, resources_for
from ml_platform.local import company, decisions
from ml_platform.local.processes import PlatformError
from ml_platform.modeling.decisions import Kind, Outcome
from ml_platform.modeling.promotion import PromotionError
from ml_platform.modeling.reconciling import Finding
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, REFUSED
from ml_platform.resources.traffic import Doors, Order, look, repair, roll_back
from ml_platform_tests.platform import Platform

MODEL = "loan_approval"


@pytest.fixture(scope="module")
def two(platform: Platform) -> Iterator[Platform]:
    """Two versions have answered; in the end the newer one answers again."""
    assert platform.refresh(MODEL).success
    older = _live(platform)
    assert company.arrive(platform.settings.source_url, MODEL, 20, datetime.now(UTC)) == 20
    for alias in (CHAMPION, CHALLENGER):  # No champion to lose against.
        platform.tracking.client.delete_registered_model_alias(MODEL, alias)
    assert platform.refresh(MODEL).success
    assert _live(platform) != older
    newer = _live(platform)
    yield platform
    roll_back(_order(to=newer), _doors(platform), print)


@pytest.fixture
def newest(two: Platform) -> str:
    """The newer version answers, and neither is refused."""
    doors = _doors(two)
    newer, older = _last_two(two)
    for version in (newer, older):
        roll_back(_order(to=max(newer, older, key=int)), doors, print)
        two.tracking.forgive(MODEL, version)
    return max(newer, older, key=int)


def _live(platform: Platform) -> str:
    return str(platform.predict(MODEL, [platform.example(MODEL)])["version"])


def _last_two(platform: Platform) -> tuple[str, str]:
    first, second, *_ = dict.fromkeys(platform.ledger.lives([MODEL])[MODEL])
    return first, second


def _doors(platform: Platform) -> Doors:
    here = platform.settings
    return Doors(
        tracking=platform.tracking,
        serving=LocalServing(url=here.serving_url, token=here.serving_token),
        bundles=BundleStore(root=str(here.bundles)),
        ledger=platform.ledger,
    )


def _order(**given: Any) -> Order:
    plain = Order(model=MODEL, actor="ada", because="it answers oddly", at=datetime.now(UTC))
    return replace(plain, **given)


def _reconcile(platform: Platform, cursor: str | None) -> Any:
    """One look of the sensor."""
    repository = definitions_for((platform.spec(MODEL),), platform.settings).get_repository_def()
    doors = resources_for(platform.settings)
    with dg.build_sensor_context(
        platform.instance, cursor=cursor, resources=doors, repository_def=repository
    ) as context:
        return repository.get_sensor_def("reconcile").evaluate_tick(context)


def _finding(platform: Platform) -> Finding:
    return look([MODEL], _doors(platform))[MODEL].finding


def _assert_whole(platform: Platform, version: str) -> None:
    """Traffic, alias and ledger name this version, and it is not refused."""
    assert _finding(platform) is Finding.AGREED
    assert _live(platform) == version == platform.tracking.champion_version(MODEL)
    found = platform.tracking.version(MODEL, version)
    assert found is not None
    assert REFUSED not in found.tags


def test_a_rollback_moves_traffic_and_alias_and_is_remembered(two: Platform, newest: str) -> None:
    """By a click, without a version: the one that answered before. The one left is refused from then on."""
    job = definitions_for((two.spec(MODEL),), two.settings).resolve_job_def(ROLLBACK)
    config = click_config(ROLLBACK, model=MODEL, because="it answers oddly", by="ada")

    assert job.execute_in_process(run_config=config, instance=two.instance).success

    older = _live(two)
    assert int(older) < int(newest)
    _assert_whole(two, older)
    left = two.tracking.version(MODEL, newest)
    assert left is not None
    assert left.tags[REFUSED] == "rolled back by ada: it answers oddly"
    entry = two.ledger.history(MODEL, 1)[0]
    assert (entry.kind, entry.outcome, entry.version, entry.actor) == (Kind.ROLLBACK, Outcome.LIVE, older, "ada")
    served = two.ledger.served(MODEL, datetime.now(UTC))
    assert served == entry


def test_what_was_rolled_back_does_not_come_back_by_itself(two: Platform, newest: str) -> None:
    """The next refresh trains the same, and leaves the older version where it is; by hand it may return."""
    roll_back(_order(), _doors(two), print)
    older = _live(two)

    assert two.refresh(MODEL).success
    _assert_whole(two, older)

    decisions.rollback(two.settings, MODEL, newest, "it was right after all", print)
    _assert_whole(two, newest)


@dataclass
class Dying:
    """Doors that die before or after their n-th change of the world, as a killed process would."""

    doors: Doors
    die_at: int
    before: bool
    changes: list[str] = field(default_factory=list)

    def dying(self) -> Doors:
        """The doors, each with its changes watched."""
        watched = {"tracking": ("refuse", "forgive", "set_champion"), "serving": ("load", "switch"),
                   "ledger": ("record_live",)}  # fmt: skip
        doors: dict[str, Any] = {name: _Watched(self, name, uses) for name, uses in watched.items()}
        return replace(self.doors, **doors)

    def change(self, name: str, act: Callable[[], Any]) -> Any:
        """Let one change happen, or die."""
        self.changes.append(name)
        if self.before and len(self.changes) == self.die_at:
            raise KilledError
        done = act()
        if len(self.changes) == self.die_at:
            raise KilledError
        return done


class KilledError(BaseException):
    """The process died here."""


@dataclass
class _Watched:
    dying: Dying
    name: str
    uses: tuple[str, ...]

    def __getattr__(self, attribute: str) -> Any:
        real = getattr(getattr(self.dying.doors, self.name), attribute)
        if attribute not in self.uses:
            return real
        return lambda *args: self.dying.change(attribute, lambda: real(*args))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("die_at", range(1, 6))
def test_a_rollback_that_dies_is_finished_or_never_began(two: Platform, newest: str, die_at: int, before: bool) -> None:
    """Killed at any change of the world, the repair that follows leaves one version everywhere, refused nowhere."""
    dying = Dying(_doors(two), die_at, before)
    older = next(v for v in _last_two(two) if v != newest)
    with suppress(KilledError):
        roll_back(_order(), dying.dying(), print)
    assert len(dying.changes) == die_at

    repair(_order(actor="platform", because="found"), _doors(two), print)

    began = dying.changes[-1] != "forgive" and not (before and dying.changes[-1] == "refuse")
    _assert_whole(two, older if began else newest)


def test_an_alias_moved_by_hand_is_moved_back(two: Platform, newest: str) -> None:
    """What answers is what was proven; the sensor repairs what it has seen twice."""
    older = next(v for v in _last_two(two) if v != newest)
    two.tracking.set_champion(MODEL, older)
    first = _reconcile(two, None)
    second = _reconcile(two, first.cursor)
    (request,) = second.run_requests

    assert not first.run_requests
    assert "the alias was moved by hand" in (first.skip_message or "")
    assert request.job_name == REPAIR
    job = definitions_for((two.spec(MODEL),), two.settings).resolve_job_def(REPAIR)
    assert job.execute_in_process(run_config=request.run_config, instance=two.instance).success
    _assert_whole(two, newest)
    assert not _reconcile(two, second.cursor).run_requests


def test_a_winner_that_never_went_live_is_deployed(two: Platform, newest: str) -> None:
    """The older version answers, the newer one is registered and nobody refused it: the sensor asks for its rooms."""
    roll_back(_order(), _doors(two), print)
    two.tracking.forgive(MODEL, newest)
    assert _finding(two) is Finding.WINNER_WAITS

    (request,) = _reconcile(two, _reconcile(two, None).cursor).run_requests
    assert request.job_name == REFRESH
    assert two.refresh(MODEL, tags=request.tags).success

    _assert_whole(two, newest)


def test_traffic_that_was_lost_is_restored(two: Platform, newest: str) -> None:
    """Nothing answers any more: the champion does again."""
    doors = _doors(two)
    doors.serving.switch(MODEL, None, doors.serving.observe(MODEL).revision)
    assert _finding(two) is Finding.NOTHING_SERVED

    repair(_order(), doors, print)

    _assert_whole(two, newest)


def test_an_earlier_version_that_does_not_answer_as_it_did_leaves_all_as_it_is(
    two: Platform, newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer version goes on answering, and is not refused; the ledger has the attempt."""
    monkeypatch.setattr(LocalServing, "answer", lambda *_: [{"label": "other"}] * 1000)

    with pytest.raises(PromotionError):
        roll_back(_order(), _doors(two), print)

    monkeypatch.undo()
    _assert_whole(two, newest)
    failed = two.ledger.history(MODEL, 1)[0]
    assert (failed.kind, failed.outcome) == (Kind.ROLLBACK, Outcome.FAILED)


def test_a_version_that_is_not_there_is_said_with_those_that_are(two: Platform, newest: str) -> None:
    """One line, and the remedy."""
    with pytest.raises(PlatformError, match=rf"version 99 is not registered; versions that have answered: .*{newest}"):
        decisions.rollback(two.settings, MODEL, "99", "why not", print)
    with pytest.raises(PlatformError, match="there is no model 'other'"):
        decisions.rollback(two.settings, "other", None, "why not", print)


def test_the_history_is_readable(two: Platform, newest: str) -> None:
    """A line a decision; what served when in one question; before the first there was nothing."""
    lines: list[str] = []
    decisions.history(two.settings, MODEL, 1000, lines.append, as_json=False)
    said: list[str] = []
    decisions.served(two.settings, MODEL, decisions.moment(two.settings, None), said.append)

    assert len(lines) == len(two.ledger.history(MODEL, 1000))
    assert any(f"promotion   live     version {newest}" in line for line in lines)
    assert f"{MODEL}: version {newest} answered at" in said[0]
    with pytest.raises(PlatformError, match="nothing answered at 2020"):
        decisions.served(two.settings, MODEL, decisions.moment(two.settings, "2020-01-01"), said.append)
    with pytest.raises(PlatformError, match="--at 'soon' is not a time"):
        decisions.moment(two.settings, "soon")
