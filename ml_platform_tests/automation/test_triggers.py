"""What starts a refresh, asked directly: each trigger says what it wants, or why it wants nothing."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import msgspec
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from ml_platform.assets.drift_report import windows_per_year
from ml_platform.assets.lifecycle import ROOMS
from ml_platform.assets.raw_data import CURSOR, WATERMARK
from ml_platform.assets.realised_performance import DEGRADED
from ml_platform.automation.sensors import degraded_sensor, drift_sensor, new_data_sensor
from ml_platform.definitions import definitions_for, resources_for
from ml_platform.local import company
from ml_platform.modeling.decisions import Entry, Kind, Outcome
from ml_platform.modeling.spec import ModelSpec, QualityPolicy, RetrainPolicy
from ml_platform.modeling.splitting import Split
from ml_platform.resources.datasets import TableVersion
from ml_platform.resources.products import PRODUCT, Pulled, TrainedModel
from ml_platform.resources.source import SourceDatabase
from ml_platform_tests.platform import Platform

MODEL = "loan_approval"
OFF = dg.DefaultSensorStatus.STOPPED


@pytest.fixture(scope="module")
def pulled(platform: Platform) -> Platform:
    """The source table was pulled."""
    assert platform.refresh(MODEL, ["raw_data"]).success
    return platform


def _ask(platform: Platform, sensor: dg.SensorDefinition) -> dg.RunRequest | dg.SkipReason:
    with dg.build_sensor_context(platform.instance, resources=resources_for(platform.settings)) as context:
        answer = sensor(context)
    assert isinstance(answer, dg.RunRequest | dg.SkipReason)
    return answer


def test_new_rows_are_counted_up_to_the_threshold_of_the_spec(pulled: Platform) -> None:
    """One row too few, then one more; the same pull asks only once."""
    spec = pulled.spec(MODEL)
    sensor = new_data_sensor(replace(spec, retrain=replace(spec.retrain, new_rows=3)), OFF)
    company.arrive(pulled.settings.source_url, MODEL, 2, datetime.now(UTC))

    few = _ask(pulled, sensor)
    company.arrive(pulled.settings.source_url, MODEL, 1, datetime.now(UTC))
    enough, again = _ask(pulled, sensor), _ask(pulled, sensor)
    decided = pulled.ledger.history(MODEL)[0]

    assert isinstance(few, dg.SkipReason)
    assert few.skip_message == "2 of 3 rows are new or changed"
    assert isinstance(enough, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert [key.path for key in enough.asset_selection or ()] == [[MODEL, room] for room in ROOMS]
    assert enough.tags["ml_platform/trigger"].startswith("new data")
    assert enough.run_key == again.run_key == decided.key
    assert (decided.kind, decided.outcome, decided.reason) == (
        Kind.TRIGGER,
        Outcome.STARTED,
        "new data: 3 rows or more",
    )


@pytest.mark.parametrize("job", ["refresh", "__ASSET_JOB"])
def test_a_refresh_under_way_is_waited_for_whoever_started_it(pulled: Platform, job: str) -> None:
    """A sensor does not queue another behind a click in the asset graph, nor behind another sensor's run."""
    spec = pulled.spec(MODEL)
    sensor = new_data_sensor(replace(spec, retrain=replace(spec.retrain, new_rows=1)), OFF)
    pulled.refresh(MODEL, ["raw_data"])
    company.arrive(pulled.settings.source_url, MODEL, 1, datetime.now(UTC))
    definition = definitions_for((spec,), pulled.settings).resolve_job_def(job)
    clicked = pulled.instance.create_run_for_job(
        definition, asset_selection=frozenset({dg.AssetKey([MODEL, "trained_model"])})
    )
    try:
        answer = _ask(pulled, sensor)
    finally:
        pulled.instance.delete_run(clicked.run_id)

    assert isinstance(answer, dg.SkipReason)
    assert "under way" in (answer.skip_message or "")


