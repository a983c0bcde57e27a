"""Slots: two colours per model, one of them live; kept in a file that all workers follow and a restart finds again."""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import BundleError, Predictor
from ml_platform.modeling.promotion import Colour, ConflictError, Release, Serving
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Lane
from ml_platform.serving.metrics import SERVED

LOG = logging.getLogger(__name__)


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A release in a colour and where its bundle is."""

    release: Release
    bundle: str


class ModelSlots(msgspec.Struct, frozen=True, kw_only=True):
    """The two colours of one model."""

    revision: int = 0
    live: Colour | None = None
    slots: dict[Colour, Slot] = {}

    def as_serving(self) -> Serving:
        """The same, as the promotion sees it."""
        return Serving(revision=self.revision, live=self.live, releases={c: s.release for c, s in self.slots.items()})


class Slots:
    """All models of this server, as one of its workers sees them.

    The file is the truth. A change is written under a lock, before anybody can see it; every worker looks at the file's
    identity before it answers, so what was switched by one is switched for all.
    """

    def __init__(self, file: Path, journal: Journal) -> None:
        """Load what was served before; a bundle that is missing or changed costs its own model only."""
        self._file = file
        self._journal = journal
        self._following = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._models: dict[str, ModelSlots] = {}
        self._lanes: dict[tuple[str, Colour], Lane] = {}
        self._shown: set[tuple[str, str, str]] = set()
        self.follow()

    def follow(self) -> None:
        """See what other workers changed; costs a microsecond when nothing was."""
        if self._identity() == self._seen:
            return
        with self._following:
            identity = self._identity()
            if identity and identity != self._seen:
                self._take(msgspec.json.decode(self._file.read_bytes(), type=dict[str, ModelSlots]))
                self._seen = identity

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._file)  # noqa: PTH116 - asked before every answer, and half as dear
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def names(self) -> list[str]:
        """Models that shall answer."""
        return sorted(name for name, model in self._models.items() if model.live)

    def broken(self) -> list[str]:
        """Models that shall answer and cannot."""
        return [name for name in self.names() if (name, self._models[name].live) not in self._lanes]

    def observe(self, model: str) -> ModelSlots:
        """What is served of a model; nothing is a valid answer."""
        return self._models.get(model, ModelSlots())

    def lane(self, model: str, colour: Colour | None = None) -> Lane:
        """The lane of a colour, or of whatever is live.

        Raises:
            KeyError: when nothing is there.
        """
        colour = colour or self.observe(model).live
        if colour is None:
            raise KeyError(model)
        return self._lanes[model, colour]

    def load(self, release: Release, folder: Path, colour: Colour, revision: int) -> ModelSlots:
        """Load a release into a colour that is not live.

        Raises:
            ConflictError: when the revision is not the current one or the colour is live.
            BundleError: when the bundle is not what its hash says.
        """
        predictor = self._predictor(folder, release.digest)
        with self._changing(release.model, revision) as seen:
            if seen.live == colour:
                msg = f"colour {colour} of {release.model!r} is live; load into the other one"
                raise ConflictError(msg)
            slots = {**seen.slots, colour: Slot(release=release, bundle=str(folder))}
            self._lanes[release.model, colour] = Lane(release, colour, predictor, self._journal)
            return self._keep(release.model, ModelSlots(revision=revision + 1, live=seen.live, slots=slots))

    def switch(self, model: str, colour: Colour | None, revision: int) -> ModelSlots:
        """Make a loaded colour live, or none.

        Raises:
            ConflictError: when the revision is not the current one or the colour is empty.
        """
        with self._changing(model, revision) as seen:
            if colour is not None and colour not in seen.slots:
                msg = f"colour {colour} of {model!r} is empty; load a release first"
                raise ConflictError(msg)
            return self._keep(model, ModelSlots(revision=revision + 1, live=colour, slots=seen.slots))

    @contextmanager
    def _changing(self, model: str, revision: int) -> Iterator[ModelSlots]:
        """What is served of the model, while no other worker can change it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.follow()
            seen = self.observe(model)
            if seen.revision != revision:
                msg = f"{model!r} is at revision {seen.revision}, not {revision}: somebody else changed it; look again"
                raise ConflictError(msg)
            yield seen

    def _keep(self, model: str, slots: ModelSlots) -> ModelSlots:
        """Write the new state to disk before anybody can see it."""
        unfinished = self._file.with_suffix(".unfinished")
        with unfinished.open("wb") as out:
            out.write(msgspec.json.encode({**self._models, model: slots}))
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(self._file)
        self.follow()
        return slots

    def _take(self, models: dict[str, ModelSlots]) -> None:
        """These are the models now; lanes that are there already stay as they are."""
        lanes: dict[tuple[str, Colour], Lane] = {}
        for name, model in models.items():
            for colour, slot in model.slots.items():
                lane = self._lanes.get((name, colour))
                if lane is None or lane.release != slot.release:
                    lane = self._lane(slot, colour)
                if lane is not None:
                    lanes[name, colour] = lane
        self._models, self._lanes = models, lanes
        self._show()

    def _show(self) -> None:
        """The metrics name the versions that are live; those that were are 0."""
        live = {(name, lane.release.version, str(colour)) for (name, colour), lane in self._lanes.items()
                if self._models[name].live == colour}  # fmt: skip
        for who in self._shown | live:
            SERVED.labels(*who).set(who in live)
        self._shown |= live

    def _lane(self, slot: Slot, colour: Colour) -> Lane | None:
        try:
            predictor = self._predictor(Path(slot.bundle), slot.release.digest)
        except BundleError:
            LOG.exception("%s version %s cannot be served", slot.release.model, slot.release.version)
            return None
        return Lane(slot.release, colour, predictor, self._journal)

    def _predictor(self, folder: Path, digest: str) -> Predictor:
        """A bundle in memory, once for all lanes that answer with it; it has answered a row.

        Raises:
            BundleError: whatever goes wrong with it is the bundle's fault, not the server's.
        """
        try:
            bundle.check(folder, digest)
            there = next((lane.predictor for lane in self._lanes.values() if lane.predictor.digest == digest), None)
            if there:
                return there
            predictor = bundle.load(folder, digest)
            predictor.answer(predictor.golden.rows[:1])
        except Exception as error:
            msg = f"bundle {digest[:12]} cannot be loaded: {error}"
            raise BundleError(msg) from error
        return predictor
