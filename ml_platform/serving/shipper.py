"""The shipper: brings the journal to PostgreSQL and deletes what is committed: `python -m ml_platform.serving.shipper`.

It may be killed at any moment: the next one starts each segment from its beginning, and the table knows which rows it
has. It imports little, because it runs beside every model server for ever.
"""

import argparse
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from ml_platform import settings
from ml_platform.serving import logs
from ml_platform.serving.journal import Answered, segments, size
from ml_platform.serving.prediction_table import Prediction, PredictionTable, Refused
from ml_platform.serving.shipping import read_progress, write_progress
from ml_platform.serving.tail import Rest, Tail, remove_leftovers

POLL_S, LONGEST_WAIT_S = 0.2, 4.0
TELL_S, TIDY_S, TIDY_AGAIN_S = 1.0, 3600.0, 60.0
END_S = 5.0
NICE = 10
"""Answers go before the log of them; what it is behind waits in the journal."""
REFUSED_BYTES = 64 * 2**20
SPOKEN = ("refused", "timeout expired", "authentication failed", "starting up", "shutting down", "too many connections")
ANSWERS = msgspec.json.Decoder(list[msgspec.Raw])
LOG = logging.getLogger(__name__)


class Ending:
    """Whether this process shall end: it was asked to, or whoever started it is gone."""

    def __init__(self, parent: int) -> None:
        """Signals are heard from now on."""
        self._parent = parent
        self._asked = False
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._ask)

    def is_due(self) -> bool:
        """Whether what is there now is the last that shall be shipped."""
        if os.getppid() != self._parent:
            self._ask()
        return self._asked

    def pause(self, seconds: float) -> None:
        """Some time has passed, or the end has come."""
        until = time.monotonic() + seconds
        while not self.is_due() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))

    def _ask(self, *_: Any) -> None:
        if not self._asked:
            self._asked = True
            # The kernel sees to it, whatever hangs then; what is not shipped waits for the next shipper.
            signal.setitimer(signal.ITIMER_REAL, END_S)


class Shipper:
    """One journal on its way to one table."""

    def __init__(self, folder: Path, table: PredictionTable, days: int) -> None:
        """Nothing is read yet; counts go on where the last shipper left them."""
        self._folder = folder
        self._table = table
        self._days = days
        self._tails: dict[Path, Tail] = {}
        self._refusing: set[Path] = set()
        self._progress = read_progress(folder)
        self._told_at = self._tidied_at = float("-inf")

    def run(self, is_due: Callable[[], bool], pause: Callable[[float], None]) -> None:
        """Everything was shipped that was there when the end was due, or the database was away then."""
        wait = POLL_S
        last = False
        while not last:
            last = is_due()
            try:
                self._ship_all()
                self._tidy()
                self._progress.error, wait = "", POLL_S
            except (psycopg.Error, OSError) as error:
                self._complain(in_words(error))
                wait = min(2 * wait, LONGEST_WAIT_S)
            self._tell(at_once=last)
            if not last:
                pause(wait)

    def _ship_all(self) -> None:
        there = segments(self._folder)
        for gone in self._tails.keys() - set(there):
            self._tails.pop(gone).close()
        unreadable: list[OSError] = []
        for path in there:
            try:
                self._ship(path)
            except OSError as error:  # One bad file does not hold up the others.
                unreadable.append(error)
            self._tell()
        if unreadable:
            raise unreadable[0]

    def _ship(self, path: Path) -> None:
        """What is complete in the segment now is committed, and a finished segment is gone."""
        tail = self._tails.get(path)
        if tail is None:
            tail = self._tails[path] = Tail(path)
        finished = tail.is_finished()  # Asked before the last look: nothing can come after that.
        answered, end = tail.next()
        while answered:
            predictions = [row for one in answered for row in as_rows(one)]
            new, refused = self._table.insert(predictions)
            self._progress.shipped_rows += new
            self._set_aside(tail, refused)
            tail.offset = end
            self._progress.refused_rows += len(refused)
            self._progress.repeated_rows += len(predictions) - new - len(refused)
            self._progress.last_success = time.time()
            self._tell()
            answered, end = tail.next()
        if finished:
            self._put_away(tail)

    def _set_aside(self, tail: Tail, refused: Sequence[Refused]) -> None:
        """The refused rows are in a file beside the segment, with the reasons; not without limit."""
        if not refused:
            return
        first = refused[0]
        path = tail.path.with_suffix(".refused")
        LOG.error("PostgreSQL refuses %d rows (%s): they are in %s", len(refused), first.reason, path.name)
        if sum(file.stat().st_size for file in self._folder.glob("*.refused")) > REFUSED_BYTES:
            LOG.error("the refused rows take more than %d MiB: these are not kept", REFUSED_BYTES // 2**20)
            return
        # A segment is read again from its beginning after a crash: what was refused then would be there twice.
        start = 0 if tail.path in self._refusing else os.O_TRUNC
        self._refusing.add(tail.path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | start, 0o600), "ab") as file:
            file.writelines(msgspec.json.encode(_explained(one)) + b"\n" for one in refused)
            file.flush()
            os.fsync(file.fileno())

    def _put_away(self, tail: Tail) -> None:
        """All that can be shipped of the segment is committed: it is gone, or kept aside where it is damaged."""
        rest = tail.rest()
        if rest is Rest.DAMAGED:
            aside = tail.path.with_suffix(".damaged")
            LOG.error("%s is damaged at byte %d: kept as %s", tail.path.name, tail.offset, aside.name)
            tail.path.rename(aside)
            self._progress.damaged_segments += 1
        else:
            tail.path.unlink()
            if rest is Rest.TORN:
                LOG.warning("%s ended within a record, whose writer was cut off: dropped", tail.path.name)
                self._progress.torn_segments += 1
        self._refusing.discard(tail.path)
        self._tails.pop(tail.path).close()

    def _tidy(self) -> None:
        """Every hour: old days are dropped, and so is what dead writers left behind."""
        now = time.monotonic()
        if now - self._tidied_at < TIDY_S:
            return
        self._tidied_at = now - TIDY_S + TIDY_AGAIN_S  # Should it fail, shipping goes on meanwhile.
        remove_leftovers(self._folder)
        for name in self._table.drop_older(self._days):
            LOG.info("dropped %s: older than %d days", name, self._days)
        self._tidied_at = now

    def _tell(self, *, at_once: bool = False) -> None:
        """The progress is on disk, about every second."""
        now = time.monotonic()
        if now - self._told_at < TELL_S and not at_once:
            return
        self._told_at = now
        waiting = size(self._folder) - sum(tail.offset for tail in self._tails.values())
        self._progress.waiting_bytes = max(waiting, 0)
        try:
            write_progress(self._folder, self._progress)
        except OSError as error:  # A full disk is no reason to stop what empties it.
            LOG.warning("cannot write the progress (%s)", error)

    def _complain(self, error: str) -> None:
        if error != self._progress.error:
            LOG.warning("cannot ship now (%s): the journal keeps everything, trying again", error)
        self._progress.error = error


