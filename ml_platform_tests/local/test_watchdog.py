"""What does not tick is noticed from outside, said once and with the remedy, and said when it is over."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.local.processes import free_port
from ml_platform.local.runs import DagsterPage
from ml_platform.local.vitals import Finding, Look, Patience, judge, look
from ml_platform.local.watchdog import AGAIN_AFTER_S, BROKEN, MENDED, Told, Watchdog, check, news
from ml_platform.resources.alert_channel import AlertChannel
from ml_platform.settings import Settings

NOW = 1_800_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
PATIENCE = Patience()
PAGE = "http://page"


def answer(**change: Any) -> dict[str, Any]:
    """Dagster's answer when all is well, but for the changes; ages are in seconds before now, None is never."""
    is_: dict[str, Any] = {
        "heartbeat": 10, "other_heartbeat": 10, "errors": [], "required": True, "loaded": 30 * DAY,
        "interval": 30, "looked": 20, "sensor": "RUNNING", "sensor_newest": "SKIPPED",
        "due": 6 * HOUR, "ticked": 6 * HOUR, "schedule": "RUNNING", "schedule_newest": "SUCCESS",
        "switched_on": 30 * DAY,
    } | change  # fmt: skip
    daemons = [
        _daemon("SENSOR", is_["heartbeat"], is_["required"], is_["errors"]),
        _daemon("SCHEDULER", is_["other_heartbeat"], is_["required"], []),
    ]
    switched_on = {"startTimestamp": _at(is_["switched_on"])}
    sensor = {"status": is_["sensor"], **_ticks(is_["sensor_newest"], is_["looked"])}
    schedule = {"status": is_["schedule"], **_ticks(is_["schedule_newest"], is_["ticked"])} | {
        "typeSpecificData": switched_on
    }
    return {
        "instance": {"daemonHealth": {"allDaemonStatuses": daemons}},
        "workspaceOrError": {"locationEntries": [{"name": "ml_platform", "updatedTimestamp": _at(is_["loaded"])}]},
        "repositoryOrError": {
            "__typename": "Repository",
            "sensors": [{"name": "alerts", "minIntervalSeconds": is_["interval"], "sensorState": sensor}],
            "schedules": [
                {"name": "weekly", "potentialTickTimestamps": [_at(is_["due"]), NOW + DAY], "scheduleState": schedule}
            ],
        },
    }


def _daemon(kind: str, heartbeat: float | None, required: bool, errors: list[str]) -> dict[str, Any]:
    return {
        "daemonType": kind,
        "required": required,
        "lastHeartbeatTime": _at(heartbeat),
        "lastHeartbeatErrors": [{"message": message} for message in errors],
    }


def _ticks(newest: str, age: float | None) -> dict[str, Any]:
    return {"newest": [{"status": newest}], "well": [] if age is None else [{"timestamp": _at(age)}]}


def _at(age: float | None) -> float | None:
    return None if age is None else NOW - age


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"heartbeat": 299},
        {"heartbeat": None, "loaded": 299},
        {"heartbeat": DAY, "other_heartbeat": DAY, "required": False},
        {"looked": 299},
        {"looked": None, "loaded": 299},
        {"looked": DAY, "sensor": "STOPPED"},
        {"looked": 9 * HOUR, "interval": HOUR},
        {"sensor_newest": "FAILURE"},
        {"sensor_newest": "STARTED"},
        {"ticked": 6 * HOUR - 1},
        {"ticked": DAY, "schedule": "STOPPED"},
        {"ticked": None, "switched_on": 5 * HOUR},
        {"ticked": None, "switched_on": None, "loaded": 5 * HOUR},
        {"ticked": 8 * DAY, "loaded": 5 * HOUR},
    ],
)
def test_what_ticks_or_had_no_time_to_is_not_told(change: dict[str, Any]) -> None:
    """Within its patience, switched off, or due before it was switched on or the definitions were loaded."""
    found = judge(answer(**change), NOW, PATIENCE, PAGE)

    assert found.findings == []
    switched_on = [change.get("sensor", "RUNNING"), change.get("schedule", "RUNNING")].count("RUNNING")
    assert found.watched == switched_on + (2 if change.get("required", True) else 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heartbeat": 301}, ["gave its last sign of life at", "(sensor)", "restart it"]),
        ({"heartbeat": 301, "other_heartbeat": 400, "looked": DAY, "ticked": DAY}, ["(scheduler, sensor)"]),
        ({"heartbeat": None, "other_heartbeat": None}, ["has given no sign of life (scheduler, sensor)"]),
        ({"errors": ["no database\n  at x"]}, ["an error of sensor (no database)"]),
        ({"looked": 301}, ["the sensor alerts has not ticked well since", f"{PAGE}/locations/ml_platform/sensors/"]),
        ({"looked": None}, ["the sensor alerts has never ticked well"]),
        ({"looked": 301, "sensor_newest": "FAILURE"}, ["its last tick failed"]),
        ({"looked": 10 * HOUR + 1, "interval": HOUR}, ["the sensor alerts"]),
        ({"ticked": 6 * HOUR + 1}, ["the schedule weekly has not ticked well since", "/schedules/weekly"]),
        ({"ticked": DAY, "schedule_newest": "FAILURE"}, ["the schedule weekly", "its last tick failed"]),
        ({"ticked": None}, ["the schedule weekly has never ticked well"]),
    ],
)  # fmt: skip
def test_what_does_not_tick_is_one_sentence_with_the_remedy(change: dict[str, Any], words: list[str]) -> None:
    """One sentence names it; what a dead daemon keeps from ticking is not told beside it."""
    (finding,) = judge(answer(**change), NOW, PATIENCE, PAGE).findings

    assert [word for word in words if word not in finding.words] == []


