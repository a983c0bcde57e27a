"""The folder that `new-model` writes: ready to run, in the project's style, with a reason for what it leaves out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ml_platform.cli import main
from ml_platform.modeling import bundle
from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.columns import Kind
from ml_platform.modeling.gate import MIN_ROWS
from ml_platform.modeling.spec import Task
from ml_platform.modeling.training import fit, known
from ml_platform.modeling.validation import as_columns, validate
from ml_platform.scaffolding.source_table import SAMPLE_ROWS, read_table
from ml_platform.settings import PROJECT
from ml_platform_tests.scaffolding.conftest import Source

ODD = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE "Odd Table" (
    id uuid PRIMARY KEY, target text, applied_at timestamp NOT NULL,
    "class" int, "2nd" float8 NOT NULL, "Ünit Price" numeric(9, 2), "lambda" text, "float" real NOT NULL,
    "validate" smallint NOT NULL, schema bigint NOT NULL, "_private" int NOT NULL, "camelCase" boolean, pa int NOT NULL,
    born date, seen timestamptz, mood mood NOT NULL, "the ""real"" one" varchar(20) NOT NULL
);
INSERT INTO "Odd Table"
SELECT
    gen_random_uuid(), (ARRAY['no', 'yes', NULL])[i * 7919 % 101 % 3 + 1], timestamp '2026-01-01' + i * interval '1 h',
    nullif(i % 7, 3), i / 7.0, nullif(i % 5, 2) / 10.0, (ARRAY['a', 'b', NULL])[i % 3 + 1], i % 11,
    i % 13, i * 100000000000, i % 2, nullif(i % 4, 1) = 2, i % 17,
    date '1960-01-01' + nullif(i % 900, 7), timestamptz '2025-01-01 00:00+02' + nullif(i % 90, 5) * interval '1 d',
    (ARRAY['sad', 'happy'])[i % 2 + 1]::mood, (ARRAY['x', 'it''s', 'a \\ b'])[i % 3 + 1]
FROM generate_series(1, 600) i
"""


def test_it_says_what_it_guessed(source: Source) -> None:
    """The primary key, the time of change and the task have one answer here."""
    said = source.new_model(label="approved")

    spec = source.spec()
    assert (spec.source.key, spec.source.changed_at, spec.task) == ("loan_id", "updated_at", Task.BINARY)
    assert "  label     approved: binary\n  times     changed at updated_at, event time (not given)\n" in said
    assert "  inputs    amount, purpose, rating\n" in said
    assert "  left out  updated_at: it tells when the row was written, not what it is about\n" in said


