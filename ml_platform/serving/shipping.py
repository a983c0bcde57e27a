"""Shipping, as the model server sees it: how the shipper is started, and how far it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from ml_platform.serving.journal import size
from ml_platform.settings import Settings

PROGRESS = "shipper.json"
SILENT_S = 10.0


class Progress(msgspec.Struct, kw_only=True):
    """How far the shipper is. Rows and segments are counted since the journal's folder was made; times are Unix time.

    `error` is what stands in its way now, empty when nothing does. `repeated_rows` were in the table already.
    """

    shipped_rows: int = 0
    repeated_rows: int = 0
    refused_rows: int = 0
    torn_segments: int = 0
    damaged_segments: int = 0
    waiting_bytes: int = 0
    error: str = ""
    last_success: float | None = None
    written_at: float = 0.0


def spawn(here: Settings) -> subprocess.Popen[bytes]:
    """A shipper of its own process, which ends soon after the calling process does."""
    command = [sys.executable, "-m", "ml_platform.serving.shipper", "--parent", str(os.getpid())]
    # The address of the database has its password in it: the environment is for our eyes, a command line for all.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | here.as_environment())  # noqa: S603


def read_progress(folder: Path) -> Progress:
    """What the shipper of a journal's folder wrote last; when it is silent, everything on disk counts as waiting."""
    try:
        progress = msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)
    except (OSError, msgspec.DecodeError):
        progress = Progress()
    if time.time() - progress.written_at > SILENT_S:
        progress.waiting_bytes = size(folder)
        progress.error = progress.error or "the shipper is silent: it does not run, or hangs"
    return progress


def write_progress(folder: Path, progress: Progress) -> None:
    """Whoever reads sees all of it, or all of what was before."""
    progress.written_at = time.time()
    unfinished = folder / f"{PROGRESS}.unfinished"
    unfinished.write_bytes(msgspec.json.encode(progress))
    unfinished.replace(folder / PROGRESS)