def test_definitions_that_do_not_load_are_a_finding() -> None:
    """Without them nothing is switched on, and nothing would seem late."""
    broken = answer() | {"repositoryOrError": {"__typename": "PythonError", "message": "no module\nat x"}}

    (finding,) = judge(broken, NOW, PATIENCE, PAGE).findings

    assert finding.words == f"Dagster cannot load the definitions (no module): see {PAGE}/locations"


@pytest.fixture
def silent() -> DagsterPage:
    """A page that nobody answers at."""
    return DagsterPage(f"http://127.0.0.1:{free_port()}")


def test_a_page_that_does_not_answer_is_a_finding(silent: DagsterPage) -> None:
    """It names the address."""
    (finding,) = look(silent).findings

    assert f"{silent.url} does not answer" in finding.words


A, B = Finding("a", "a is late"), Finding("b", "b is late")


def _titles(*looks: list[Finding], every: float = MINUTE) -> list[str]:
    """What is said when the looks come one by one."""
    told, titles = Told(), []
    for number, found in enumerate(looks):
        message, told = news(found, told, NOW + number * every)
        titles.append(f"{message.title}: {message.body}" if message else "")
    return titles


def test_two_looks_in_a_row_must_agree() -> None:
    """A page that is being restarted is not told, nor is one good look in the middle of an outage."""
    assert _titles([A], [], [B], [], [A], [B]) == [""] * 6
    assert [bool(title) for title in _titles([A], [A], [], [A], [], [])] == [False, True, False, False, False, True]


def test_what_lasts_is_said_once_and_again_after_an_hour() -> None:
    """Until it is over, which is said as well."""
    looks = [[A]] * 70 + [[]] * 3

    said = {number: title for number, title in enumerate(_titles(*looks)) if title}

    assert list(said) == [1, 61, 71]
    assert [title.startswith(BROKEN) for title in said.values()] == [True, True, False]
    assert said[71].startswith(MENDED)


def test_something_new_is_said_with_what_lasts() -> None:
    """The message names all that does not tick."""
    assert _titles([A], [A], [A, B], [A, B]) == ["", f"{BROKEN}: {A.words}", "", f"{BROKEN}: {A.words}\n{B.words}"]


@given(st.lists(st.lists(st.sampled_from([A, B]), unique=True), max_size=40))
def test_people_hear_of_an_outage_and_of_its_end_and_never_of_an_end_alone(looks: list[list[Finding]]) -> None:
    """Between two good news there is bad news; within an hour nothing is said twice without an end or something new."""
    said = [title for title in _titles(*looks, every=1.0) if title]

    good = [title.startswith(MENDED) for title in said]
    assert not (good and good[0])
    assert all(not (before and after) for before, after in pairwise(good))
    assert all(before != after for before, after in pairwise(said))
    if looks[-2:] == [[], []] and good:
        assert good[-1]


class Flaky(AlertChannel):
    """Two services, as many of which refuse as the test says."""

    def __init__(self, refusals: Iterator[int]) -> None:
        """How many refuse, message by message."""
        super().__init__("json://one json://two")
        self.refusals = refusals
        self.sent: list[str] = []

    def send(self, title: str, body: str) -> list[str]:
        """It notes what was sent."""
        self.sent.append(f"{title}: {body}")
        return ["json (a number)"] * next(self.refusals)


def test_a_message_that_reached_nobody_is_sent_again_and_the_terminal_hears_it_once(silent: DagsterPage) -> None:
    """One of two services is enough."""
    said: list[str] = []
    channel = Flaky(iter([2, 2, 1]))
    watchdog = Watchdog(silent, channel, said.append)

    for minute in range(6):
        watchdog.tell(Look([A]), NOW + minute * MINUTE)

    assert said == [f"{BROKEN}\n  {A.words}"]
    assert channel.sent == [f"{BROKEN}: {A.words}"] * 3
    assert MINUTE * 6 < AGAIN_AFTER_S


def test_whatever_a_look_raises_the_next_one_comes(silent: DagsterPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that died of a mistake of its own would be missed by nobody."""
    looks: Iterator[Exception | Look] = iter([ZeroDivisionError()])
    said, told = list[str](), Event()

    def once(_page: DagsterPage) -> Look:
        found = next(looks, Look([A]))
        if isinstance(found, Exception):
            raise found
        return found

    def say(line: str) -> None:
        said.append(line)
        if line.startswith(BROKEN):
            told.set()

    monkeypatch.setattr("ml_platform.local.watchdog.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("ml_platform.local.watchdog.look", once)
    watchdog = Watchdog(silent, AlertChannel(""), say)
    watchdog.start()

    assert told.wait(30)
    watchdog.stop()
    assert said == [
        "The watchdog could not look (ZeroDivisionError()) and tries again in a minute.",
        f"{BROKEN}\n  {A.words}",
    ]


def test_a_check_without_a_platform_says_so(tmp_path: Path) -> None:
    """With the remedy; an alert that nobody would hear is said, too."""
    said: list[str] = []

    assert not check(Settings(state=tmp_path), said.append, alert=True)
    assert said == [
        "the platform is not running: start it with `make run`",
        "nobody was told: ML_PLATFORM_ALERT_URLS is empty",
    ]


def test_a_check_asks_the_page_in_the_settings(tmp_path: Path, silent: DagsterPage) -> None:
    """From a machine or pod where no platform runs."""
    said: list[str] = []

    assert not check(Settings(state=tmp_path, dagster_page=silent.url), said.append, alert=False)
    assert [silent.url in line for line in said] == [True]
