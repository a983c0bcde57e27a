"""The corridor: from a table to live answers, what each room leaves behind, and how each one says no."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import numpy as np
import pandas as pd
import psycopg
import pytest
from mlflow.entities import Dataset, Run

from ml_platform.assets import room as rooms
from ml_platform.automation.jobs import DRIFT, PERFORMANCE, SYNC
from ml_platform.local import company
from ml_platform.modeling import bundle, gate, performance
from ml_platform.modeling.candidate import prepare
from ml_platform.modeling.decisions import Kind, Outcome
from ml_platform.modeling.drift.decision import State
from ml_platform.modeling.spec import ModelSpec, QualityPolicy
from ml_platform.modeling.training import ModelCode
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.tracking import CHAMPION, DAGSTER_RUN, REFUSED
from ml_platform.resources.training_log import Origin, log_rows
from ml_platform.resources.unavailable import UnavailableError
from ml_platform.serving.prediction_table import Prediction, PredictionTable
from ml_platform_tests.platform import Platform

LOANS, STUDENTS = "loan_approval", "student_dropout"
LAST_ROOMS = ("registered_model", "image", "deployment")


@pytest.fixture(scope="module")
def refreshed(platform: Platform) -> Platform:
    """A platform on which both demo models are live."""
    for model in (LOANS, STUDENTS):
        assert _errors(platform.refresh(model)) == []
    return platform


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    """Why rooms failed, in the words a user reads."""
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return [
        str(f.user_failure_data.description if f.user_failure_data else f.error and (f.error.cause or f.error).message)
        for f in failures
    ]


def _materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key}


def _arrive(platform: Platform, model: str, rows: int) -> None:
    assert company.arrive(platform.settings.source_url, model, rows, datetime.now(UTC)) == rows


def _champion(platform: Platform, model: str) -> str:
    version = platform.tracking.champion_version(model)
    assert version is not None
    return version


@pytest.mark.parametrize("model", [LOANS, STUDENTS])
def test_a_refresh_ends_with_live_answers_of_the_champion(refreshed: Platform, model: str) -> None:
    """The version that answers is the one the champion alias names."""
    answer = refreshed.predict(model, [refreshed.example(model)])

    assert answer["version"] == _champion(refreshed, model)
    assert 0 <= answer["predictions"][0]["probability"] <= 1


@pytest.mark.parametrize(("model", "low", "high"), [(LOANS, 0.65, 0.88), (STUDENTS, 0.62, 0.8)])
def test_the_scores_are_good_but_not_too_good(refreshed: Platform, model: str, low: float, high: float) -> None:
    """A much higher score than a careful analyst reached would be a leak."""
    champion = refreshed.tracking.version_with_alias(model, CHAMPION)
    assert champion is not None
    assert low < refreshed.tracking.run(champion.run_id).data.metrics["gate_roc_auc"] < high


def test_every_room_says_what_it_did(refreshed: Platform) -> None:
    """Numbers under stable names, pictures inline, links that can be followed."""
    raw, trained = refreshed.metadata(LOANS, "raw_data"), refreshed.metadata(LOANS, "trained_model")
    deployed, judged = refreshed.metadata(LOANS, "deployment"), refreshed.metadata(LOANS, "evaluation")

    ((at_source,),) = refreshed.sql("select count(*) from loan_applications")
    assert raw["dagster/row_count"] == at_source
    assert {"rows_new", "rows_updated", "rows_deleted", "watermark", "table_version", "preview"} <= raw.keys()
    assert {c.name for c in raw["dagster/column_schema"].columns} >= {"application_id", "approve", "updated_at"}
    assert trained["pictures"].count("data:image/png;base64,") >= 4
    assert trained["mlflow_run"].startswith(refreshed.settings.mlflow_url)
    assert deployed["registered_version"].endswith(f"/models/{LOANS}/versions/{deployed['version']}")
    assert judged["decision"] == "promote"
    assert {record.data["slice"] for record in judged["slices"].records} >= {"male=0", "male=1"}


def test_mlflow_has_everything_a_person_needs_to_judge_a_run(refreshed: Platform) -> None:
    """Params, metrics, plots, data version, code revision, bundle with golden rows, signature and input example."""
    client = refreshed.tracking.client
    champion = refreshed.tracking.version_with_alias(LOANS, CHAMPION)
    assert champion is not None
    run = client.get_run(champion.run_id)
    model = mlflow.models.get_model_info(f"models:/{LOANS}@champion")

    at, _, made_by = run.info.run_name.rpartition(" ")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(f"{at}+00:00")) < timedelta(hours=1)
    assert made_by == run.data.tags[DAGSTER_RUN][:8]
    assert run.data.params["seed"] == str(refreshed.spec(LOANS).seed)
    assert "holdout_roc_auc" in run.data.metrics
    assert {a.path for a in client.list_artifacts(champion.run_id, "plots")} >= {
        "plots/roc_pr.png",
        "plots/calibration.png",
    }
    assert {"ml_platform.data_version", "ml_platform.code_revision", "ml_platform.bundle"} <= run.data.tags.keys()
    assert model.signature is not None
    assert model.saved_input_example_info is not None


def test_mlflow_names_the_table_and_its_version_that_a_run_used(refreshed: Platform) -> None:
    """The rows trained on and the held-out ones are datasets of their own; the run is found by them."""
    client = refreshed.tracking.client
    champion = refreshed.tracking.version_with_alias(LOANS, CHAMPION)
    assert champion is not None
    run = client.get_run(champion.run_id)
    table, version = run.data.tags["ml_platform.table"], int(run.data.tags["ml_platform.table_version"])
    used = _datasets(run)
    rows = {context: json.loads(data.profile or "")["num_rows"] for context, data in used.items()}

    stored = DatasetStore(root=refreshed.settings.datasets).read(table, version)
    assert used.keys() == {"training", "evaluation"}
    assert {data.name for data in used.values()} == {table} == {f"{LOANS}/features"}
    assert rows["training"] == int(run.data.params["rows_trained"])
    assert rows["evaluation"] == run.data.metrics["rows_held_out"]
    assert sum(rows.values()) == stored["label"].count()
    for data in used.values():
        source = mlflow.data.get_source(data).to_dict()
        assert source["path"] == f"{refreshed.settings.datasets}/{table}"
        assert json.loads(data.source)["delta_table_version"] == version
        columns = json.loads(data.schema or "")["mlflow_colspec"]
        assert {c["name"]: c["type"] for c in columns} == {name: str(kind) for name, kind in stored.schema.items()}
    assert used["training"].digest == f"v{version}-{run.data.tags['ml_platform.data_version'][:16]}"
    assert used["evaluation"].digest != used["training"].digest
    wanted = f"dataset.name = '{table}' and dataset.digest = '{used['training'].digest}'"
    assert champion.run_id in {r.info.run_id for r in client.search_runs([run.info.experiment_id], wanted)}


def test_mlflow_never_hears_the_password_of_an_object_store(refreshed: Platform) -> None:
    """Wherever the datasets are."""
    datasets, code = DatasetStore(root=refreshed.settings.datasets), ModelCode.of(refreshed.spec(LOANS))
    features, validated = datasets.latest(f"{LOANS}/features"), datasets.latest(f"{LOANS}/validated_data")
    assert features
    assert validated
    material = prepare(code, datasets.read(features.name), datasets.read(validated.name))
    mlflow.set_tracking_uri(refreshed.settings.mlflow_url)
    mlflow.set_experiment("elsewhere")

    with mlflow.start_run() as run:
        origin = Origin(table=features, root="s3://key:secret@bucket/datasets", recipe="")
        log_rows(mlflow, refreshed.tracking, code, material, origin)

    used = _datasets(refreshed.tracking.run(run.info.run_id))
    paths = {json.loads(data.source)["path"] for data in used.values()}
    assert paths == {f"s3://key@bucket/datasets/{LOANS}/features"}


def _datasets(run: Run) -> dict[str, Dataset]:
    """What an MLflow run used, by what for."""
    assert run.inputs
    return {used.tags[0].value: used.dataset for used in run.inputs.dataset_inputs}


@pytest.mark.parametrize("model", [LOANS, STUDENTS])
def test_mlflow_loads_the_champion_and_answers_raw_rows_as_the_endpoint_does(refreshed: Platform, model: str) -> None:
    """`models:/NAME@champion` is the same model."""
    champion = refreshed.tracking.version_with_alias(model, CHAMPION)
    assert champion is not None
    folder = Path(refreshed.settings.bundles) / champion.digest
    rows = list(bundle.read_golden(folder, champion.digest).rows)

    mlflow.set_tracking_uri(refreshed.settings.mlflow_url)
    loaded = mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(pd.DataFrame(rows))

    answered = [p["probability"] for p in refreshed.predict(model, rows)["predictions"]]
    np.testing.assert_allclose(loaded["probability"], answered, atol=1e-9)


def test_nothing_new_trains_nothing_and_is_green(refreshed: Platform) -> None:
    """The same rows, code and seed are the same model."""
    before = refreshed.metadata(LOANS, "trained_model")["mlflow_run"]

    result = refreshed.refresh(LOANS)

    assert _errors(result) == []
    assert _materialized(result) & set(LAST_ROOMS) == set()
    assert refreshed.metadata(LOANS, "trained_model")["mlflow_run"] == before
    assert "nothing new to learn" in refreshed.metadata(LOANS, "evaluation")["reason"]


def test_a_challenger_that_loses_leaves_the_champion_and_a_green_run(refreshed: Platform) -> None:
    """It must be better by more than any model can be."""
    _arrive(refreshed, STUDENTS, 10)
    spec = refreshed.spec(STUDENTS)
    champion = _champion(refreshed, STUDENTS)

    result = refreshed.refresh(STUDENTS, spec=replace(spec, promotion=replace(spec.promotion, min_improvement=1.0)))

    assert _errors(result) == []
    assert _materialized(result) & set(LAST_ROOMS) == set()
    assert refreshed.metadata(STUDENTS, "evaluation")["decision"] == "keep the champion"
    assert _champion(refreshed, STUDENTS) == champion


def test_a_past_week_is_trained_and_never_promoted(refreshed: Platform) -> None:
    """`--as-of`: fewer rows, a decision, and nothing after it."""
    moment = datetime.now(UTC) - timedelta(days=120)
    champion = _champion(refreshed, LOANS)

    result = refreshed.refresh(LOANS, tags={rooms.AS_OF: moment.date().isoformat()})

    assert _errors(result) == []
    assert refreshed.metadata(LOANS, "validated_data")["dagster/row_count"] < 1200
    assert _materialized(result) & set(LAST_ROOMS) == set()
    assert _champion(refreshed, LOANS) == champion
    assert refreshed.metadata(LOANS, "evaluation")["decision"] == "keep the champion"
    assert "no champion yet" not in refreshed.metadata(LOANS, "evaluation")["reason"]


def test_only_what_is_past_can_be_gone_back_to(refreshed: Platform) -> None:
    """A day to come, and rows without a time, are refused: both would be all rows under a wrong name."""
    spec = refreshed.spec(LOANS)
    timeless = replace(spec, source=replace(spec.source, event_time=None, changed_at=None))

    to_come = refreshed.refresh(LOANS, ["raw_data"], tags={rooms.AS_OF: "2199-01-01"})
    no_time = refreshed.refresh(LOANS, ["raw_data"], tags={rooms.AS_OF: "2020-01-01"}, spec=timeless)

    assert _errors(to_come) == ["2199-01-01 is not past yet: --as-of takes a past day"]
    assert "have no time: name event_time or changed_at" in _errors(no_time)[0]


def test_bad_rows_are_kept_aside_with_the_reason(refreshed: Platform) -> None:
    """A few bad rows do not stop a refresh; column, rule and value are in the quarantine table."""
    refreshed.sql("update loan_applications set mortg = 9 where application_id in (1, 2)")

    result = refreshed.refresh(LOANS, ["raw_data", "validated_data"])

    assert _errors(result) == []
    metadata = refreshed.metadata(LOANS, "validated_data")
    assert metadata["rows_quarantined"] == 2
    assert {record.data["key"] for record in metadata["quarantine"].records} == {"1", "2"}
    kept = DatasetStore(root=refreshed.settings.datasets).read(f"{LOANS}/quarantine")
    assert kept["failures"].to_list()[0][0]["column"] == "mortg"
    assert kept["failures"].to_list()[0][0]["value"] == "9"
    refreshed.sql("update loan_applications set mortg = 2 where application_id in (1, 2)")


@pytest.mark.parametrize(
    ("check", "quality"),
    [
        ("volume", QualityPolicy(min_rows=1_000_000)),
        ("source_freshness", QualityPolicy(max_source_age=timedelta(minutes=1))),
    ],
)
def test_a_failed_check_stops_the_refresh_before_training(
    refreshed: Platform, tmp_path: Path, check: str, quality: QualityPolicy
) -> None:
    """The run is red, the check says why, and nothing after it ran. An hour has passed since the last row."""
    clock = tmp_path / "clock"
    clock.write_text((datetime.now(UTC) + timedelta(hours=1)).isoformat())
    later = replace(refreshed, settings=replace(refreshed.settings, clock=str(clock)))

    result = later.refresh(LOANS, spec=replace(refreshed.spec(LOANS), quality=quality))

    evaluations = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert not result.success
    assert [name for name, passed in evaluations.items() if not passed] == [check]
    assert _materialized(result) == {"raw_data", "validated_data"}


def test_too_many_bad_rows_stop_the_refresh(refreshed: Platform) -> None:
    """The tolerance is in the spec, and a click on a later room does not get round it."""
    refreshed.sql("update loan_applications set mortg = mortg + 100 where application_id % 10 = 0")

    result = refreshed.refresh(LOANS, ["raw_data", "validated_data", "features"])

    evaluations = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert not evaluations["quarantine_share"]
    assert "features" not in _materialized(result)
    (refusal,) = _errors(refreshed.refresh(LOANS, ["features"]))
    assert f"{LOANS}/validated_data did not pass quarantine_share" in refusal
    refreshed.sql("update loan_applications set mortg = mortg - 100 where application_id % 10 = 0")


def test_a_column_that_vanished_is_named(refreshed: Platform) -> None:
    """The schema check fails with the column and the remedy; the pull itself tells what changed."""
    refreshed.sql("alter table students rename column lfaminc to income")

    result = refreshed.refresh(STUDENTS, ["raw_data", "validated_data"])

    refreshed.sql("alter table students rename column income to lfaminc")
    assert any("columns missing from the table: lfaminc" in error for error in _errors(result))
    assert [e.passed for e in result.get_asset_check_evaluations() if e.check_name == "schema"] == [False]
    assert "lfaminc" in refreshed.metadata(STUDENTS, "raw_data")["schema_changes"]
    assert _errors(refreshed.refresh(STUDENTS, ["raw_data", "validated_data", "features"])) == []


def test_rows_deleted_at_the_source_are_found_by_the_full_sync(refreshed: Platform) -> None:
    """The job counts them; an ordinary pull cannot see them."""
    (row,) = refreshed.sql("delete from students where student_id = (select min(student_id) from students) returning 1")
    assert row == (1,)

    assert refreshed.refresh(STUDENTS, ["raw_data"]).success
    ordinary = refreshed.metadata(STUDENTS, "raw_data")["rows_deleted"]
    assert refreshed.refresh(STUDENTS, ["raw_data"], job=SYNC).success

    assert (ordinary, refreshed.metadata(STUDENTS, "raw_data")["rows_deleted"]) == (0, 1)


def test_a_registered_winner_goes_live_with_the_next_refresh_without_training_again(refreshed: Platform) -> None:
    """Its deployment did not finish: it goes first, even though newer rows have arrived."""
    _arrive(refreshed, STUDENTS, 10)
    refreshed.tracking.client.delete_registered_model_alias(STUDENTS, CHAMPION)
    first = refreshed.refresh(
        STUDENTS, ["raw_data", "validated_data", "features", "trained_model", "evaluation", "registered_model"]
    )
    assert _errors(first) == []
    waiting = refreshed.metadata(STUDENTS, "registered_model")["version"]
    runs = len(_training_runs(refreshed, STUDENTS))
    _arrive(refreshed, STUDENTS, 10)

    result = refreshed.refresh(STUDENTS)

    assert _errors(result) == []
    assert _champion(refreshed, STUDENTS) == str(waiting)
    assert refreshed.predict(STUDENTS, [refreshed.example(STUDENTS)])["version"] == str(waiting)
    assert len(_training_runs(refreshed, STUDENTS)) == runs


def _training_runs(platform: Platform, model: str) -> list[Any]:
    experiment = platform.tracking.client.get_experiment_by_name(model)
    assert experiment is not None
    return list(platform.tracking.client.search_runs([experiment.experiment_id], "tags.`ml_platform.model_uri` != ''"))


def test_a_winner_that_answers_differently_is_refused_for_good(
    refreshed: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old colour keeps answering, the alias does not move, and the next refresh does not try it again."""
    _arrive(refreshed, STUDENTS, 10)
    champion = _champion(refreshed, STUDENTS)
    spec = refreshed.spec(STUDENTS)
    eager = replace(spec, promotion=replace(spec.promotion, floor=0.0))
    monkeypatch.setattr("ml_platform.resources.judging.decide", lambda s, h, c, *_, **__: gate.decide(s, h, c, None))
    with monkeypatch.context() as lying:
        lying.setattr("ml_platform.modeling.promotion.differences", lambda *_: ["golden row 0: not the same"])
        result = refreshed.refresh(STUDENTS, spec=eager)
    refused = refreshed.metadata(STUDENTS, "registered_model")["version"]

    assert any("answered differently from training time" in error for error in _errors(result))
    assert refreshed.predict(STUDENTS, [refreshed.example(STUDENTS)])["version"] == champion
    assert _champion(refreshed, STUDENTS) == champion
    assert REFUSED in refreshed.tracking.client.get_model_version(STUDENTS, str(refused)).tags
    assert refreshed.tracking.pending(STUDENTS) is None


