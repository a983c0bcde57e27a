"""The code revision: which commit is running, so that a version can be trained again from it."""

import subprocess
from functools import lru_cache

from ml_platform.settings import PROJECT


@lru_cache(maxsize=1)
def code_revision() -> str:
    """The git commit of this checkout, with `-dirty` when files differ from it; `unknown` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
