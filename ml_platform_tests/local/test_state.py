"""The state folder is for one platform at a time, and what is wrong with it is one clear line."""

import os
import socket
import stat
from pathlib import Path

import pytest

from ml_platform.local import state
from ml_platform.local.platform import refuse_busy_port
from ml_platform.local.processes import PlatformError


def test_a_second_platform_is_told_about_the_first(tmp_path: Path) -> None:
    """It does not start, and says who is there."""
    folder = tmp_path / "state"
    state.prepare(folder)

    with (
        state.exclusive(folder),
        pytest.raises(PlatformError, match=rf"already runs here \(pid {os.getpid()}, state in "),
        state.exclusive(folder),
    ):
        pass


def test_a_stopped_platform_holds_nothing(tmp_path: Path) -> None:
    """The lock ends with its process, however that ends."""
    folder = tmp_path / "state"
    state.prepare(folder)
    for _ in range(2):
        with state.exclusive(folder):
            pass


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    """The second start finds what the first has made."""
    folder = tmp_path / "state"
    state.prepare(folder)
    with state.exclusive(folder):
        (folder / "logs" / "kept").touch()

    state.prepare(folder)

    assert (folder / "logs" / "kept").exists()
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700


def test_somebody_elses_folder_is_not_taken_for_a_state_folder(tmp_path: Path) -> None:
    """Nothing is written among the user's own files."""
    (tmp_path / "holiday.jpg").touch()

    with pytest.raises(PlatformError, match=r"not a state folder, it holds holiday\.jpg: choose another folder"):
        state.prepare(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    (tmp_path / "state").touch()

    with pytest.raises(PlatformError, match=r"state is a file.*move it away"):
        state.prepare(tmp_path / "state")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_one_may_not_write_to_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    tmp_path.chmod(0o500)

    with pytest.raises(PlatformError, match=r"cannot write to .*Permission denied"):
        state.prepare(tmp_path / "state")


def test_what_runs_is_published_for_its_owner_only(tmp_path: Path) -> None:
    """It has passwords in it, and counts only while the platform runs."""
    folder = tmp_path / "state"
    state.prepare(folder)
    with state.exclusive(folder):
        with pytest.raises(PlatformError, match="still starting"):
            state.published(folder)
        state.publish(folder, {"A": "b"})

        assert state.published(folder) == {"A": "b"}
        assert stat.S_IMODE((folder / "secrets" / "environment.json").stat().st_mode) == 0o600

    with pytest.raises(PlatformError, match="not running: start it with `make run`"):
        state.published(folder)


def test_a_busy_port_is_named_with_its_holder_and_the_option() -> None:
    """One line is enough to go on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(
            PlatformError, match=f"port {port} is not free.*process id {os.getpid()}.*--mlflow-port NUMBER"
        ):
            refuse_busy_port("mlflow", port)

    refuse_busy_port("mlflow", port)