def test_rows_that_were_pulled_and_not_learned_from_are_still_new(pulled: Platform) -> None:
    """Whatever became of the run that pulled them. One that failed is wished for again, as the governor allows."""
    spec = replace(pulled.spec(MODEL), name="slow_learner", retrain=RetrainPolicy(new_rows=3, cooldown=timedelta(0)))
    sensor = new_data_sensor(spec, OFF)
    _happened(pulled, spec, "trained_model", {PRODUCT: _learned_from_all(pulled, spec)})
    learned = _ask(pulled, sensor)
    company.arrive(pulled.settings.source_url, MODEL, 3, datetime.now(UTC))
    cursor, watermark = dg.MetadataValue.text(_read_all(pulled, spec).cursor), dg.MetadataValue.timestamp(time.time())
    _happened(pulled, spec, "raw_data", {CURSOR: cursor, WATERMARK: watermark})

    wish = _ask(pulled, sensor)
    assert isinstance(wish, dg.RunRequest)
    job = definitions_for((spec,), pulled.settings).resolve_job_def("refresh")
    pulled.instance.create_run_for_job(job, tags=dict(wish.tags), status=dg.DagsterRunStatus.FAILURE)
    again = _ask(pulled, sensor)
    wrong = replace(pulled.spec(MODEL), quality=QualityPolicy(min_rows=1_000_000))
    assert not pulled.refresh(
        MODEL, ["raw_data", "validated_data"], tags={"ml_platform/model": spec.name}, spec=wrong
    ).success
    hopeless = _ask(pulled, sensor)

    assert isinstance(hopeless, dg.SkipReason)
    assert "pulled them and failed" in (hopeless.skip_message or "")
    assert isinstance(learned, dg.SkipReason)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key != wish.run_key


def _happened(platform: Platform, spec: ModelSpec, room: str, metadata: dict[str, dg.MetadataValue]) -> None:
    platform.instance.report_runless_asset_event(dg.AssetMaterialization([spec.name, room], metadata=metadata))


def _read_all(platform: Platform, spec: ModelSpec) -> Pulled:
    with SourceDatabase(url=platform.settings.source_url).pull(spec.source, None) as pull:
        return Pulled(cursor=pull.cursor.dumps(), watermark=datetime.now(UTC))


def _learned_from_all(platform: Platform, spec: ModelSpec) -> dg.MetadataValue:
    """What a training leaves behind that knew every row of the table."""
    so_far = _read_all(platform, spec)
    validated = TableVersion(name=f"{spec.name}/validated_data", version=1, rows=1)
    product = TrainedModel(
        run_id="of MLflow",
        digest="of the bundle",
        split=Split(column="application_id", share=0.2),
        validated=validated,
        as_of=None,
        pulled=so_far,
    )
    return dg.MetadataValue.json(msgspec.to_builtins(product))


def test_a_model_that_was_never_pulled_waits_for_its_first_refresh(platform: Platform) -> None:
    """A sensor does not start what nobody has started."""
    spec = replace(platform.spec(MODEL), name="never_pulled")

    assert isinstance(_ask(platform, new_data_sensor(spec, OFF)), dg.SkipReason)
    assert isinstance(_ask(platform, drift_sensor(spec, OFF)), dg.SkipReason)


