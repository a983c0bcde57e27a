"""The demo: twelve simulated weeks of one model over real data, driven by the platform's own schedules and sensors.

Real: the students and whether they left school, PostgreSQL, MLflow, the model server, every decision. Simulated: when
things happen. Injected, and said so: a lasting change of what the requests hold, and a week of broken data.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from ml_platform.assets.room import MODEL as OF_MODEL
from ml_platform.assets.room import TRIGGER, key
from ml_platform.automation.alerts import failures
from ml_platform.automation.jobs import DRIFT, PERFORMANCE, REFRESH, refresh_keys
from ml_platform.definitions import definitions_for, resources_for
from ml_platform.local import headless
from ml_platform.local.demo_check import amiss
from ml_platform.local.demo_world import LABELS_AFTER, MODEL, Story, World
from ml_platform.local.listener import Listener, listening
from ml_platform.modeling import drawing, timeline
from ml_platform.modeling.decisions import Entry, Kind
from ml_platform.modeling.spec import ModelSpec, MonitoringPolicy, RetrainPolicy
from ml_platform.models.catalogue import model as of_catalogue
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.settings import Settings

WEEK, DAY = timedelta(days=7), timedelta(days=1)
SAW, DID = (Kind.DRIFT, Kind.PERFORMANCE, Kind.RUN), (Kind.PROMOTION, Kind.ROLLBACK, Kind.REPAIR)
PICTURE, LOG = "timeline.png", "log"
LONGEST = 200


@dataclass
class Demo:
    """One run of the story: the platform's own jobs, sensors and schedule, on a clock that is set."""

    here: Settings
    spec: ModelSpec
    instance: dg.DagsterInstance
    world: World
    begun: datetime
    say: Callable[[str], None]
    listener: Listener
    repository: dg.RepositoryDefinition
    weeks: dict[int, Sequence[Entry]] = field(default_factory=dict)
    told: dict[int, Sequence[str]] = field(default_factory=dict)
    _cursors: dict[str, str | None] = field(default_factory=dict)
    _read: int = 0

    def run(self) -> None:
        """The weeks have passed."""
        self._set_clock(self.begun)
        self.world.begin(self.begun)
        self.say(f"\nWeek 0, {self.begun:%Y-%m-%d}: the company has its first students, nothing is live yet.")
        self._execute(REFRESH, refresh_keys(self.spec), "not live yet")
        self._tell(0)
        for week in range(1, self.world.story.weeks + 1):
            self._pass(week)

    def _pass(self, week: int) -> None:
        """Students come and ask, outcomes of earlier ones become known, the platform looks, and Sunday is due."""
        monday = self.begun + WEEK * (week - 1) + DAY
        self.say(f"\nWeek {week}, {monday:%Y-%m-%d}: {self.world.story.told(week)}.")
        self._set_clock(monday)
        self.world.mend(week, monday - timedelta(hours=1))
        self.world.ask(self.world.arrive(week, monday), monday)
        friday = monday + 4 * DAY
        self._set_clock(friday)
        self.world.label(week - LABELS_AFTER, friday)
        self._execute(DRIFT, [key(self.spec, "drift_report")], "schedule drift_report")
        self._execute(PERFORMANCE, [key(self.spec, "realised_performance")], "schedule realised_performance")
        for sensor in ("new_data", "drift", "degraded"):
            self._tick(f"{MODEL}_{sensor}")
        self.world.spoil(week, friday + DAY)
        sunday = monday + 6 * DAY
        self._set_clock(sunday)
        self._tick_schedule(sunday)
        self._tick("reconcile")
        self._tell(week)

    def _execute(self, job: str, keys: Sequence[dg.AssetKey], trigger: str) -> None:
        """A run; one that fails goes into the ledger, as the sensor `failed_runs` does it."""
        tags = {OF_MODEL: self.spec.name, TRIGGER: trigger}
        result = self.repository.get_job(job).execute_in_process(
            instance=self.instance, asset_selection=list(keys), tags=tags, raise_on_error=False
        )
        run = self.instance.get_run_by_id(result.run_id)
        if run and not result.success:
            for entry in failures(self.instance, run, {MODEL}, self._now()):
                self._ledger.record(entry)

    def _tick(self, name: str) -> None:
        """The sensor has looked, and what it asked for was run."""
        with dg.build_sensor_context(
            self.instance,
            cursor=self._cursors.get(name),
            resources=resources_for(self.here),
            repository_def=self.repository,
        ) as context:
            found = self.repository.get_sensor_def(name).evaluate_tick(context)
        self._cursors[name] = found.cursor or self._cursors.get(name)
        for request in found.run_requests or ():
            self._execute(request.job_name or REFRESH, request.asset_selection or (), request.tags[TRIGGER])

    def _tick_schedule(self, due: datetime) -> None:
        """Sunday at midnight."""
        schedule = self.repository.get_schedule_def(f"{MODEL}_weekly_refresh")
        doors = resources_for(self.here)
        with dg.build_schedule_context(self.instance, resources=doors, scheduled_execution_time=due) as context:
            found = schedule.evaluate_tick(context)
        for request in found.run_requests or ():
            self._execute(REFRESH, request.asset_selection or (), request.tags[TRIGGER])

    def _tell(self, week: int) -> None:
        """What the platform saw, decided and did in the week, and what it told people."""
        self._tick("alerts")
        new = self._ledger.after(self._read, 1_000)
        self._read = new[-1][0] if new else self._read
        self.weeks[week] = [entry for _, entry in new]
        self.told[week] = self.listener.take()
        for entry in self.weeks[week]:
            self.say(f"  {_heading(entry):<8} {entry.kind} {entry.outcome}: {_short(entry.reason)}")
        for title in self.told[week]:
            self.say(f"  told     {title}")

    @property
    def _ledger(self) -> DecisionLedger:
        return DecisionLedger(url=self.here.ledger_url)

    def _set_clock(self, now: datetime) -> None:
        Path(self.here.clock).write_text(now.isoformat(), encoding="utf-8")

    def _now(self) -> datetime:
        return datetime.fromisoformat(Path(self.here.clock).read_text(encoding="utf-8"))