def test_the_command_writes_the_folder_whole(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six files, and no draft beside them."""
    monkeypatch.setenv("ML_PLATFORM_SOURCE_URL", source.url)
    options = ["--label", "approved", "--owner", "team:credit", "--into", str(source.catalogue)]

    said = CliRunner().invoke(main, ["new-model", "credit", "--from", "public.loans", *options])

    assert said.exit_code == 0, said.output
    assert said.output.startswith(f"Wrote {source.catalogue / 'credit'}\n")
    assert f"when it is started with ML_PLATFORM_MODELS={source.catalogue}" in said.output
    assert [place.name for place in source.catalogue.iterdir()] == ["credit"]
    assert sorted(file.name for file in (source.catalogue / "credit").iterdir()) == [
        *("README.md", "__init__.py", "features.py", "schema.py", "spec.py", "training.py")
    ]
    assert source.spec("credit").owner == "team:credit"


def test_every_type_and_every_name_goes_from_table_to_answers(source: Source, tmp_path: Path) -> None:
    """Columns called `class` or `2nd` keep their names in requests; only in the schema they have another in Python."""
    source.sql(ODD)
    source.new_model(table="Odd Table", event_time="applied_at")
    code = source.code()
    rows = validate(read_table(source.url, "Odd Table", None).sample, code.schema).good
    label = code.label(rows)
    rows = rows.filter(known(label))

    columns = as_columns(rows, code.inputs)
    features = code.features.matrix(columns)
    pipeline, classes = fit(code, features, label[known(label)])
    fitted = Fitted(
        pipeline=pipeline, task=Task.BINARY, classes=classes, fields=code.inputs, features=code.features,
        features_module=code.features_module,
    )  # fmt: skip
    served = pack(fitted, features, columns, tmp_path, seed=1).predictor
    golden = served.golden

    assert {"class", "2nd", "Ünit Price", "lambda", 'the "real" one', "mood", "born"} <= {f.name for f in served.fields}
    assert set(code.features.kinds) >= {"applied_at_weekday", "applied_at_hour", "days_since_born", "days_since_seen"}
    assert not bundle.differences(served.answer(golden.rows), golden.answers)
    assert not bundle.differences([a for row in golden.rows for a in served.answer([row])], golden.answers)


def test_times_become_numbers(source: Source) -> None:
    """A missing time is a missing number; 1 January 2026 was a Thursday."""
    source.sql(ODD)
    source.new_model(table="Odd Table", event_time="applied_at")

    nothing = {Kind.TEXT: np.array([None], dtype=object), Kind.NUMBER: np.array([np.nan])}
    columns = {
        **{field.name: nothing[field.kind] for field in source.code().inputs if field.kind in nothing},
        "applied_at": np.array(["2026-01-01T13:45"], dtype="datetime64[us]"),
        "born": np.array(["2025-12-31T01:45"], dtype="datetime64[us]"),
        "seen": np.array(["NaT"], dtype="datetime64[us]"),
    }
    features = source.code().features.compute(columns)

    assert [features[f"applied_at_{part}"][0] for part in ("weekday", "hour")] == [3, 13]
    assert features["days_since_born"][0] == 1.5
    assert np.isnan(features["days_since_seen"][0])


def test_a_time_that_cannot_be_a_parameter_is_left_out_with_the_remedy(source: Source) -> None:
    """A feature function has its columns as parameters."""
    source.sql('ALTER TABLE loans ADD "class" date; UPDATE loans SET "class" = current_date - rating')

    said = source.new_model(label="approved")

    assert "left out  class: a time needs a function with a parameter of its name, which Python does not allow" in said


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        ("customer_id int; UPDATE loans SET customer_id = loan_id % 9", "customer_id: it identifies something"),
        ("notes text; UPDATE loans SET notes = 'note ' || loan_id", "notes: it is free text: 300 different values"),
        ("bank text DEFAULT 'ours'", "bank: every row holds ours"),
        ("fax text; UPDATE loans SET fax = 'f' || loan_id % 2 WHERE loan_id < 9", "fax: it is missing in 97%"),
        ("payload jsonb DEFAULT '{}'", "payload: its type jsonb is not supported; a view can make numbers or text"),
        ("codes int[] DEFAULT '{1}'", "codes: its type integer[] is not supported"),
        ("created_at timestamptz DEFAULT now()", "created_at: it tells when the row was written"),
        ("paid float8; UPDATE loans SET paid = approved::int * loan_id", "paid: alone it tells the label almost for"),
        ("gender_score float8; UPDATE loans SET gender_score = amount", "gender_score: it looks like a protected"),
    ],
)
def test_what_is_no_input_is_left_out_with_the_reason(source: Source, change: str, left_out: str) -> None:
    """The reason is on the terminal and in the model card, and the refresh is green without it."""
    source.sql(f"ALTER TABLE loans ADD {change}; UPDATE loans SET amount = amount + 1")

    said = source.new_model(label="approved")

    name, _, why = left_out.partition(": ")
    assert f"left out  {left_out}" in said
    assert f"| `{name}` | {why}" in source.text("README.md")
    assert name not in {field.name for field in source.code().fields}


def test_protected_columns_are_slices_and_never_inputs(source: Source) -> None:
    """By their names; which others there are is for a person to say."""
    source.sql(
        """ALTER TABLE loans ADD sex text, ADD "isMarried" boolean;
        UPDATE loans SET sex = (ARRAY['m', 'f'])[loan_id % 2 + 1], "isMarried" = rating > 2"""
    )

    source.new_model(label="approved")

    assert source.spec().slices == ("sex", "isMarried")
    assert not {"sex", "isMarried"} & set(source.code().features.columns)


@pytest.mark.parametrize(
    ("column", "remark"),
    [
        ("(ARRAY[1, 2, 999])[loan_id % 3 + 1]", "# THINK: 999 in 100 rows: a code for missing?"),
        ("CASE WHEN loan_id < 9 THEN 999999.4 ELSE rating END", "# THINK: 999999.4 in 8 rows: a code for missing?"),
        ("CASE WHEN loan_id < 9 THEN -9 ELSE rating END", "# THINK: -9 in 8 rows: a code for missing?"),
        ("(ARRAY['a', '.'])[loan_id % 2 + 1]", "# THINK: '.' in 150 rows: a code for missing?"),
    ],
)
def test_codes_for_missing_values_are_pointed_out(source: Source, column: str, remark: str) -> None:
    """What they mean only a person knows."""
    source.sql(f"CREATE VIEW coded AS SELECT *, {column} AS lines FROM loans")

    source.new_model(table="coded", label="approved", key="loan_id")

    assert f'    "lines",  {remark}\n' in source.text("features.py")


def test_numbers_that_are_only_large_are_no_codes(source: Source) -> None:
    """999 dollars among others of the kind."""
    source.sql("ALTER TABLE loans ADD price int; UPDATE loans SET price = 700 + loan_id")

    source.new_model(label="approved")

    assert '    "price",\n' in source.text("features.py")


def test_the_rules_are_what_the_rows_keep(source: Source) -> None:
    """A gap that nobody has seen yet deserves a look; an unknown label is nothing unusual."""
    source.sql("COMMENT ON COLUMN loans.amount IS 'Asked for,\n in \"euros\"'")
    source.sql("ALTER TABLE loans ALTER rating DROP NOT NULL")

    source.new_model(label="approved")

    schema = source.text("schema.py")
    assert '    approved: bool = pa.Field(nullable=True, description="What is predicted")\n' in schema
    assert "    amount: float = pa.Field(ge=0, description='Asked for, in \"euros\"')\n" in schema
    assert '    purpose: str = pa.Field(isin=["car", "house"], nullable=True, description=' in schema
    assert '    rating: int = pa.Field(ge=0, description="Seen: 0 to 4")\n' in schema


def test_a_large_table_is_sampled_and_trusted_less(source: Source) -> None:
    """Outside the sample there may be gaps that the table allows."""
    source.sql("CREATE TABLE many AS SELECT i AS id, i % 9 AS n, random() AS target FROM generate_series(1, 50000) i")

    source.new_model(table="many", key="id")

    sampled = read_table(source.url, "many", "id")
    assert 0.9 * SAMPLE_ROWS < len(sampled.sample) <= SAMPLE_ROWS
    assert '    n: int = pa.Field(ge=0, nullable=True, description="Seen: 0 to 8")\n' in source.text("schema.py")
    assert (source.spec().task, source.spec().quality.min_rows) == (Task.REGRESSION, 20_000)


@pytest.mark.parametrize(("rows", "holdout", "min_rows", "new_rows"), [(178, 0.4, 80, 10), (300, 0.25, 100, 30)])
def test_the_sizes_follow_from_the_table(
    source: Source, rows: int, holdout: float, min_rows: int, new_rows: int
) -> None:
    """A small table holds out a larger share, or there would be too little to judge."""
    source.sql(f"DELETE FROM loans WHERE loan_id > {rows}")

    source.new_model(label="approved")

    spec = source.spec()
    assert (spec.promotion.holdout, spec.quality.min_rows, spec.retrain.new_rows) == (holdout, min_rows, new_rows)


def test_too_few_rows_are_said_not_refused(source: Source) -> None:
    """The team may start before its data does."""
    source.sql("DELETE FROM loans WHERE loan_id > 60")

    said = source.new_model(label="approved")

    assert f"note      about 30 labelled rows are held out, and the evaluation wants {MIN_ROWS}" in said


def test_a_table_that_has_not_changed_for_long_may_be_that_old(source: Source) -> None:
    """Otherwise the freshness check would stop the very first refresh."""
    source.sql("UPDATE loans SET updated_at = now() - interval '100 days'")

    source.new_model(label="approved")

    assert source.spec().quality.max_source_age.days == 200


def test_a_class_with_hardly_any_rows_is_said(source: Source) -> None:
    """Nobody can learn from three rows."""
    source.sql("UPDATE loans SET purpose = 'boat' WHERE loan_id <= 3")

    said = source.new_model(label="purpose")

    assert "note      class 'boat' has only 3 rows: too few to learn from; leave it out in a view" in said


@pytest.mark.parametrize(
    "wish",
    [
        {"label": "approved"},
        {"label": "amount", "task": Task.REGRESSION},
        {"label": "purpose"},
        {"table": "Odd Table"},
        {"table": "Odd Table", "event_time": "applied_at"},
    ],
)
def test_the_code_is_in_the_projects_style(source: Source, wish: dict[str, Any]) -> None:
    """As if a colleague had written it: ruff has nothing to say, and nothing to format."""
    source.sql(ODD)
    source.new_model(**wish)

    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(PROJECT / "pyproject.toml"), "--no-cache", str(source.catalogue / "model")]
    for command in (["check"], ["format", "--diff"]):
        done = subprocess.run([*ruff, *command, *config], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
