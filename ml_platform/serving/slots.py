"""Slots: two colours per model in one process, one of them live; kept on disk, so a restart serves the same."""

import os
import threading
from pathlib import Path

import msgspec

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import BundleError, Predictor
from ml_platform.modeling.promotion import Colour, ConflictError, Release, Serving


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
    """All models of this server. Reads need no lock: every change replaces a whole value."""

    def __init__(self, file: Path) -> None:
        """Load what was served before.

        Raises:
            BundleError: when a live bundle is missing or was changed.
        """
        self._file = file
        self._lock = threading.Lock()
        self._models: dict[str, ModelSlots] = {}
        self._predictors: dict[tuple[str, Colour], Predictor] = {}
        if file.exists():
            self._models = msgspec.json.decode(file.read_bytes(), type=dict[str, ModelSlots])
        for name, model in self._models.items():
            for colour, slot in model.slots.items():
                self._predictors[name, colour] = bundle.load(Path(slot.bundle), slot.release.digest)

    def names(self) -> list[str]:
        """Models that answer."""
        return sorted(name for name, model in self._models.items() if model.live)

    def observe(self, model: str) -> ModelSlots:
        """What is served of a model; nothing is a valid answer."""
        return self._models.get(model, ModelSlots())

    def predictor(self, model: str, colour: Colour | None = None) -> tuple[Colour, Release, Predictor]:
        """The predictor of a colour, or of whatever is live.

        Raises:
            KeyError: when nothing is there.
        """
        seen = self.observe(model)
        colour = colour or seen.live
        if colour is None:
            raise KeyError(model)
        return colour, seen.slots[colour].release, self._predictors[model, colour]

    def load(self, release: Release, folder: Path, colour: Colour, revision: int) -> ModelSlots:
        """Load a release into a colour that is not live.

        Raises:
            ConflictError: when the revision is not the current one or the colour is live.
            BundleError: when the bundle is not what its hash says.
        """
        predictor = _load(folder, release.digest)
        with self._lock:
            seen = self._current(release.model, revision)
            if seen.live == colour:
                msg = f"colour {colour} of {release.model!r} is live; load into the other one"
                raise ConflictError(msg)
            slots = {**seen.slots, colour: Slot(release=release, bundle=str(folder))}
            self._predictors[release.model, colour] = predictor
            return self._keep(release.model, ModelSlots(revision=revision + 1, live=seen.live, slots=slots))

    def switch(self, model: str, colour: Colour | None, revision: int) -> ModelSlots:
        """Make a loaded colour live, or none.

        Raises:
            ConflictError: when the revision is not the current one or the colour is empty.
        """
        with self._lock:
            seen = self._current(model, revision)
            if colour is not None and colour not in seen.slots:
                msg = f"colour {colour} of {model!r} is empty; load a release first"
                raise ConflictError(msg)
            return self._keep(model, ModelSlots(revision=revision + 1, live=colour, slots=seen.slots))

    def _current(self, model: str, revision: int) -> ModelSlots:
        seen = self.observe(model)
        if seen.revision != revision:
            msg = f"{model!r} is at revision {seen.revision}, not {revision}: somebody else changed it; look again"
            raise ConflictError(msg)
        return seen

    def _keep(self, model: str, slots: ModelSlots) -> ModelSlots:
        """Write the new state to disk before anybody can see it."""
        models = {**self._models, model: slots}
        unfinished = self._file.with_suffix(".unfinished")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as out:
            out.write(msgspec.json.encode(models))
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(self._file)
        self._models = models
        return slots


def _load(folder: Path, digest: str) -> Predictor:
    """A bundle that has answered a row; whatever goes wrong with it is the bundle's fault, not the server's."""
    try:
        predictor = bundle.load(folder, digest)
        predictor.answer(predictor.golden.rows[:1])
    except Exception as error:
        msg = f"bundle {digest[:12]} cannot be loaded: {error}"
        raise BundleError(msg) from error
    return predictor
