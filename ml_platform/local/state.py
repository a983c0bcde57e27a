"""The state folder: everything the platform keeps on this machine, for one platform at a time."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ml_platform.local.processes import PlatformError
from ml_platform.settings import PREFIX

ELSEWHERE = f"choose another folder with --state FOLDER or {PREFIX}STATE"
FOLDERS = ("logs", "dagster", "mlflow", "secrets")
NOT_RUNNING = "the platform is not running: start it with `make run`"


def prepare(state: Path) -> None:
    """The state folder is there, ours, and writable.

    Raises:
        PlatformError: when it is not; the message names the remedy.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        if not (state / "lock").exists() and (strange := next(state.iterdir(), None)):
            msg = f"{state} is not a state folder, it holds {strange.name}: {ELSEWHERE}"
            raise PlatformError(msg)
        for name in FOLDERS:
            (state / name).mkdir(mode=0o700 if name == "secrets" else 0o777, exist_ok=True)
            with tempfile.TemporaryFile(dir=state / name):
                pass
    except FileExistsError as error:
        msg = f"{error.filename} is a file, but a folder is needed there: move it away, or {ELSEWHERE}"
        raise PlatformError(msg) from None
    except OSError as error:
        msg = f"cannot write to {error.filename or state} ({error.strerror}): make it writable for you, or {ELSEWHERE}"
        raise PlatformError(msg) from None


@contextmanager
def exclusive(state: Path) -> Iterator[None]:
    """No other platform runs on this state folder.

    Raises:
        PlatformError: when one does; the message says which.
    """
    with (state / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            msg = f"the platform already runs here ({lock.read()}): use it, or stop it with Ctrl-C where it was started"
            raise PlatformError(msg) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}, state in {state}")
        lock.flush()
        yield


def publish(state: Path, environment: Mapping[str, str]) -> None:
    """Commands beside the platform find it; the file holds passwords and is for its owner only."""
    path = _published(state)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(environment), file)


def withdraw(state: Path) -> None:
    """Nobody takes the platform for running."""
    _published(state).unlink(missing_ok=True)


def published(state: Path) -> dict[str, str]:
    """The environment of the platform that runs on this folder.

    Raises:
        PlatformError: when none does.
    """
    if not _is_locked(state):
        raise PlatformError(NOT_RUNNING)
    try:
        told: dict[str, str] = json.loads(_published(state).read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = "the platform is still starting: try again when it says that it is ready"
        raise PlatformError(msg) from None
    except PermissionError:
        msg = f"{_published(state)} belongs to another user: ask as the user who started the platform"
        raise PlatformError(msg) from None
    return told


def _published(state: Path) -> Path:
    return state / "secrets" / "environment.json"


def _is_locked(state: Path) -> bool:
    try:
        with (state / "lock").open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
