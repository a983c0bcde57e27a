"""The demo company: its rows arrive until there are none, and then there is something else to do."""

from datetime import UTC, datetime

import psycopg
import pytest

from ml_platform.local import company
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.models.catalogue import model as spec_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODELS = [demo.model for demo in company.TABLES]


@pytest.fixture(scope="module")
def source_url(postgres: EmbeddedPostgres) -> str:
    """The company's database as it is at the beginning."""
    postgres.create_databases(["company"])
    company.load(postgres.url("company"), NOW)
    return postgres.url("company")


@pytest.mark.parametrize("model", MODELS)
def test_when_no_rows_are_left_the_user_learns_what_to_do(source_url: str, model: str) -> None:
    """The statement that is proposed changes enough rows for a refresh."""
    asked = 100_000
    arrived = company.arrive(source_url, model, asked, NOW)

    fresh, over, remedy = company.arrival(model, asked, arrived)

    assert fresh == f"{model}: {arrived:,} new rows"
    assert "all rows of the demo have arrived" in over
    assert company.arrival(model, asked, company.arrive(source_url, model, asked, NOW)) == [over, remedy]
    statement = remedy.split('"')[1]
    with psycopg.connect(source_url) as connection:
        assert connection.execute(statement.encode()).rowcount >= spec_of(model).retrain.new_rows


def test_as_many_rows_as_asked_for_are_told_without_more() -> None:
    """There is nothing to add."""
    assert company.arrival(MODELS[0], 120, 120) == [f"{MODELS[0]}: 120 new rows"]


def test_a_model_of_somebody_else_is_refused(source_url: str) -> None:
    """With the names of those that the company has."""
    with pytest.raises(ValueError, match="choose one of loan_approval, student_dropout"):
        company.arrive(source_url, "churn", 1, NOW)
