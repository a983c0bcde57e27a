"""The clock: the one place that says what time it is; tests and demos set it through a file."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg


class Clock(dg.ConfigurableResource[None]):
    """The time, or the ISO 8601 time written in `file` while that exists."""

    file: str = ""

    def now(self) -> datetime:
        """The time, in UTC."""
        if self.file and (written := Path(self.file)).exists():
            return datetime.fromisoformat(written.read_text().strip()).astimezone(UTC)
        return datetime.now(UTC)
