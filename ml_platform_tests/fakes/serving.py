"""Model serving in memory; it keeps the same contract as the real server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import BundleError
from ml_platform.modeling.promotion import Colour, ConflictError, PromotionError, Release, Serving


@dataclass
class FakeServing:
    """Two colours per model in a dictionary."""

    models: dict[str, Serving] = field(default_factory=dict)
    bundles: dict[str, Path] = field(default_factory=dict)

    def observe(self, model: str) -> Serving:
        """What is served of a model now."""
        return self.models.get(model, Serving(revision=0, live=None, releases={}))

    def load(self, release: Release, folder: Path, colour: Colour, revision: int) -> Serving:
        """Load a release into the idle colour."""
        try:
            bundle.check(folder, release.digest)
        except BundleError as error:
            raise PromotionError(str(error)) from error
        seen = self._current(release.model, revision)
        if seen.live == colour:
            msg = f"colour {colour} is live"
            raise ConflictError(msg)
        self.bundles[release.digest] = folder
        return self._keep(release.model, replace(seen, releases={**seen.releases, colour: release}))

    def answer(self, model: str, rows: Sequence[Mapping[str, Any]], colour: Colour | None) -> list[dict[str, Any]]:
        """Answers of one colour, or of whatever is live."""
        seen = self.observe(model)
        release = seen.releases.get(colour or seen.live or Colour.BLUE)
        if release is None or (colour is None and seen.live is None):
            msg = f"no model {model!r} is live"
            raise PromotionError(msg)
        return bundle.load(self.bundles[release.digest], release.digest).answer(rows)

    def switch(self, model: str, colour: Colour | None, revision: int) -> Serving:
        """Send live traffic to a colour, or to none."""
        seen = self._current(model, revision)
        if colour is not None and colour not in seen.releases:
            msg = f"colour {colour} is empty"
            raise ConflictError(msg)
        return self._keep(model, replace(seen, live=colour))

    def _current(self, model: str, revision: int) -> Serving:
        seen = self.observe(model)
        if seen.revision != revision:
            msg = f"{model!r} is at revision {seen.revision}, not {revision}"
            raise ConflictError(msg)
        return seen

    def _keep(self, model: str, serving: Serving) -> Serving:
        self.models[model] = replace(serving, revision=serving.revision + 1)
        return self.models[model]


@dataclass
class FakeRegistry:
    """The champion alias in a dictionary."""

    champions: dict[str, str] = field(default_factory=dict)

    def champion_version(self, model: str) -> str | None:
        """The version that the alias names."""
        return self.champions.get(model)

    def set_champion(self, model: str, version: str) -> None:
        """Move the alias."""
        self.champions[model] = version
