"""Scoring a whole table: by the command, by the asset, on a schedule, and only where somebody asked for it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from ml_platform import cli, settings
from ml_platform.automation.jobs import SCORE
from ml_platform.definitions import definitions_for
from ml_platform.modeling.spec import ModelSpec, Scoring, SpecError
from ml_platform.models.catalogue import model
from ml_platform_tests.platform import Platform

MODEL = "student_dropout"
SCORING = Scoring(table="students", into="student_scores")


@pytest.fixture(scope="module")
def refreshed(platform: Platform) -> Platform:
    """A platform with a live champion."""
    if platform.tracking.champion_version(MODEL) is None:
        assert platform.refresh(MODEL).success
    return platform


def _scored(spec: ModelSpec) -> ModelSpec:
    return replace(spec, scoring=SCORING)


def _command(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["score", *arguments])


def test_the_command_scores_every_row_as_the_endpoint_answers_it(refreshed: Platform) -> None:
    """It says how many, how fast, and where the results are."""
    refreshed.sql("create table some_students as select * from students")
    refreshed.sql("update some_students set lfaminc = 99 where student_id = (select min(student_id) from students)")

    done = _command(MODEL, "--from", "some_students", "--to", "some_scores")

    ((rows,),) = refreshed.sql("select count(*) from students")
    version = refreshed.tracking.champion_version(MODEL)
    assert done.exit_code == 0, done.output
    assert f"version {version} of {MODEL} answers some_students" in done.output
    assert f"{rows - 1:,} rows scored, 1 rejected (" in done.output
    assert "rows/s)" in done.output
    assert "  rejected  some_scores_rejected" in done.output
    names = list(refreshed.example(MODEL))
    found = refreshed.sql(
        f"select probability, label, model_version, {', '.join(names)} "
        "from some_scores join some_students using (student_id) order by student_id limit 50"
    )
    answer = refreshed.predict(MODEL, [dict(zip(names, inputs, strict=True)) for _, inputs in _split(found)])
    said = [
        (pytest.approx(a["probability"], abs=1e-6), a["label"], int(answer["version"])) for a in answer["predictions"]
    ]
    assert [scored for scored, _ in _split(found)] == said


def _split(rows: list[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """What was answered, and what was asked."""
    return [(row[:3], row[3:]) for row in rows]


def test_the_asset_scores_the_table_of_the_spec(refreshed: Platform) -> None:
    """Its metadata says what a person wants to know, with a picture of the answers."""
    spec = _scored(refreshed.spec(MODEL))

    result = refreshed.refresh(MODEL, ["scores"], job=SCORE, spec=spec)

    assert result.success, [e.message for e in result.all_events if e.is_failure]
    ((rows,),) = refreshed.sql("select count(*) from students")
    ((scored,),) = refreshed.sql("select count(*) from student_scores")
    said = refreshed.metadata(MODEL, "scores")
    assert (said["dagster/row_count"], said["rows_rejected"], scored) == (rows, 0, rows)
    assert (said["table"], said["rejected_table"]) == ("student_scores", "student_scores_rejected")
    assert str(said["version"]) == refreshed.tracking.champion_version(MODEL)
    assert said["rows_per_s"] > 0
    assert said["answers"].startswith("![answers](data:image/png;base64,")


def test_a_spec_that_asks_for_scores_has_their_asset_job_and_schedule_and_no_other_has() -> None:
    """Off by default."""
    without, having = (
        definitions_for((spec,), settings.load()).get_repository_def() for spec in (model(MODEL), _scored(model(MODEL)))
    )
    scores = dg.AssetKey([MODEL, "scores"])

    assert scores not in without.asset_graph.get_all_asset_keys()
    assert not without.has_job(SCORE)
    assert f"{MODEL}_scores" not in [s.name for s in without.schedule_defs]
    node, schedule = having.asset_graph.get(scores), having.get_schedule_def(f"{MODEL}_scores")
    assert (node.group_name, node.pools) == (MODEL, {f"{MODEL}_scores"})
    assert (schedule.cron_schedule, schedule.job_name) == ("0 5 * * *", SCORE)
    due = datetime(2026, 11, 29, 5, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        tick = schedule.evaluate_tick(dg.build_schedule_context(instance, scheduled_execution_time=due))
    (request,) = tick.run_requests or ()
    assert [key.path for key in request.asset_selection or ()] == [[MODEL, "scores"]]


def test_without_a_champion_the_way_to_one_is_named(refreshed: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has refreshed the model yet."""
    monkeypatch.setattr(
        "ml_platform.local.score.of_catalogue", lambda _: replace(refreshed.spec(MODEL), name="new_one")
    )

    done = _command("new_one", "--from", "students", "--to", "s")

    assert "new_one has no champion yet: run `ml-platform refresh new_one` first" in done.output


def test_a_wrong_schedule_is_refused_when_the_spec_is_read() -> None:
    """As every other cron line is."""
    with pytest.raises(SpecError, match=r"field scoring\.cron: write five cron fields"):
        replace(model(MODEL), scoring=replace(SCORING, cron="daily"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such_model", "--from", "students", "--to", "s"], "there is no model 'no_such_model'; the catalogue has"),
        ([MODEL, "--to", "s"], "say with --from TABLE what to score and where to: the spec of student_dropout has no"),
        ([MODEL, "--from", "students"], "say with --to TABLE"),
        ([MODEL, "--from", "studentz", "--to", "s"], "no table studentz in the source database: correct --from"),
        ([MODEL, "--from", "loan_applications", "--to", "s"], "name its key with --key"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(refreshed: Platform, arguments: list[str], said: str) -> None:
    """No traceback; the exit code says that it failed."""
    assert refreshed.tracking.champion_version(MODEL)

    done = _command(*arguments)

    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert said in done.output
    assert done.output.count("\n") == 1
