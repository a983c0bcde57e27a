"""The corridor: from a table to live answers, and what each room leaves behind."""

import pytest

from ml_platform_tests.platform import Platform


@pytest.fixture(scope="module")
def refreshed(platform: Platform) -> Platform:
    """A platform on which both demo models went from their tables to live traffic."""
    for model in ("loan_approval", "student_dropout"):
        result = platform.refresh(model)
        assert result.success, [e.message for e in result.all_events if e.is_failure]
    return platform


@pytest.mark.parametrize("model", ["loan_approval", "student_dropout"])
def test_a_refresh_ends_with_live_answers_of_the_champion(refreshed: Platform, model: str) -> None:
    """The version that answers is the one the champion alias names."""
    answer = refreshed.predict(model, [refreshed.example(model)])

    assert answer["version"] == refreshed.tracking.champion_version(model)
    assert 0 <= answer["predictions"][0]["probability"] <= 1
