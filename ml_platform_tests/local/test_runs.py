"""What happens in a run is told in plain words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from ml_platform.assets.lifecycle import lifecycle
from ml_platform.local.processes import PlatformError, free_port
from ml_platform.local.runs import ROOMS, DagsterPage, Run, Story
from ml_platform.modeling.spec import Scoring
from ml_platform.models.catalogue import model


@pytest.fixture
def story() -> Story:
    """Nothing has been told yet of a refresh."""
    return Story(Run(id="1", job="refresh", status="STARTED", models=("loan_approval",)))


def told(story: Story, kind: str, at: float, room: str = "raw_data", **more: object) -> list[str]:
    """What the story makes of one event, `at` seconds after the beginning of time."""
    event: Mapping[str, Any] = {
        "__typename": kind,
        "stepKey": f"loan_approval__{room}",
        "timestamp": f"{at * 1000}",
        "message": "",
        **more,
    }
    return [str(one) for one in story.tell(event)]


def test_a_room_is_told_with_its_time_and_its_rows(story: Story) -> None:
    """The two numbers that say whether it did what one expects."""
    key = {"path": ["loan_approval", "raw_data"]}
    rows = [{"label": "dagster/row_count", "intValue": 1989}]

    assert told(story, "ExecutionStepStartEvent", 10) == []
    assert told(story, "MaterializationEvent", 11.2, assetKey=key, metadataEntries=rows) == [
        "loan_approval: raw_data ok (1.2 s, 1,989 rows)"
    ]
    assert told(story, "ExecutionStepSuccessEvent", 11.3) == []


def test_a_room_that_made_nothing_is_told(story: Story) -> None:
    """The challenger lost: that is no failure."""
    told(story, "ExecutionStepStartEvent", 10, "registered_model")

    assert told(story, "ExecutionStepSuccessEvent", 10.5, "registered_model") == [
        "loan_approval: registered_model has nothing to do (0.5 s)"
    ]


def test_a_failed_room_is_told_with_the_cause_at_the_bottom(story: Story) -> None:
    """Dagster wraps the error that matters."""
    told(story, "ExecutionStepStartEvent", 10)
    error = {"message": "DagsterExecutionStepExecutionError\n", "causes": [{"message": "ValueError: no rows\n  at x"}]}

    assert told(story, "ExecutionStepFailureEvent", 12, error=error) == [
        "loan_approval: raw_data FAILED (2.0 s): ValueError: no rows"
    ]


def test_a_check_is_told_only_when_it_does_not_pass(story: Story) -> None:
    """With its name and what it found."""
    evaluation = {
        "assetKey": {"path": ["loan_approval", "validated_data"]},
        "checkName": "volume",
        "success": False,
        "severity": "ERROR",
        "description": None,
        "metadataEntries": [
            {"label": "at_least", "intValue": 1200},
            {"label": "columns", "text": "a, b"},
            {"label": "share", "floatValue": 0.123456},
            {"label": "table"},
        ],
    }

    assert told(story, "AssetCheckEvaluationEvent", 10, evaluation={**evaluation, "success": True}) == []
    assert told(story, "AssetCheckEvaluationEvent", 10, evaluation=evaluation) == [
        "loan_approval: validated_data did not pass: volume (at least 1,200, columns: a, b, share 0.1235)"
    ]


def test_what_a_check_bars_is_not_told_a_second_time(story: Story) -> None:
    """Dagster's failure of the room says less than the check did."""
    evaluation = {
        "assetKey": {"path": ["loan_approval", "raw_data"]},
        "checkName": "schema",
        "success": False,
        "severity": "ERROR",
        "description": None,
        "metadataEntries": [{"label": "reason", "text": "there is no column income"}],
    }
    failed = {
        "message": "DagsterAssetCheckFailedError: 1 blocking asset check failed with ERROR severity:\n",
        "causes": [],
    }

    said = told(story, "AssetCheckEvaluationEvent", 10, evaluation=evaluation)

    assert said == ["loan_approval: raw_data did not pass: schema (there is no column income)"]
    assert told(story, "ExecutionStepFailureEvent", 10.1, error=failed) == []
    assert told(story, "ExecutionStepFailureEvent", 10.1, "features", error=failed) != []


