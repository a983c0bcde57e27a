"""Requests as the model server journals them, and a worker that writes such until it is killed."""

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from ml_platform.serving import journal
from ml_platform.serving.journal import Answered, Journal

NOW_US = time.time_ns() // 1000


def answered(request: str, at_us: int = NOW_US, count: int = 1, **changes: Any) -> Answered:
    """An answered request of some rows."""
    one = Answered(
        request_id=request,
        at_us=at_us,
        model="loans",
        version="3",
        colour="blue",
        latency_us=1500,
        keys=[f"key {i}" for i in range(count)],
        rows=[b'{"amount": %d, "note": "a\\tb \\\\ \\u00e9"}' % i for i in range(count)],
        answers=b"[" + b",".join(b'{"label": %d}' % i for i in range(count)) + b"]",
    )
    return msgspec.structs.replace(one, **changes)


def main() -> None:
    """Append requests to the journal, and print the id of each as soon as it is acknowledged."""
    folder, name = sys.argv[1:]
    journal.SEGMENT_BYTES = 20_000
    log = Journal(Path(folder), 2**30)
    for i in itertools.count():
        log.append([answered(f"{name}-{i}")])
        print(f"{name}-{i}", flush=True)  # noqa: T201 - whoever kills this reads it


if __name__ == "__main__":
    main()
