"""The contract of model serving, kept by the fake of the tests and by the real server alike."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ml_platform.modeling import bundle
from ml_platform.modeling.promotion import Colour, ConflictError, ModelServing, PromotionError
from ml_platform.resources.serving import LocalServing
from ml_platform_tests.fakes.serving import FakeServing
from ml_platform_tests.small_models import release


@pytest.fixture(params=["fake", "real"])
def serving(request: pytest.FixtureRequest) -> Iterator[ModelServing]:
    """The door, with nothing behind it or with the real model server."""
    if request.param == "fake":
        yield FakeServing()
    else:
        here = request.getfixturevalue("platform").settings
        yield LocalServing(url=here.serving_url, token=here.serving_token)


@pytest.fixture
def model() -> str:
    """A name nobody used before."""
    return f"m{uuid4().hex[:12]}"


def test_at_first_nothing_is_served(serving: ModelServing, model: str) -> None:
    """Nothing is an answer, not an error."""
    seen = serving.observe(model)

    assert (seen.revision, seen.live, seen.releases) == (0, None, {})


def test_a_loaded_release_answers_only_when_asked_by_colour(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """Loading changes nothing for live traffic."""
    made, folder = release(tmp_path, "1", model=model)
    golden = bundle.read_golden(folder, made.digest)

    seen = serving.load(made, folder, Colour.BLUE, 0)

    assert (seen.revision, seen.live, seen.releases) == (1, None, {Colour.BLUE: made})
    assert bundle.differences(serving.answer(model, golden.rows, Colour.BLUE), golden.answers) == []
    with pytest.raises(PromotionError):
        serving.answer(model, golden.rows, None)


def test_a_switch_sends_live_traffic_to_the_colour(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """And another switch sends it back."""
    first, second = release(tmp_path, "1", model=model), release(tmp_path, "2", flipped=True, model=model)
    serving.load(first[0], first[1], Colour.BLUE, 0)
    serving.load(second[0], second[1], Colour.GREEN, 1)
    for colour, (made, folder), revision in ((Colour.GREEN, second, 2), (Colour.BLUE, first, 3)):
        golden = bundle.read_golden(folder, made.digest)

        seen = serving.switch(model, colour, revision)

        assert (seen.live, seen.live_release) == (colour, made)
        assert bundle.differences(serving.answer(model, golden.rows, None), golden.answers) == []


def test_a_change_decided_on_an_old_view_is_refused(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """Whoever comes second looks again."""
    made, folder = release(tmp_path, "1", model=model)
    serving.load(made, folder, Colour.BLUE, 0)

    with pytest.raises(ConflictError):
        serving.load(made, folder, Colour.BLUE, 0)
    with pytest.raises(ConflictError):
        serving.switch(model, Colour.BLUE, 0)
    assert serving.observe(model).live is None


def test_the_live_colour_cannot_be_loaded_over(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """Traffic never sees a model change under it."""
    made, folder = release(tmp_path, "1", model=model)
    serving.load(made, folder, Colour.BLUE, 0)
    serving.switch(model, Colour.BLUE, 1)

    with pytest.raises(ConflictError):
        serving.load(made, folder, Colour.BLUE, 2)


def test_an_empty_colour_cannot_go_live(serving: ModelServing, model: str) -> None:
    """There would be nobody to answer."""
    with pytest.raises(ConflictError):
        serving.switch(model, Colour.GREEN, 0)


def test_a_bundle_that_is_not_what_its_hash_says_is_refused(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """Not loaded, and nothing changed."""
    made, folder = release(tmp_path, "1", model=model)
    (folder / "features.py").write_text("raise SystemExit\n")

    with pytest.raises(PromotionError):
        serving.load(made, folder, Colour.BLUE, 0)
    assert serving.observe(model).releases == {}


def test_live_traffic_can_be_taken_away(serving: ModelServing, model: str, tmp_path: Path) -> None:
    """A first release that turns out wrong leaves nothing live."""
    made, folder = release(tmp_path, "1", model=model)
    serving.load(made, folder, Colour.BLUE, 0)
    serving.switch(model, Colour.BLUE, 1)

    assert serving.switch(model, None, 2).live is None
