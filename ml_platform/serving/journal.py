"""The journal: every answer is on disk before it is sent, for the shipper to bring to PostgreSQL.

A worker appends to a segment of its own, which it holds locked; a segment that nobody holds is finished. A record is a
length, a checksum and an `Answered` in MessagePack. What a killed worker wrote is read by whoever ships next; only a
power cut can lose what the kernel had not yet written out.
"""

import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

SUFFIX = ".journal"
FRAME = struct.Struct("<II")
SEGMENT_BYTES = 8 * 2**20
MEASURE_S = 1.0
LOG = logging.getLogger(__name__)


class Answered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answered request of n rows, as the journal keeps it.

    `at_us` is microseconds since 1970 in UTC. `keys` is empty or has n keys. `rows` are n JSON objects, `answers` is
    one JSON array of n objects.
    """

    request_id: str
    at_us: int
    model: str
    version: str
    colour: str
    latency_us: int
    keys: Sequence[str | None]
    rows: Sequence[bytes]
    answers: bytes


class Journal:
    """Where one worker writes. A journal that is full, or a disk that is, costs log rows, never an answer."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Nothing is written yet.

        Args:
            folder: holds the segments of all workers.
            limit_bytes: what all segments together may take while the database is away.
        """
        self.folder = folder
        self._limit = limit_bytes
        self._encoder = msgspec.msgpack.Encoder()
        self._segment: int | None = None
        self._written = 0
        self._measured_at = float("-inf")
        self.waiting_bytes = 0
        self.dropped_rows = 0

    def append(self, answers: Sequence[Answered]) -> None:
        """The answers are in the kernel's hands: killing this process loses none of them."""
        frames = []
        for answered in answers:
            payload = self._encoder.encode(answered)
            frames += [FRAME.pack(len(payload), zlib.crc32(payload)), payload]
        data = b"".join(frames)
        try:
            if self._is_full(len(data)):
                self._drop(answers)
                return
            self._write(data)
        except OSError as error:
            LOG.warning("journal: cannot write (%s)", error)
            self._drop(answers)
            self.close()

    def sync(self) -> None:
        """What was written so far survives a power cut as well; what waits is measured. Any thread may call this."""
        with suppress(OSError):  # The segment may be finished meanwhile.
            if self._segment is not None:
                os.fdatasync(self._segment)
        self.waiting_bytes = size(self.folder)

    def close(self) -> None:
        """The segment is finished."""
        if self._segment is not None:
            os.close(self._segment)
            self._segment = None

    def _write(self, data: bytes) -> None:
        if self._segment is None or self._written > SEGMENT_BYTES:
            self.close()
            self._segment, self._written = self._opened(), 0
        done = os.write(self._segment, data)
        self._written += done
        self.waiting_bytes += done
        if done < len(data):
            # A record that was cut off ends what can be read of a segment: the next ones go into another.
            raise OSError(0, "the disk is full")

    def _opened(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}{SUFFIX}"
        unlocked = path.with_suffix(".new")
        segment = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(segment, fcntl.LOCK_EX)
        unlocked.rename(path)  # Under its final name it has always been locked: unlocked means finished.
        return segment

    def _is_full(self, more: int) -> bool:
        now = time.monotonic()
        if now - self._measured_at > MEASURE_S:
            self.waiting_bytes, self._measured_at = size(self.folder), now
        return self.waiting_bytes + more > self._limit

    def _drop(self, answers: Sequence[Answered]) -> None:
        self.dropped_rows += sum(len(answered.rows) for answered in answers)


def segments(folder: Path) -> list[Path]:
    """All segments, the oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def size(folder: Path) -> int:
    """Bytes of all segments."""
    total = 0
    for segment in segments(folder):
        try:
            total += segment.stat().st_size
        except FileNotFoundError:  # Shipped meanwhile.
            continue
    return total


def read(data: bytes) -> Iterator[tuple[Answered, int]]:
    """The complete records at the start of `data`, each with where it ends; a torn or damaged one ends them."""
    decoder = msgspec.msgpack.Decoder(Answered)
    at = 0
    while at + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, at)
        payload = data[at + FRAME.size : at + FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        try:
            answered = decoder.decode(payload)
        except msgspec.DecodeError:  # Zeros, which a power cut leaves, have a fitting checksum.
            return
        at += FRAME.size + length
        yield answered, at
