"""Vital signs: whether Dagster's daemons live and sensors and schedules tick, judged from outside, through its page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Any

from ml_platform.local.processes import PlatformError
from ml_platform.local.runs import LOCATION, DagsterPage

DAEMON_OF = {"sensor": "SENSOR", "schedule": "SCHEDULER"}
# A tick that began and never ended, or failed, is none: only those that ended well count.
VITALS = """query($repository: RepositorySelector!, $late: Float) {
  instance { daemonHealth { allDaemonStatuses {
    daemonType required lastHeartbeatTime lastHeartbeatErrors { message } } } }
  workspaceOrError { ... on Workspace { locationEntries { name updatedTimestamp } } }
  repositoryOrError(repositorySelector: $repository) { __typename ... on Error { message } ... on Repository {
    sensors { name minIntervalSeconds sensorState { status
      newest: ticks(limit: 1) { status } well: ticks(limit: 1, statuses: [SUCCESS, SKIPPED]) { timestamp } } }
    schedules { name potentialTickTimestamps(startTimestamp: $late, lowerLimit: 1, upperLimit: 1) scheduleState { status
      newest: ticks(limit: 1) { status } well: ticks(limit: 1, statuses: [SUCCESS, SKIPPED]) { timestamp }
      typeSpecificData { ... on ScheduleData { startTimestamp } } } } } } }"""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How many seconds late each may be: daemons give a sign of life every minute, sensors tick at their interval."""

    heartbeat: float = 300.0
    sensor: float = 300.0
    sensor_intervals: int = 10
    schedule: float = 600.0


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: what it is about, and one sentence with the remedy."""

    about: str
    words: str


@dataclass(frozen=True)
class Look:
    """What one look has found, and how many daemons, sensors and schedules that are switched on it looked at."""

    findings: Sequence[Finding]
    watched: int = 0


def look(page: DagsterPage, patience: Patience | None = None) -> Look:
    """Look once, through Dagster's page; a page that does not answer is a finding itself."""
    now, patience = time(), patience or Patience()
    try:
        answer = page.ask(VITALS, repository=LOCATION, late=now - patience.schedule)
    except PlatformError as error:
        return Look([Finding("page", str(error))])
    return judge(answer, now, patience, page.url)


def judge(answer: Mapping[str, Any], now: float, patience: Patience, page: str) -> Look:
    """What Dagster's answer means.

    Nothing is late that had no time yet: definitions that were just loaded, by a start or by a reload, excuse what was
    due before.

    Args:
        answer: to the question `VITALS`, asked with `late` at the time before which a schedule is forgiven nothing.
        now: the time, in seconds since 1970.
        patience: how late each may be.
        page: the address of Dagster's page.
    """
    repository, loaded = answer["repositoryOrError"], _loaded(answer)
    if repository["__typename"] != "Repository":
        words = f"Dagster cannot load the definitions ({repository['message'].splitlines()[0]}): see {page}/locations"
        return Look([Finding("definitions", words)])
    daemons = [one for one in answer["instance"]["daemonHealth"]["allDaemonStatuses"] if one["required"]]
    silent = [one for one in daemons if max(one["lastHeartbeatTime"] or 0, loaded) < now - patience.heartbeat]
    tickers = [*_sensors(repository, loaded, now, patience), *_schedules(repository, loaded)]
    # Without its daemon nothing ticks: that is said already.
    dead = {one["daemonType"] for one in silent}
    late = [one for one in tickers if one.is_late() and DAEMON_OF[one.kind] not in dead]
    return Look([*_of_daemons(daemons, silent), *(one.finding(page) for one in late)], len(daemons) + len(tickers))


@dataclass(frozen=True, kw_only=True)
class _Ticker:
    """A sensor or schedule that is switched on: when it ticked well last, and by when it had to."""

    kind: str
    name: str
    ticked: float
    failed: bool
    excused: float
    due: float

    def is_late(self) -> bool:
        return max(self.ticked, self.excused) < self.due

    def finding(self, page: str) -> Finding:
        last = f"has not ticked well since {_moment(self.ticked)}" if self.ticked else "has never ticked well"
        why = ", its last tick failed" if self.failed else ""
        words = f"the {self.kind} {self.name} {last}{why}: see {page}/locations/ml_platform/{self.kind}s/{self.name}"
        return Finding(f"{self.kind} {self.name}", words)


def _sensors(repository: Mapping[str, Any], loaded: float, now: float, patience: Patience) -> Iterator[_Ticker]:
    for one in repository["sensors"]:
        due = now - max(patience.sensor, patience.sensor_intervals * one["minIntervalSeconds"])
        if one["sensorState"]["status"] == "RUNNING":
            yield _ticker("sensor", one["name"], one["sensorState"], loaded, due)


def _schedules(repository: Mapping[str, Any], loaded: float) -> Iterator[_Ticker]:
    for one in repository["schedules"]:
        state, due = one["scheduleState"], one["potentialTickTimestamps"][0]
        switched_on = (state["typeSpecificData"] or {}).get("startTimestamp") or 0
        if state["status"] == "RUNNING":
            yield _ticker("schedule", one["name"], state, max(loaded, switched_on), due)


def _ticker(kind: str, name: str, state: Mapping[str, Any], excused: float, due: float) -> _Ticker:
    failed = any(tick["status"] == "FAILURE" for tick in state["newest"])
    ticked = max((tick["timestamp"] for tick in state["well"]), default=0.0)
    return _Ticker(kind=kind, name=name, ticked=ticked, failed=failed, excused=excused, due=due)


def _of_daemons(daemons: Sequence[Mapping[str, Any]], silent: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """One finding for all that are silent, since they live in one process; one for each that reports errors."""
    if silent:
        heard = max(one["lastHeartbeatTime"] or 0 for one in silent)
        last = f"gave its last sign of life at {_moment(heard)}" if heard else "has given no sign of life"
        names = ", ".join(sorted(_in_words(one) for one in silent))
        yield Finding("daemon", f"Dagster's daemon {last} ({names}): read its log, then end and restart it")
    for one in daemons:
        if one not in silent and one["lastHeartbeatErrors"]:
            reason = one["lastHeartbeatErrors"][0]["message"].strip().splitlines()[0]
            words = f"Dagster's daemon reports an error of {_in_words(one)} ({reason}): its log has the rest"
            yield Finding(f"errors of {_in_words(one)}", words)


def _in_words(daemon: Mapping[str, Any]) -> str:
    return str(daemon["daemonType"]).lower().replace("_", " ")


def _loaded(answer: Mapping[str, Any]) -> float:
    """When the page loaded the definitions."""
    entries = answer["workspaceOrError"].get("locationEntries", [])
    return max((entry["updatedTimestamp"] for entry in entries), default=0.0)


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
