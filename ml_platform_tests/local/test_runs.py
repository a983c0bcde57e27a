"""What happens in a run is told in plain words."""

from collections.abc import Mapping
from typing import Any

import pytest

from ml_platform.local.processes import PlatformError, free_port
from ml_platform.local.runs import DagsterPage, Run, Story


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
        "description": "12 rows, at least 200 are needed",
    }

    assert told(story, "AssetCheckEvaluationEvent", 10, evaluation={**evaluation, "success": True}) == []
    assert told(story, "AssetCheckEvaluationEvent", 10, evaluation=evaluation) == [
        "loan_approval: validated_data did not pass: volume 12 rows, at least 200 are needed"
    ]


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
