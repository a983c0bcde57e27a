"""Logs: every event is one line of JSON on stderr, and a flood of one kind of event costs a few lines."""

import json
import logging
import sys
import threading
import time
from types import TracebackType

PERIOD_S = 10.0
MOST_ALIKE = 20
MOST_KINDS = 1000
LOG = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        said = {"at": moment, "level": record.levelname, "process": record.process, "message": record.getMessage()}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        if left_out := getattr(record, "left_out", 0):
            said["left_out"] = left_out
        return json.dumps(said)


class Sparing(logging.Filter):
    """Lets a few records of a kind through per period; the next period's first says how many were left out."""

    def __init__(self) -> None:
        """Nothing was logged yet."""
        super().__init__()
        self._since: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is shown."""
        kind = (record.name, str(record.msg))
        now = time.monotonic()
        since, count = self._since.get(kind, (now, 0))
        if now - since > PERIOD_S:
            record.left_out = max(0, count - MOST_ALIKE)
            since, count = now, 0
        if len(self._since) > MOST_KINDS:  # Whatever puts values into its messages is a kind of its own each time.
            self._since.clear()
        self._since[kind] = since, count + 1
        return count < MOST_ALIKE


def begin() -> None:
    """Whatever this process has to say from now on is JSON, its last words and warnings included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(Sparing())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _last_words
    threading.excepthook = lambda died: _last_words(
        died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback
    )
    sys.unraisablehook = lambda lost: LOG.error(
        "an error that nobody could be told of: %s", lost.err_msg or lost.object,
        exc_info=(lost.exc_type, lost.exc_value or lost.exc_type(), lost.exc_traceback),
    )  # fmt: skip


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        LOG.critical("this ends a thread or the process", exc_info=(kind, error, trace))
