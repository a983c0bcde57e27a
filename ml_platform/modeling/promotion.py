"""Promotion: the one procedure that takes a registered winner to live traffic, safe to kill and run again anywhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from ml_platform.modeling.bundle import Golden, differences


class Colour(StrEnum):
    """The two places a model can be served from."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> "Colour":
        """The idle colour when this one is live."""
        return Colour.GREEN if self is Colour.BLUE else Colour.BLUE


@dataclass(frozen=True, kw_only=True)
class Release:
    """A registered version as it is served: what decides its answers, and its identity beside that."""

    model: str
    version: str
    digest: str
    run_id: str
    data_version: str
    code_revision: str


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served of one model right now. `revision` changes with every change."""

    revision: int
    live: Colour | None
    releases: Mapping[Colour, Release]

    @property
    def live_release(self) -> Release | None:
        """The release that traffic reaches."""
        return self.releases.get(self.live) if self.live else None


class PromotionError(RuntimeError):
    """A release that must not go live; traffic and alias are as before."""


class ModelServing(Protocol):
    """The door to wherever models are served. Every change names the revision it was decided on."""

    def observe(self, model: str) -> Serving:
        """What is served of a model now."""

    def load(self, release: Release, bundle: Path, colour: Colour, revision: int) -> Serving:
        """Load a release into the idle colour and wait until it is healthy.

        Raises:
            PromotionError: when the release cannot be loaded.
            ConflictError: when the revision is no longer the current one.
        """

    def answer(self, model: str, rows: Sequence[Mapping[str, Any]], colour: Colour | None) -> list[dict[str, Any]]:
        """Answers through the real endpoint: of one colour, or of whatever is live."""

    def switch(self, model: str, colour: Colour | None, revision: int) -> Serving:
        """Send live traffic to a colour, or to none.

        Raises:
            ConflictError: when the revision is no longer the current one.
        """


class Registry(Protocol):
    """The door to the registry, as far as a promotion needs it."""

    def champion_version(self, model: str) -> str | None:
        """The version that the champion alias names."""

    def set_champion(self, model: str, version: str) -> None:
        """Move the champion alias."""


class ConflictError(RuntimeError):
    """Somebody else changed what is served since it was observed; run again."""


def promote(
    release: Release,
    bundle: Path,
    golden: Golden,
    *,
    serving: ModelServing,
    registry: Registry,
    say: Callable[[str], None],
) -> Serving:
    """Take a release to live traffic and move the champion alias, each step only if it is not done yet.

    Raises:
        PromotionError: when the release does not answer as at training time; the old colour keeps answering and the
            alias has not moved.
        ConflictError: when another deployment interfered.
    """
    seen = serving.observe(release.model)
    if seen.live_release != release:
        seen = _switch_over(release, bundle, golden, seen, serving, say)
    if registry.champion_version(release.model) == release.version:
        say(f"version {release.version} is live, colour {seen.live}, and champion")
        return seen
    try:
        _prove(release, golden, serving, None)
    except PromotionError:
        back = seen.live.other if seen.live and seen.live.other in seen.releases else None
        serving.switch(release.model, back, seen.revision)
        say(f"live traffic switched back to {back or 'nothing'}")
        raise
    say(f"{len(golden.rows)} golden rows answered as at training time, live")
    registry.set_champion(release.model, release.version)
    say(f"alias champion now names version {release.version}")
    return seen


def _switch_over(
    release: Release,
    bundle: Path,
    golden: Golden,
    seen: Serving,
    serving: ModelServing,
    say: Callable[[str], None],
) -> Serving:
    """Load the release into the idle colour, prove it there, and send live traffic to it."""
    idle = seen.live.other if seen.live else Colour.BLUE
    if seen.releases.get(idle) != release:
        seen = serving.load(release, bundle, idle, seen.revision)
    say(f"version {release.version} is loaded and healthy, colour {idle}")
    _prove(release, golden, serving, idle)
    say(f"{len(golden.rows)} golden rows answered as at training time, colour {idle}")
    switched = serving.switch(release.model, idle, seen.revision)
    say(f"live traffic switched from {seen.live or 'nothing'} to {idle}")
    return switched


def _prove(release: Release, golden: Golden, serving: ModelServing, colour: Colour | None) -> None:
    where = f"colour {colour}" if colour else "live traffic"
    found = differences(serving.answer(release.model, golden.rows, colour), golden.answers)
    if found:
        msg = (
            f"model {release.model!r} version {release.version}, {where}: {len(found)} of {len(golden.rows)} golden "
            f"rows are answered differently from training time; first: {found[0]}"
        )
        raise PromotionError(msg)
