"""The tail of a segment: read from where one stopped; once its writer is gone, what is left over can be judged."""

import fcntl
import os
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path

import msgspec

from ml_platform.serving.journal import FRAME, Answered, read

CHUNK_BYTES = 512 * 2**10
LEFTOVER_S = 60.0


class Rest(Enum):
    """What stands behind the last complete record of a finished segment."""

    NOTHING = "nothing"
    TORN = "torn"
    DAMAGED = "damaged"


class Tail:
    """A segment, open for reading. `offset` is where the next record begins."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self.path = path
        self.offset = 0
        self._file = os.open(path, os.O_RDONLY)

    def is_finished(self) -> bool:
        """Whether the writer closed the segment or died: nothing will follow what is there now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def next(self) -> tuple[list[Answered], int]:
        """The next complete records and where they end; some hundred KiB of them, unless a single one is larger."""
        data = os.pread(self._file, CHUNK_BYTES, self.offset)
        if len(data) == CHUNK_BYTES:
            length = FRAME.size + FRAME.unpack_from(data)[0]
            if CHUNK_BYTES < length <= self._left():
                data = os.pread(self._file, length, self.offset)
        found, end = [], 0
        for answered, after in read(data):
            found.append(answered)
            end = after
        return found, self.offset + end

    def rest(self) -> Rest:
        """What is left over where no complete record follows."""
        rest = os.pread(self._file, self._left(), self.offset)
        if not rest:
            return Rest.NOTHING
        return Rest.TORN if _is_torn(rest) else Rest.DAMAGED

    def close(self) -> None:
        """Somebody else may have the segment."""
        os.close(self._file)

    def _left(self) -> int:
        return os.fstat(self._file).st_size - self.offset


def _is_torn(rest: bytes) -> bool:
    """Whether a writer was cut off here, by its end or by the power: part of one record, or zeros, and nothing else."""
    if len(rest) < FRAME.size or not rest.strip(b"\0"):
        return True
    length, _ = FRAME.unpack_from(rest)
    payload = rest[FRAME.size :]
    if len(payload) >= length:
        return False
    try:
        msgspec.msgpack.decode(payload, type=Answered)
    except msgspec.DecodeError as error:
        return "truncated" in str(error)
    return False


def remove_leftovers(folder: Path) -> None:
    """Segments whose writer died between making and locking them are gone; they never held anything."""
    for path in folder.glob("*.new"):
        # A writer is there for microseconds. All three together never meet one that lives, not even a stopped one.
        with suppress(OSError, ValueError):
            if time.time() - path.stat().st_mtime < LEFTOVER_S or _is_alive(int(path.stem.rpartition("-")[2])):
                continue
            tail = Tail(path)
            if tail.is_finished() and tail.rest() is Rest.NOTHING:
                path.unlink()
            tail.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