def run(folder: Path, say: Callable[[str], None], story: Story | None = None) -> Demo:
    """The story has been told, and its timeline is in the folder as a picture.

    Args:
        folder: emptied first; everything of the demo is in it.
        say: how it is told; all other output goes into a file of the folder.
        story: what is injected, and when.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = _spec()
    say("Starting PostgreSQL, MLflow and the model server.")
    with (
        (folder / LOG).open("w", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
        listening() as listener,
        headless.running(folder / "state", clock=str(folder / "clock"), alert_urls=listener.url) as here,
        dg.DagsterInstance.local_temp(str(folder)) as instance,
    ):
        demo = Demo(
            here=here,
            spec=spec,
            instance=instance,
            world=World(here, story or Story()),
            begun=_last_sunday(),
            say=say,
            listener=listener,
            repository=definitions_for((spec,), here).get_repository_def(),
        )
        demo.run()
    entries = [entry for week in demo.weeks.values() for entry in week]
    end = demo.begun + WEEK * demo.world.story.weeks + DAY
    (folder / PICTURE).write_bytes(drawing.as_png(timeline.draw(MODEL, entries, end)))
    return demo


def tell(folder: Path, say: Callable[[str], None]) -> bool:
    """The demo has been told from beginning to end.

    Returns:
        Whether each thing happened as the story has it.
    """
    demo = run(folder, say)
    wrong = list(amiss(demo.world.story, demo.weeks, demo.told))
    say(f"\nThe timeline of all this: {folder / PICTURE}")
    for what in wrong:
        say(f"NOT AS TOLD: {what}")
    if not wrong:
        say("Each thing happened as told.")
    return not wrong


def _spec() -> ModelSpec:
    """The model's own, looked after by the week; only what is better replaces a champion, however old that is."""
    spec = of_catalogue(MODEL)
    return replace(
        spec,
        promotion=replace(spec.promotion, max_age=None),
        monitoring=MonitoringPolicy(cron="0 0 * * 5", window=WEEK, maturity=14 * DAY),
        retrain=RetrainPolicy(new_rows=5_000),
    )


def _last_sunday() -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - DAY * (today.isoweekday() % 7)


def _heading(entry: Entry) -> str:
    return "saw" if entry.kind in SAW else "did" if entry.kind in DID else "decided"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
