"""Slots: two colours per model, one of them live; kept in a file that all workers follow and a restart finds again."""

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import BundleError, Predictor
from ml_platform.modeling.promotion import Colour, ConflictError, Release, Serving
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Lane
from ml_platform.serving.metrics import SERVED
from ml_platform.serving.privacy import discretion

LOG = logging.getLogger(__name__)


class NotLoadedError(LookupError):
    """Another worker loaded this a moment ago; here it is loaded by `Slots.settle`."""


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


Place = tuple[str, Colour]


class Slots:
    """All models of this server, as one of its workers sees them.

    The file is the truth. A change is written under a lock, before anybody can see it; every worker looks at the file's
    identity before it answers, so what was switched by one is switched for all. Only the event loop changes what is
    seen here; threads read bundles and write the file.
    """

    def __init__(self, file: Path, journal: Journal, hash_key: str = "") -> None:
        """Load what was served before; a bundle that is missing or changed costs its own model only.

        Args:
            file: where what is served is kept.
            journal: where answers go.
            hash_key: the secret with which columns are hashed that the journal must not have as they are.
        """
        self._file = file
        self._journal = journal
        self._hash_key = hash_key
        self._seen: tuple[int, int] | None = None
        self._models: Mapping[str, ModelSlots] = {}
        self._lanes: dict[Place, Lane] = {}
        self._broken: set[Place] = set()
        self._predictors: WeakValueDictionary[str, Predictor] = WeakValueDictionary()
        self._reading = threading.Lock()
        self._settling = asyncio.Lock()
        self._shown: set[tuple[str, str, str]] = set()
        self.follow()
        for place, slot in self._missing():
            self._put(place, slot, self._loaded(slot))

    def follow(self) -> None:
        """See what other workers changed; costs a microsecond when nothing was, and never loads anything."""
        identity = self._identity()
        if identity is not None and identity != self._seen:
            self._take(self._read())
            self._seen = identity

    async def settle(self) -> None:
        """Whatever other workers loaded is loaded here as well."""
        async with self._settling:
            for place, slot in self._missing():
                self._put(place, slot, await asyncio.to_thread(self._loaded, slot))

    def names(self) -> list[str]:
        """Models that shall answer."""
        return sorted(name for name, model in self._models.items() if model.live)

    def broken(self) -> list[str]:
        """Models that shall answer and cannot."""
        return [name for name in self.names() if (name, self._models[name].live) in self._broken]

    def observe(self, model: str) -> ModelSlots:
        """What is served of a model; nothing is a valid answer."""
        return self._models.get(model, ModelSlots())

    def lane(self, model: str, colour: Colour | None = None) -> Lane:
        """The lane of a colour, or of whatever is live.

        Raises:
            KeyError: when nothing is there.
            NotLoadedError: when it will be there once this worker has settled.
        """
        seen = self.observe(model)
        colour = colour or seen.live
        if colour is None:
            raise KeyError(model)
        lane = self._lanes.get((model, colour))
        if lane is None and colour in seen.slots and (model, colour) not in self._broken:
            raise NotLoadedError(model)
        if lane is None:
            raise KeyError(model)
        return lane

    async def load(self, release: Release, folder: Path, colour: Colour, revision: int) -> ModelSlots:
        """Load a release into a colour that is not live.

        Raises:
            ConflictError: when the revision is not the current one or the colour is live.
            BundleError: when the bundle is not what its hash says.
        """

        def loaded(seen: ModelSlots) -> ModelSlots:
            if seen.live == colour:
                msg = f"colour {colour} of {release.model!r} is live; load into the other one"
                raise ConflictError(msg)
            slots = {**seen.slots, colour: Slot(release=release, bundle=str(folder))}
            return ModelSlots(revision=revision + 1, live=seen.live, slots=slots)

        predictor = await asyncio.to_thread(self._predictor, folder, release.digest)
        changed = await self._change(release.model, revision, loaded)
        LOG.info("%s version %s is loaded, colour %s", release.model, release.version, colour)
        del predictor  # Nobody else held it until a lane did.
        return changed

    async def switch(self, model: str, colour: Colour | None, revision: int) -> ModelSlots:
        """Make a loaded colour live, or none.

        Raises:
            ConflictError: when the revision is not the current one or the colour is empty.
        """

        def switched(seen: ModelSlots) -> ModelSlots:
            if colour is not None and colour not in seen.slots:
                msg = f"colour {colour} of {model!r} is empty; load a release first"
                raise ConflictError(msg)
            return ModelSlots(revision=revision + 1, live=colour, slots=seen.slots)

        changed = await self._change(model, revision, switched)
        LOG.info("live traffic of %s goes to %s", model, colour or "nothing")
        return changed

    async def _change(self, model: str, revision: int, decide: Callable[[ModelSlots], ModelSlots]) -> ModelSlots:
        changed = await asyncio.to_thread(self._decided, model, revision, decide)
        self.follow()
        return changed

    def _decided(self, model: str, revision: int, decide: Callable[[ModelSlots], ModelSlots]) -> ModelSlots:
        """What is served of the model from now on, decided while nobody else can change it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            models = self._read()
            seen = models.get(model, ModelSlots())
            if seen.revision != revision:
                msg = f"{model!r} is at revision {seen.revision}, not {revision}: somebody else changed it; look again"
                raise ConflictError(msg)
            changed = decide(seen)
            self._write({**models, model: changed})
            return changed

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._file)  # noqa: PTH116 - asked before every answer, and half as dear
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _read(self) -> dict[str, ModelSlots]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, ModelSlots])
        except FileNotFoundError:
            return {}

    def _write(self, models: Mapping[str, ModelSlots]) -> None:
        """Write the new state to disk before anybody can see it."""
        before = self._identity()
        unfinished = self._file.with_suffix(".unfinished")
        with unfinished.open("wb") as out:
            out.write(msgspec.json.encode(models))
            out.flush()
            os.fsync(out.fileno())
        # Inodes are used again and the kernel's clock ticks every few milliseconds: two quick changes could look alike.
        now = max(time.time_ns(), before[1] + 1 if before else 0)
        os.utime(unfinished, ns=(now, now))
        unfinished.replace(self._file)
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _take(self, models: Mapping[str, ModelSlots]) -> None:
        """These are the models now; lanes that are there already stay as they are."""
        lanes: dict[Place, Lane] = {}
        for name, model in models.items():
            for colour, slot in model.slots.items():
                lane = self._lanes.get((name, colour))
                if lane is None or lane.release != slot.release:
                    predictor = self._predictors.get(slot.release.digest)
                    lane = Lane(slot.release, colour, predictor, self._journal, self._hash_key) if predictor else None
                if lane is not None:
                    lanes[name, colour] = lane
        self._models, self._lanes, self._broken = models, lanes, set()
        self._show()

    def _missing(self) -> list[tuple[Place, Slot]]:
        """What is neither loaded nor known to be broken."""
        return [
            ((name, colour), slot)
            for name, model in self._models.items()
            for colour, slot in model.slots.items()
            if (name, colour) not in self._lanes and (name, colour) not in self._broken
        ]

    def _put(self, place: Place, slot: Slot, predictor: Predictor | None) -> None:
        """Answer with what was loaded, unless something else was put there meanwhile."""
        name, colour = place
        if self.observe(name).slots.get(colour) != slot:
            return
        if predictor is None:
            self._broken.add(place)
        else:
            self._lanes[place] = Lane(slot.release, colour, predictor, self._journal, self._hash_key)
            self._show()

    def _show(self) -> None:
        """The metrics name the versions that are live; those that were are 0."""
        live = {(name, lane.release.version, str(colour)) for (name, colour), lane in self._lanes.items()
                if self._models[name].live == colour}  # fmt: skip
        for who in self._shown | live:
            SERVED.labels(*who).set(who in live)
        self._shown |= live

    def _loaded(self, slot: Slot) -> Predictor | None:
        try:
            return self._predictor(Path(slot.bundle), slot.release.digest)
        except BundleError:
            LOG.exception("%s version %s cannot be served", slot.release.model, slot.release.version)
            return None

    def _predictor(self, folder: Path, digest: str) -> Predictor:
        """A bundle in memory, once for all lanes that answer with it; it has answered a row.

        Raises:
            BundleError: whatever goes wrong with it is the bundle's fault, not the server's.
        """
        with self._reading:
            try:
                bundle.check(folder, digest)
                if there := self._predictors.get(digest):
                    return there
                predictor = bundle.load(folder, digest)
                predictor.answer(predictor.golden.rows[:1])
                discretion(predictor.fields, self._hash_key)
            except Exception as error:
                msg = f"bundle {digest[:12]} cannot be loaded: {error}"
                raise BundleError(msg) from error
            self._predictors[digest] = predictor
        return predictor