def as_rows(answered: Answered) -> Iterator[Prediction]:
    """The rows of a request. What is wrong with their JSON, PostgreSQL will say."""
    try:
        answers = [bytes(answer) for answer in ANSWERS.decode(answered.answers)]
    except msgspec.DecodeError:
        answers = [answered.answers]
    for i, row in enumerate(answered.rows):
        yield Prediction(
            request_id=answered.request_id,
            row=i,
            at_us=answered.at_us,
            model=answered.model,
            version=answered.version,
            colour=answered.colour,
            key=answered.keys[i] if i < len(answered.keys) else None,
            inputs=row,
            output=answers[i] if i < len(answers) else b"null",
            latency_us=answered.latency_us,
        )


def in_words(error: Exception) -> str:
    """What went wrong, for logs: libpq's own words may hold the database's address, and so its password."""
    if not isinstance(error, psycopg.Error):
        return str(error)
    if error.sqlstate:
        return f"{type(error).__name__}: {error.diag.message_primary}"
    known = [words for words in SPOKEN if words in str(error)]
    return ": ".join([type(error).__name__, *known[:1]])


def _explained(refused: Refused) -> dict[str, Any]:
    row = refused.prediction
    texts = {name: getattr(row, name).decode(errors="replace") for name in ("inputs", "output")}
    return {"reason": refused.reason} | msgspec.structs.asdict(row) | texts


@contextmanager
def alone(folder: Path, is_due: Callable[[], bool], pause: Callable[[float], None]) -> Iterator[bool]:
    """Whether no other shipper works on this folder; waits until it is so, or until the end is due."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "shipper.lock").open("w") as lock:
        waiting = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    LOG.info("another shipper is still at work on %s: waiting for its end", folder)
                waiting = True
                if is_due():
                    yield False
                    return
                pause(POLL_S)
            else:
                yield True
                return


def main() -> None:
    """Ship until SIGTERM, or until the parent is gone; then what is there, for some seconds at most."""
    parser = argparse.ArgumentParser(description="Bring the journal of answered requests to PostgreSQL.")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when this process does")
    parent: int = parser.parse_args().parent
    logs.begin()
    os.nice(NICE)
    here = settings.load()
    ending = Ending(parent)
    table = PredictionTable(here.require("platform_url"))
    with alone(here.journal, ending.is_due, ending.pause) as is_ours:
        if is_ours:
            Shipper(here.journal, table, here.prediction_days).run(ending.is_due, ending.pause)
    table.close()


if __name__ == "__main__":
    main()
