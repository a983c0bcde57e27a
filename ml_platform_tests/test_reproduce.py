"""Reproduce: a version is trained again from what was pinned, whatever has become of table and folder since."""

import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml_platform.cli import main
from ml_platform.local import state
from ml_platform.modeling.recipe import installed
from ml_platform.models.student_dropout import spec as original
from ml_platform.resources.pins import PinStore
from ml_platform.resources.tracking import CHALLENGER, RECIPE
from ml_platform_tests.platform import Platform

MODEL = "pupils"
MOODY = "float(os.environ.get('ML_PLATFORM_TEST_MOOD', '0.5'))"


@pytest.fixture(scope="module")
def folder(platform: Platform, models_folder: Path) -> Iterator[Path]:
    """The folder of a registered model, whose training depends on something that no pin can hold."""
    copy = models_folder / MODEL
    shutil.copytree(Path(original.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    _edit(copy / "spec.py", "student_dropout", MODEL)
    _edit(copy / "training.py", "C=0.5", f"C={MOODY}")
    _edit(copy / "training.py", "import numpy", "import os\n\nimport numpy")
    importlib.invalidate_caches()
    rooms = ["raw_data", "validated_data", "features", "trained_model", "evaluation", "registered_model"]
    assert platform.refresh(MODEL, rooms).success
    yield copy
    shutil.rmtree(copy)


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def _version(platform: Platform) -> str:
    version = platform.tracking.version_with_alias(MODEL, CHALLENGER)
    assert version is not None
    return version.version


def _reproduced(platform: Platform, version: str | None = None) -> tuple[bool, list[str]]:
    """Whether the command says equal by its exit code, and the lines it prints."""
    here = platform.settings
    with state.exclusive(here.state):
        state.publish(here.state, here.as_environment())
        done = CliRunner().invoke(main, ["reproduce", MODEL, version or _version(platform)])
        state.withdraw(here.state)
    return done.exit_code == 0, done.output.splitlines()


def _rows_file(platform: Platform) -> Path:
    """The pinned training rows."""
    run = platform.tracking.version(MODEL, _version(platform))
    assert run is not None
    pins = PinStore(root=str(platform.settings.pins))
    return pins.find(pins.recipe(platform.tracking.run(run.run_id).data.tags[RECIPE]).rows, "rows")


@pytest.mark.usefixtures("folder")
def test_a_version_is_trained_again_and_answers_as_it_did(platform: Platform) -> None:
    """To the last digit, on one machine."""
    is_equal, said = _reproduced(platform)

    assert is_equal
    assert len(said) == 2
    assert said[-1].startswith("equal: all ")
    assert said[-1].endswith("golden rows are answered as then, at most 0 apart")


def test_neither_lost_tables_nor_an_edited_folder_matter_and_what_differs_is_said(
    platform: Platform, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pinned rows and the pinned copy of the folder are what is trained."""
    before = (folder / "training.py").read_text(encoding="utf-8")
    shutil.rmtree(Path(platform.settings.datasets) / MODEL)
    _edit(folder / "training.py", "LogisticRegression(", "LogisticRegression(max_iter=7, ")
    monkeypatch.setattr("ml_platform.resources.pins.installed", lambda: installed() | {"numpy": "0.1"})
    monkeypatch.setattr("ml_platform.resources.pins.code_revision", lambda: "another")

    is_equal, said = _reproduced(platform)

    (folder / "training.py").write_text(before, encoding="utf-8")
    assert is_equal
    assert "  code: the model's folder is another now (training.py changed); the pinned copy is trained" in said
    assert any(line.startswith("  code: the platform's own was ") and line.endswith(", now another") for line in said)
    assert any(line.startswith("  lock: numpy ") and line.endswith(", now 0.1") for line in said)


@pytest.mark.usefixtures("folder")
def test_other_answers_are_told_with_how_many_and_how_far(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training reads the environment, which is not pinned."""
    monkeypatch.setenv("ML_PLATFORM_TEST_MOOD", "0.0001")

    is_equal, said = _reproduced(platform)

    assert not is_equal
    assert said[-1].startswith("predictions: ")
    assert "golden rows are answered differently, at most 0." in said[-1]


@pytest.mark.usefixtures("folder")
def test_a_training_that_fails_today_says_so(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last line of what went wrong."""
    monkeypatch.setenv("ML_PLATFORM_TEST_MOOD", "foul")

    is_equal, said = _reproduced(platform)

    assert not is_equal
    assert "cannot be trained again with today's code and packages: ValueError" in said[-1]


@pytest.mark.usefixtures("folder")
def test_pinned_rows_that_are_lost_or_changed_are_named(platform: Platform) -> None:
    """With the file, and what to do."""
    file = _rows_file(platform)
    whole = file.read_bytes()

    file.unlink()
    lost = _reproduced(platform)
    file.write_bytes(whole[:-1] + b"?")
    changed = _reproduced(platform)
    file.write_bytes(whole)

    assert not lost[0]
    assert re.search(f"training rows cannot be read .*{file.name}.*from a backup", lost[1][-1])
    assert not changed[0]
    assert re.search(f"training rows was changed: .*{file.name}.*from a backup", changed[1][-1])
    assert _rows_file(platform) == file


@pytest.mark.usefixtures("folder")
def test_a_version_that_cannot_be_known_is_said(platform: Platform) -> None:
    """One that is not registered, and one of a time before there were pins."""
    unknown = _reproduced(platform, "999")
    registered = platform.tracking.version(MODEL, _version(platform))
    assert registered is not None
    recipe = platform.tracking.run(registered.run_id).data.tags[RECIPE]
    platform.tracking.client.delete_tag(registered.run_id, RECIPE)
    earlier = _reproduced(platform)
    platform.tracking.client.set_tag(registered.run_id, RECIPE, recipe)

    assert not unknown[0]
    assert "pupils: version 999 is not registered" in unknown[1][-1]
    assert not earlier[0]
    assert "trained before the platform pinned what it trains from" in earlier[1][-1]