def test_a_check_that_warns_bars_nothing(story: Story) -> None:
    """An error of the room is told all the same."""
    evaluation = {
        "assetKey": {"path": ["loan_approval", "raw_data"]},
        "checkName": "volume",
        "success": False,
        "severity": "WARN",
        "description": "few rows",
        "metadataEntries": [],
    }
    error = {"message": "ValueError: no", "causes": []}

    said = told(story, "AssetCheckEvaluationEvent", 10, evaluation=evaluation)

    assert said == ["loan_approval: raw_data warns: volume (few rows)"]
    assert told(story, "ExecutionStepFailureEvent", 10, error=error) == [
        "loan_approval: raw_data FAILED: ValueError: no"
    ]
    assert story.obstacles == {"loan_approval": "raw_data FAILED: ValueError: no"}


def test_a_challenger_that_lost_is_told_with_the_reason(story: Story) -> None:
    """And kept, for whoever wonders later why the model is not live."""
    why = "roc_auc 0.5500 misses the floor of 0.6500"

    assert _judged(story, "keep the champion", why) == [f"loan_approval: evaluation ok (0.5 s): not promoted: {why}"]
    assert story.obstacles == {"loan_approval": f"not promoted: {why}"}


def test_a_winner_is_told_as_one(story: Story) -> None:
    """With what it won by; nothing stands in its way."""
    why = "roc_auc 0.7000 meets the floor of 0.6500, and there is no champion yet"

    assert _judged(story, "promote", why) == [f"loan_approval: evaluation ok (0.5 s): won: {why}"]
    assert story.obstacles == {}


def test_a_winner_that_waits_says_for_whom(story: Story) -> None:
    """Otherwise a green run would leave nothing live without a word."""
    key, waits = {"path": ["loan_approval", "registered_model"]}, [{"label": "waits_for", "text": "a person"}]

    said = told(story, "MaterializationEvent", 10, "registered_model", assetKey=key, metadataEntries=waits)

    assert said == ["loan_approval: registered_model ok: waits for a person"]
    assert story.obstacles == {"loan_approval": "waits for a person"}


def test_a_run_that_ends_early_stands_in_the_way_of_its_models(story: Story) -> None:
    """Unless something was said before that explains it."""
    told(story, "RunStartEvent", 10)
    told(story, "RunCanceledEvent", 11)

    assert story.obstacles == {"loan_approval": "its refresh was cancelled"}


@pytest.mark.parametrize("name", ["checkout", "a__b", "pre_check"])
def test_the_name_of_a_model_hides_none_of_its_rooms(name: str) -> None:
    """Whatever it is made of."""
    story = Story(Run(id="1", job="refresh", status="STARTED", models=(name,)))
    step = f"{name}__registered_model"

    assert told(story, "ExecutionStepSuccessEvent", 10, stepKey=step) == [f"{name}: registered_model has nothing to do"]
    assert told(story, "ExecutionStepSuccessEvent", 10, stepKey=f"{name}__something_else") == []


def test_all_rooms_are_known() -> None:
    """A new room that is not would end in silence where it has nothing to do."""
    spec = replace(model("loan_approval"), scoring=Scoring(table="a", into="b"))
    made = [built for built in lifecycle(spec) if isinstance(built, dg.AssetsDefinition)]

    assert {key.path[-1] for built in made for key in built.keys} == set(ROOMS)


def _judged(story: Story, decision: str, reason: str) -> list[str]:
    """What is told of an evaluation."""
    told(story, "ExecutionStepStartEvent", 10, "evaluation")
    metadata = [{"label": "decision", "text": decision}, {"label": "reason", "text": reason}]
    key = {"path": ["loan_approval", "evaluation"]}
    return told(story, "MaterializationEvent", 10.5, "evaluation", assetKey=key, metadataEntries=metadata)


def test_the_story_ends_with_the_run(story: Story) -> None:
    """And says how long all of it took."""
    told(story, "RunStartEvent", 10)

    assert told(story, "RunSuccessEvent", 31.6) == ["loan_approval: refresh done (21.6 s)"]
    assert story.over


def test_a_page_that_does_not_answer_is_one_clear_line() -> None:
    """The platform is most likely not running."""
    page = DagsterPage(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(PlatformError, match=r"does not answer .*: is the platform running"):
        page.runs()
