"""A new model is a folder: `new-model` and a refresh take any sane table to live answers, with no change elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ml_platform.cli import main
from ml_platform_tests.platform import Platform
from ml_platform_tests.scaffolding import tables


def make_live(platform: Platform, load: Callable[[str], None], model: str, options: str) -> None:
    """What a person does: a table, one command, one refresh."""
    load(platform.settings.source_url)
    written = CliRunner().invoke(main, ["new-model", model, *options.split()])
    assert written.exit_code == 0, written.output
    result = platform.refresh(model)
    assert result.success, [event.message for event in result.all_events if event.is_failure]


@pytest.fixture(scope="module")
def wines(platform: Platform) -> Platform:
    """A platform with a live multiclass model that nobody programmed."""
    make_live(platform, tables.load_wines, "cultivars", "--from wines --label cultivar --owner team:cellar")
    return platform


@pytest.fixture(scope="module")
def patients(platform: Platform) -> Platform:
    """A platform with a live regression that nobody programmed."""
    make_live(platform, tables.load_patients, "diabetes", "--from patients --label progression --owner team:clinic")
    return platform


def rows_of(platform: Platform, table: str, label: str, *others: str) -> list[tuple[Any, Any]]:
    """Each row as a request has it, with its label."""
    return platform.sql(f"SELECT to_jsonb({table}) - %s::text[], {label} FROM {table}", [label, *others])


def test_a_multiclass_model_answers_with_the_probability_of_each_class(wines: Platform) -> None:
    """178 rows are few: the holdout is larger than usual, so that there is something to judge."""
    rows = rows_of(wines, "wines", "cultivar", "wine_id", "updated_at")

    answers = wines.predict("cultivars", [row for row, _ in rows])["predictions"]

    assert {frozenset(answer["probabilities"]) for answer in answers} == {frozenset(cultivar for _, cultivar in rows)}
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)
    assert np.mean([answer["label"] == cultivar for answer, (_, cultivar) in zip(answers, rows, strict=True)]) > 0.9
    assert wines.metadata("cultivars", "evaluation")["rows_judged"] >= 50


def test_a_regression_answers_with_a_number(patients: Platform) -> None:
    """`sex` is protected by its name: it is judged in slices, and a request need not tell it."""
    rows = rows_of(patients, "patients", "progression", "patient_id", "sex", "updated_at")

    answers = patients.predict("diabetes", [row for row, _ in rows])["predictions"]

    values = [answer["value"] for answer in answers]
    assert np.corrcoef(values, [progression for _, progression in rows])[0, 1] > 0.5
    assert "sex=1" in str(patients.metadata("diabetes", "evaluation")["slices"])


@pytest.mark.usefixtures("wines", "patients")
def test_nothing_but_the_folder_was_written(models_folder: Path) -> None:
    """The catalogue found both by themselves, and no draft was left behind."""
    files = ["README.md", "__init__.py", "features.py", "schema.py", "spec.py", "training.py"]

    assert {p.name: sorted(f.name for f in p.glob("*.*")) for p in models_folder.iterdir()} == {
        "cultivars": files,
        "diabetes": files,
    }
