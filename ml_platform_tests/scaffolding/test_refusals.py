"""What `new-model` cannot know or do is one clear line with the remedy, and nothing is written."""

import re
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from ml_platform.cli import main
from ml_platform.local.processes import free_port
from ml_platform.modeling.spec import Task
from ml_platform.scaffolding.new_model import ScaffoldError
from ml_platform_tests.scaffolding.conftest import Source

REFUSALS = [
    ({"table": "loan"}, "there is no table loan in the source database: correct --from (there is loans)"),
    ({"table": 'odd"name'}, "names with quotes are not supported; give a view"),
    ({"name": "loan_approval"}, "the name 'loan_approval' is taken, by"),
    ({"name": "catalogue"}, "the name 'catalogue' is taken, by"),
    ({"name": "Loans"}, "'Loans' cannot be a model's name: use lower-case letters"),
    ({"name": "2nd"}, "'2nd' cannot be a model's name"),
    ({"name": "lambda"}, "'lambda' cannot be a model's name"),
    ({"name": "fleet"}, "'fleet' cannot be a model's name"),
    ({"owner": "credit"}, "--owner credit: write team:NAME or an e-mail address"),
    ({"label": "aproved"}, "--label aproved: table loans has no such column; did you mean approved?"),
    ({"label": "zzz"}, "--label zzz: table loans has no such column; it has loan_id, amount, purpose, approved,"),
    ({"label": "updated_at"}, "--label updated_at: it is the key or a time of the row already; choose another"),
    ({"label": "loan_id"}, "--label loan_id: it is the key or a time of the row already; choose another"),
    ({"key": "number"}, "--key number: table loans has no such column"),
    ({"key": "purpose"}, "--key purpose: some rows share a value or have none; choose a column that identifies"),
    ({"changed_at": "rating"}, "--changed-at rating: its type is integer, not a timestamp; loans has updated_at"),
    ({"event_time": "rating"}, "--event-time rating: its type is integer, not a timestamp; loans has updated_at"),
    ({"label": "rating"}, "--label rating holds 5 different whole numbers: say with --task multiclass that they are"),
    (
        {"label": "rating", "task": Task.BINARY},
        "--task binary: rating holds 5 different values, not 2; take multiclass",
    ),
    ({"task": Task.REGRESSION}, "--task regression: approved is boolean, not a number; take binary or multiclass"),
    ({"label": "amount", "task": Task.MULTICLASS}, "--task multiclass: amount holds 97 different values; take --task"),
    ({"event_time": "updated_at"}, "--event-time updated_at: only 0 labelled rows are among the newest 25%"),
]


@pytest.mark.parametrize(("wish", "says"), REFUSALS, ids=[says[:60] for _, says in REFUSALS])
def test_an_option_that_cannot_be_is_refused(source: Source, wish: dict[str, Any], says: str) -> None:
    """One line, with the option and the remedy in it."""
    with pytest.raises(ScaffoldError, match=re.escape(says)) as refused:
        source.new_model(**{"label": "approved", **wish})

    assert "\n" not in str(refused.value)
    assert not source.catalogue.exists() or not list(source.catalogue.iterdir())


TABLES = [
    ("UPDATE loans SET approved = true", "--label approved: every row holds True, so there is nothing to tell apart"),
    ("UPDATE loans SET approved = NULL", "--label approved: no row has a value; choose another column, or a view"),
    ("DELETE FROM loans", "table loans has no rows to learn from: load some first, then run new-model again"),
    ("ALTER TABLE loans DROP CONSTRAINT loans_pkey", "table loans has no primary key of one column: say with --key"),
    (
        "ALTER TABLE loans ADD changed_at timestamptz",
        "table loans has updated_at and changed_at: say with --changed-at",
    ),
    ("ALTER TABLE loans ALTER approved TYPE jsonb USING '{}'", "--label approved: its type is jsonb, and a label is"),
    ("ALTER TABLE loans ALTER approved TYPE date USING now()", "--label approved: its type is date, and a label is"),
    ("ALTER TABLE loans ALTER approved TYPE text USING loan_id", "--label approved: it is text with 300 different"),
    (
        "ALTER TABLE loans DROP amount, DROP purpose, DROP rating",
        "table loans has no column left to learn from (loan_id",
    ),
    (
        "UPDATE loans SET updated_at = '-infinity'",
        "table loans: timestamp too small (before year 1): '-infinity'; correct",
    ),
]


@pytest.mark.parametrize(("change", "says"), TABLES, ids=[says[:60] for _, says in TABLES])
def test_a_table_that_cannot_be_learned_from_is_refused(source: Source, change: str, says: str) -> None:
    """The message names the table or the column, and what to do about it."""
    source.sql(change)

    with pytest.raises(ScaffoldError, match=re.escape(says)):
        source.new_model(label="approved")


def test_without_a_label_the_columns_are_listed(source: Source) -> None:
    """Which one is to be predicted cannot be guessed."""
    with pytest.raises(ScaffoldError, match=r"say with --label COLUMN .*; table loans has loan_id, amount, purpose"):
        source.new_model()


@pytest.mark.parametrize("name", ["estimator", "Pipeline", "__name__"])
def test_a_label_called_like_something_in_training_is_refused(source: Source, name: str) -> None:
    """A function of the label's name computes the label: the estimator must not be taken for it."""
    source.sql(f'ALTER TABLE loans RENAME approved TO "{name}"')

    with pytest.raises(ScaffoldError, match=r"training\.py needs this name itself; choose another column, or a view"):
        source.new_model(label=name)


def test_a_database_that_does_not_answer_is_one_line_without_the_password(source: Source) -> None:
    """The password stays where it is."""
    away = replace(source, url=f"postgresql://u:secret@127.0.0.1:{free_port()}/company")

    with pytest.raises(ScaffoldError, match="cannot be reached") as refused:
        away.new_model(label="approved")

    assert "secret" not in str(refused.value)


def test_a_folder_that_is_there_is_never_written_over(source: Source) -> None:
    """Not even an empty one, which `rename` would replace."""
    mine = source.catalogue / "model"
    mine.mkdir(parents=True)

    with pytest.raises(ScaffoldError, match=r"the name 'model' is taken, by .*: choose another, or remove that first"):
        source.new_model(label="approved")

    assert list(source.catalogue.iterdir()) == [mine]
    assert not list(mine.iterdir())


def test_a_catalogue_that_cannot_be_written_to_is_one_line(source: Source) -> None:
    """Here a file stands where the catalogue should be."""
    source.catalogue.write_text("not a folder")

    with pytest.raises(ScaffoldError, match=r"cannot write .*: choose another folder with --into FOLDER"):
        source.new_model(label="approved")


def test_the_command_says_it_in_one_line_too(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback."""
    monkeypatch.setenv("ML_PLATFORM_SOURCE_URL", source.url)

    refused = CliRunner().invoke(main, ["new-model", "m", "--from", "loan", "--into", str(source.catalogue)])

    assert refused.exit_code == 1
    assert refused.output == ("Error: there is no table loan in the source database: correct --from (there is loans)\n")


def test_a_user_who_may_not_read_the_table_is_told_whom_to_ask(source: Source) -> None:
    """PostgreSQL's own words, and the remedy."""
    source.sql(
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA public TO reader"
    )
    host = source.url.rpartition("@")[2]

    with pytest.raises(ScaffoldError, match=r"permission denied for table loans; .*GRANT SELECT"):
        replace(source, url=f"postgresql://reader:p@{host}").new_model(label="approved")

    source.sql("DROP OWNED BY reader; DROP ROLE reader")