def test_a_door_that_does_not_answer_is_tried_again_and_a_wrong_answer_is_not(
    refreshed: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model server is away twice, then there."""
    monkeypatch.setattr(rooms, "FIRST_WAIT_S", 0.01)
    observe, tries = LocalServing.observe, []

    def away_twice(self: LocalServing, model: str) -> Any:
        tries.append(model)
        if len(tries) < 3:
            msg = "the model server cannot be reached"
            raise UnavailableError(msg)
        return observe(self, model)

    monkeypatch.setattr(LocalServing, "observe", away_twice)

    result = refreshed.refresh(LOANS, ["deployment"])

    assert _errors(result) == []
    assert len(tries) == 3


def test_no_traffic_is_a_state_and_drift_is_found_in_the_served_requests(refreshed: Platform) -> None:
    """The report opens from its link; what was decided, on which rows and how, is on it and in the ledger."""
    spec = refreshed.spec(LOANS)
    assert _errors(refreshed.refresh(LOANS, ["drift_report"], job=DRIFT)) == []
    assert refreshed.metadata(LOANS, "drift_report")["state"] in (State.NO_TRAFFIC, State.TOO_FEW_ROWS)
    assert refreshed.ledger.history(LOANS)[0].outcome is Outcome.UNKNOWN

    row = refreshed.example(LOANS)
    rows = [row | {"loanamt": 5000 + i, "price": 9000.0 + i, "hrat": 90.0, "obrat": 95.0} for i in range(600)]
    refreshed.predict(LOANS, rows)
    _wait_for_the_log(refreshed, spec.name, len(rows))
    result = refreshed.refresh(LOANS, ["drift_report"], job=DRIFT)

    assert _errors(result) == []
    found = refreshed.metadata(LOANS, "drift_report")
    assert (found["state"], found["drifted"]) == (State.DRIFTED, True)
    assert found["rows"] >= len(rows)
    assert found["window_end"] - found["window_start"] == spec.monitoring.window.total_seconds()
    assert found["basis"]["false_alarm_rate"] == pytest.approx(1 / 365)
    alarms = [record.data["reason"] for record in found["alarms"].records]
    assert any("loanamt" in reason for reason in alarms)
    assert any("probability" in reason for reason in alarms)
    decided = refreshed.ledger.history(LOANS)[0]
    assert (decided.kind, decided.outcome, decided.reason) == (Kind.DRIFT, Outcome.DRIFTED, found["reason"])
    run, artifact = found["report"].partition("/runs/")[2].split("/artifacts/")
    assert alarms[0] in Path(refreshed.tracking.client.download_artifacts(run, artifact)).read_text()


def test_requests_that_stop_coming_are_a_state_of_their_own(refreshed: Platform, tmp_path: Path) -> None:
    """After a week of a hundred rows a day, a day without any is no ordinary silence, and no drift."""
    start, clock = datetime.now(UTC) + timedelta(days=100), tmp_path / "clock"
    asked = [
        Prediction(
            request_id=f"{day}-{number}",
            row=0,
            at_us=int((start + timedelta(days=day)).timestamp() * 1e6),
            model=LOANS,
            version=_champion(refreshed, LOANS),
            colour="blue",
            key=None,
            inputs=b"{}",
            output=b"{}",
            latency_us=1,
        )
        for day in range(7)
        for number in range(100)
    ]
    table = PredictionTable(refreshed.settings.platform_url)
    assert table.insert(asked) == (len(asked), [])
    table.close()
    clock.write_text((start + timedelta(days=7, hours=12)).isoformat())
    later = replace(refreshed, settings=replace(refreshed.settings, clock=str(clock)))

    assert _errors(later.refresh(LOANS, ["drift_report"], job=DRIFT)) == []

    found = refreshed.metadata(LOANS, "drift_report")
    assert (found["state"], found["drifted"], found["rows"]) == (State.TRAFFIC_STOPPED, False, 0)
    assert "100 are usual" in found["reason"]


def test_outcomes_are_held_against_the_promise_once_they_are_final(refreshed: Platform) -> None:
    """Not without keys, not before they are final; as promised when they are; degraded when they turn out otherwise."""
    spec = refreshed.spec(STUDENTS)
    columns = refreshed.example(STUDENTS).keys()
    rows = refreshed.sql(
        f"select {', '.join(columns)}, student_id from students where hsgrad <> '.' order by student_id"
    )
    asked, keys = [dict(zip(columns, row, strict=False)) for row in rows[:900]], [str(row[-1]) for row in rows[:900]]
    early = _outcomes(refreshed, spec)
    refreshed.predict(STUDENTS, asked[:1])
    _wait_for_the_log(refreshed, STUDENTS, 1)
    final = replace(spec, monitoring=replace(spec.monitoring, maturity=timedelta(0)))
    without_keys = _outcomes(refreshed, final)

    refreshed.predict(STUDENTS, asked, keys)
    _wait_for_the_log(refreshed, STUDENTS, len(asked) + 1)
    young, known = _outcomes(refreshed, spec), _outcomes(refreshed, final)
    refreshed.sql("update students set hsgrad = translate(hsgrad, '01', '10')")
    turned = _outcomes(refreshed, final)
    decided = refreshed.ledger.history(STUDENTS)[0]
    refreshed.sql("update students set hsgrad = translate(hsgrad, '01', '10')")

    assert early["state"] == young["state"] == performance.State.NOT_ENOUGH_LABELS
    assert without_keys["state"] == performance.State.NO_KEYS
    assert (known["state"], known["labelled"], known["degraded"]) == (performance.State.OK, len(asked), False)
    assert known["realised_low"] < known["realised"] < known["realised_high"]
    assert {record.data["slice"] for record in known["slices"].records} >= {"female=0", "female=1"}
    assert "data:image/png;base64," in known["picture"]
    assert (turned["state"], turned["degraded"]) == (performance.State.DEGRADED, True)
    assert turned["realised"] == pytest.approx(1 - known["realised"])
    assert (decided.kind, decided.outcome, decided.reason) == (Kind.PERFORMANCE, Outcome.DEGRADED, turned["reason"])


def _outcomes(platform: Platform, spec: ModelSpec) -> dict[str, Any]:
    """What the look at outcomes says."""
    assert _errors(platform.refresh(spec.name, ["realised_performance"], job=PERFORMANCE, spec=spec)) == []
    return platform.metadata(spec.name, "realised_performance")


def _wait_for_the_log(platform: Platform, model: str, rows: int) -> None:
    """The prediction log is written in the background; it says so in the database."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(psycopg.errors.UndefinedTable), psycopg.connect(platform.settings.platform_url) as connection:
            found = connection.execute("select count(*) from predictions where model = %s", (model,)).fetchone()
            if found and found[0] >= rows:
                return
        time.sleep(0.1)
    pytest.fail("the served requests did not reach the prediction log")
