"""The demo: every part real, no human step; each thing happens as told, and in the undrifted twin nothing does."""

import subprocess
import sys
from pathlib import Path

import pytest

from ml_platform.local import demo
from ml_platform.local.demo_check import amiss
from ml_platform.local.demo_world import Story
from ml_platform.modeling.decisions import Kind, Outcome

pytestmark = pytest.mark.timeout(1200)


def test_each_thing_happens_as_told(tmp_path: Path) -> None:
    """Drift, waiting, retraining, promotion, broken data, alerts: told week by week, with the picture at the end."""
    folder = tmp_path / "demo"
    command = [str(Path(sys.executable).with_name("ml-platform")), "demo", "--into", str(folder)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("Each thing happened as told.")
    assert [f"Week {week}," in done.stdout for week in range(13)] == [True] * 13
    assert (folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert done.stderr == ""


def test_in_the_undrifted_twin_nothing_happens(tmp_path: Path) -> None:
    """The same students without the new form: no alarm, no refresh because of drift, nothing new goes live."""
    twin = demo.run(tmp_path / "twin", lambda _: None, Story(weeks=4, quiet=2, shift_from=None, broken=None))

    later = [entry for week, entries in twin.weeks.items() if week > 0 for entry in entries]
    assert list(amiss(twin.world.story, twin.weeks, twin.told)) == []
    assert {entry.outcome for entry in later if entry.kind is Kind.DRIFT} == {Outcome.OK}
    assert [entry for entry in later if entry.outcome is Outcome.LIVE] == []
    assert [title for week, titles in twin.told.items() if week > 0 for title in titles] == []
