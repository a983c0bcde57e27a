"""Promotion: one transaction, safe to kill anywhere, and never two at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import Golden
from ml_platform.modeling.promotion import Colour, ConflictError, PromotionError, Release, promote
from ml_platform_tests.fakes.serving import FakeRegistry, FakeServing
from ml_platform_tests.small_models import release


class Killed(BaseException):
    """The process died here."""


@dataclass
class Dying:
    """A door that dies before or after its n-th use, as a killed process would."""

    door: Any
    uses: list[str]
    die_at: int
    before: bool

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.door, name)

        def use(*args: Any) -> Any:
            self.uses.append(name)
            if self.before and len(self.uses) == self.die_at:
                raise Killed
            done = method(*args)
            if len(self.uses) == self.die_at:
                raise Killed
            return done

        return use


@dataclass
class World:
    """Serving, registry, and two versions of a model of which the first is live."""

    folder: Path
    serving: FakeServing = field(default_factory=FakeServing)
    registry: FakeRegistry = field(default_factory=FakeRegistry)

    def promote(
        self, made: tuple[Release, Path], *, golden: Golden | None = None, serving: Any = None, registry: Any = None
    ) -> None:
        """Promote a release with the doors given, or the sound ones."""
        golden = golden or bundle.read_golden(made[1], made[0].digest)
        doors = (serving or self.serving, registry or self.registry)
        promote(made[0], made[1], golden, serving=doors[0], registry=doors[1], say=lambda _: None)

    @property
    def live_version(self) -> str | None:
        """The version that answers."""
        live = self.serving.observe("small").live_release
        return live.version if live else None


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 1 is live and champion."""
    world = World(tmp_path)
    world.promote(release(tmp_path, "1"))
    return world


def test_the_first_version_goes_live_and_becomes_champion(world: World) -> None:
    """Nothing was there before."""
    assert (world.live_version, world.registry.champions) == ("1", {"small": "1"})
    assert world.serving.observe("small").live == Colour.BLUE


def test_the_next_version_takes_the_other_colour(world: World) -> None:
    """The old one stays loaded beside it."""
    world.promote(release(world.folder, "2", flipped=True))

    seen = world.serving.observe("small")
    assert (seen.live, seen.releases[Colour.BLUE].version, seen.releases[Colour.GREEN].version) == ("green", "1", "2")
    assert world.registry.champions == {"small": "2"}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 9))
def test_a_process_killed_at_any_step_converges_when_run_again(world: World, step: int, before: bool) -> None:
    """Between kill and repair somebody always answers, and the alias never names what is not live."""
    second = release(world.folder, "2", flipped=True)
    uses: list[str] = []
    serving, registry = Dying(world.serving, uses, step, before), Dying(world.registry, uses, step, before)

    try:
        world.promote(second, serving=serving, registry=registry)
    except Killed:
        assert world.live_version in {"1", "2"}
        assert world.registry.champions["small"] in {"1", world.live_version}
    else:
        assert step > len(uses)
    world.promote(second)

    assert (world.live_version, world.registry.champions) == ("2", {"small": "2"})


def test_the_steps_of_a_promotion_are_fewer_than_the_kills_above(world: World) -> None:
    """Every step is covered by the test before this one."""
    uses: list[str] = []
    serving, registry = (Dying(door, uses, 0, before=True) for door in (world.serving, world.registry))

    world.promote(release(world.folder, "2", flipped=True), serving=serving, registry=registry)

    assert uses == ["observe", "load", "answer", "switch", "champion_version", "answer", "set_champion"]


def test_a_release_that_answers_differently_never_goes_live(world: World) -> None:
    """Golden rows that another model answered."""
    first, second = release(world.folder, "1"), release(world.folder, "2", flipped=True)
    wrong = bundle.read_golden(first[1], first[0].digest)

    with pytest.raises(PromotionError, match="golden rows are answered differently from training time"):
        world.promote(second, golden=wrong)

    assert (world.live_version, world.registry.champions) == ("1", {"small": "1"})


def test_a_release_that_answers_differently_only_once_live_is_taken_back(world: World) -> None:
    """The second proof sends traffic back to the old colour."""

    class LivesALie(FakeServing):
        def answer(self, model: str, rows: Any, colour: Colour | None) -> list[dict[str, Any]]:
            answers = super().answer(model, rows, colour)
            return answers if colour else [{**a, "probability": 0.5} for a in answers]

    lying = LivesALie(world.serving.models, world.serving.bundles)

    with pytest.raises(PromotionError, match="live traffic"):
        world.promote(release(world.folder, "2", flipped=True), serving=lying)

    assert (world.live_version, world.registry.champions) == ("1", {"small": "1"})


def test_a_changed_bundle_is_refused(world: World) -> None:
    """Its hash no longer fits."""
    second = release(world.folder, "2", flipped=True)
    golden = bundle.read_golden(second[1], second[0].digest)
    (second[1] / "model.onnx").write_bytes(b"something else")

    with pytest.raises(PromotionError, match=r"model\.onnx was changed"):
        world.promote(second, golden=golden)

    assert (world.live_version, world.registry.champions) == ("1", {"small": "1"})


def test_two_deployers_cannot_interleave(world: World) -> None:
    """A switch decided on an old view of the world is refused."""
    second = release(world.folder, "2", flipped=True)

    class Overtaken(FakeServing):
        def answer(self, model: str, rows: Any, colour: Colour | None) -> list[dict[str, Any]]:
            seen = self.observe(model)
            if seen.live == Colour.BLUE and colour:
                self.switch(model, Colour.BLUE, seen.revision)
            return super().answer(model, rows, colour)

    with pytest.raises(ConflictError):
        world.promote(second, serving=Overtaken(world.serving.models, world.serving.bundles))

    assert (world.live_version, world.registry.champions) == ("1", {"small": "1"})