def test_a_broken_promise_is_a_wish_to_retrain(pulled: Platform) -> None:
    """The newest look counts, and asks only once."""
    spec = replace(pulled.spec(MODEL), name="degraded_model")
    looks = []
    for degraded in (True, False):
        at = dg.AssetMaterialization([spec.name, "realised_performance"], metadata={DEGRADED: degraded})
        pulled.instance.report_runless_asset_event(at)
        looks.append([_ask(pulled, degraded_sensor(spec, OFF)) for _ in range(2)])
    (wish, again), (kept, _) = looks

    assert isinstance(wish, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert (wish.tags["ml_platform/trigger"], wish.run_key) == ("degraded", again.run_key)
    assert isinstance(kept, dg.SkipReason)


@pytest.mark.parametrize(("cron", "windows"), [("0 6 * * *", 365), ("0 * * * *", 8760), ("0 0 * * 0", 52)])
def test_a_false_alarm_a_year_is_spread_over_the_windows_that_a_year_has(cron: str, windows: int) -> None:
    """Counted from the schedule."""
    assert windows_per_year(cron, datetime(2026, 1, 1, tzinfo=UTC)) == pytest.approx(windows, rel=0.002)


def test_a_database_that_does_not_answer_is_a_reason_to_wait(pulled: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tick is skipped in words, without the password."""
    monkeypatch.setenv("ML_PLATFORM_SOURCE_URL", "postgresql://who:secret@127.0.0.1:1/company")

    answer = _ask(pulled, new_data_sensor(pulled.spec(MODEL), OFF))

    assert isinstance(answer, dg.SkipReason)
    assert "127.0.0.1:1" in (answer.skip_message or "")
    assert "secret" not in (answer.skip_message or "")


def test_automation_is_on_only_where_it_is_wanted(platform: Platform) -> None:
    """`ML_PLATFORM_AUTOMATION=off` leaves schedules and sensors stopped."""
    for automation, status in (("on", "RUNNING"), ("off", "STOPPED")):
        here = replace(platform.settings, automation=automation)
        repository = definitions_for((platform.spec(MODEL),), here).get_repository_def()

        assert {s.default_status.value for s in repository.sensor_defs} == {status}
        assert {s.default_status.value for s in repository.schedule_defs} == {status}


def test_the_weekly_schedule_asks_for_the_whole_corridor(platform: Platform) -> None:
    """Sunday midnight, once per tick, and the run says why it exists."""
    weekly = _weekly(platform)
    due = datetime(2026, 11, 29, tzinfo=UTC)

    tick = _tick(platform, weekly, due)

    (request,) = tick.run_requests or ()
    assert weekly.cron_schedule == "0 0 * * 0"
    assert [key.path for key in request.asset_selection or ()] == [[MODEL, room] for room in ROOMS]
    assert due.isoformat() in (request.run_key or "")
    assert request.tags["ml_platform/trigger"] == "schedule weekly_refresh"


def test_what_the_governor_refuses_starts_nothing_and_is_in_the_ledger(pulled: Platform) -> None:
    """A paused model: the tick says who paused it and why."""
    paused = Entry(
        key="pause", at=datetime.now(UTC), model=MODEL, kind=Kind.AUTOMATION, outcome=Outcome.PAUSED, reason="audit",
        actor="ada",
    )  # fmt: skip
    weekly = _weekly(pulled)
    pulled.ledger.record(paused)
    try:
        tick = _tick(pulled, weekly, datetime(2026, 12, 6, tzinfo=UTC))
    finally:
        pulled.ledger.record(replace(paused, key="resume", outcome=Outcome.RESUMED))

    assert not tick.run_requests
    assert tick.skip_message == "refused: the weekly refresh is due; but ada paused the model: audit"
    refused = next(e for e in pulled.ledger.history(MODEL) if e.outcome is Outcome.REFUSED)
    assert refused.reason in tick.skip_message


def _weekly(platform: Platform) -> dg.ScheduleDefinition:
    """The schedule of a model that needs no rest between refreshes."""
    spec = platform.spec(MODEL)
    restless = replace(spec, retrain=replace(spec.retrain, cooldown=timedelta(0), weekly_budget=1000))
    repository = definitions_for((restless,), platform.settings).get_repository_def()
    return repository.get_schedule_def(f"{MODEL}_weekly_refresh")


def _tick(platform: Platform, schedule: dg.ScheduleDefinition, due: datetime) -> ScheduleExecutionData:
    doors = resources_for(platform.settings)
    with dg.build_schedule_context(platform.instance, resources=doors, scheduled_execution_time=due) as context:
        return schedule.evaluate_tick(context)
