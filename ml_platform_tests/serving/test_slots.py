"""Slots of several workers over one file: exactly one of two changes wins, and nobody sees half of one."""

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from ml_platform.modeling import bundle
from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.promotion import Colour, ConflictError
from ml_platform.serving.journal import Journal
from ml_platform.serving.slots import ModelSlots, NotLoadedError, Slots
from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import WIDE


def _worker(folder: Path) -> Slots:
    return Slots(folder / "slots.json", Journal(folder / "journal", 2**20))


def test_the_same_bundle_is_in_memory_once(tmp_path: Path, releases: Releases) -> None:
    """However many lanes answer with it, and however many deployers bring it at the same time."""
    release, folder = releases.first
    slots = _worker(tmp_path)

    async def load() -> None:
        await slots.load(release, folder, Colour.BLUE, 0)
        await slots.load(release, folder, Colour.GREEN, 1)

    asyncio.run(load())

    assert slots.lane(WIDE, Colour.BLUE).predictor is slots.lane(WIDE, Colour.GREEN).predictor


def test_a_bundle_that_nobody_answers_with_is_let_go(tmp_path: Path, releases: Releases) -> None:
    """A refresh every week does not fill the memory."""
    first, second = releases.first, releases.second
    slots = _worker(tmp_path)

    async def replace() -> None:
        await slots.load(*first, Colour.BLUE, 0)
        await slots.load(*second, Colour.BLUE, 1)

    asyncio.run(replace())

    assert list(slots._predictors) == [second[0].digest]


def test_of_two_deployers_one_wins(tmp_path: Path, releases: Releases) -> None:
    """The other is told to look again; both workers then see the same."""
    here, there = _worker(tmp_path), _worker(tmp_path)

    async def race() -> list[ModelSlots | BaseException]:
        return await asyncio.gather(
            *(slots.load(*releases.first, colour, 0) for slots in (here, there) for colour in Colour),
            return_exceptions=True,
        )

    outcomes = asyncio.run(race())

    lost = [outcome for outcome in outcomes if not isinstance(outcome, ModelSlots)]
    assert [type(outcome) for outcome in lost] == [ConflictError] * 3
    for slots in (here, there):
        slots.follow()
        assert slots.observe(WIDE).revision == 1
    assert here.observe(WIDE) == there.observe(WIDE)


def test_what_another_worker_loaded_is_not_loaded_on_the_loop(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for it waits; everything else is answered meanwhile."""
    here, there = _worker(tmp_path), _worker(tmp_path)
    reading, go_on = threading.Event(), threading.Event()
    real = bundle.load

    def slowly(*given: Any) -> Predictor:
        reading.set()
        go_on.wait()
        return real(*given)

    async def load() -> None:
        await here.load(*releases.first, Colour.BLUE, 0)
        await here.switch(WIDE, Colour.BLUE, 1)
        monkeypatch.setattr(bundle, "load", slowly)
        there.follow()
        with pytest.raises(NotLoadedError):
            there.lane(WIDE)
        settling = asyncio.create_task(there.settle())
        await asyncio.to_thread(reading.wait)
        there.follow()
        assert (there.names(), there.broken()) == ([WIDE], [])
        go_on.set()
        await settling
        assert there.lane(WIDE).release == releases.first[0]

    asyncio.run(load())


def test_a_broken_bundle_costs_only_its_own_model(tmp_path: Path, releases: Releases) -> None:
    """And is tried again when something changes."""
    release, whole = releases.first
    folder = tmp_path / release.digest
    shutil.copytree(whole, folder)
    before = _worker(tmp_path)

    async def promote() -> None:
        await before.load(release, folder, Colour.BLUE, 0)
        await before.switch(WIDE, Colour.BLUE, 1)
        await before.load(*releases.strict, Colour.BLUE, 0)
        await before.switch("strict", Colour.BLUE, 1)

    asyncio.run(promote())
    shutil.rmtree(folder)
    after = _worker(tmp_path)

    assert (after.names(), after.broken()) == (["strict", WIDE], [WIDE])
    assert after.lane("strict").release == releases.strict[0]
    with pytest.raises(KeyError):
        after.lane(WIDE)
    shutil.copytree(whole, folder)
    asyncio.run(before.switch("strict", None, 2))
    after.follow()
    asyncio.run(after.settle())
    assert (after.names(), after.broken()) == ([WIDE], [])


def test_no_change_looks_like_the_one_before(
    tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a clock may stand still and a file system use its numbers again."""
    monkeypatch.setattr("ml_platform.serving.slots.time.time_ns", lambda: 1_700_000_000_000_000_000)
    here, there = _worker(tmp_path), _worker(tmp_path)
    seen = set()

    async def switch() -> None:
        await here.load(*releases.first, Colour.BLUE, 0)
        for revision in range(1, 30):
            colour = Colour.BLUE if revision % 2 else None
            await here.switch(WIDE, colour, revision)
            seen.add((tmp_path / "slots.json").stat().st_mtime_ns)
            there.follow()
            assert there.observe(WIDE).live == colour

    asyncio.run(switch())

    assert len(seen) == 29


def test_a_change_is_whole_or_not_there(tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full leaves everything as it was, and the next change works."""
    slots = _worker(tmp_path)
    asyncio.run(slots.load(*releases.first, Colour.BLUE, 0))
    before = (tmp_path / "slots.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("ml_platform.serving.slots.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            asyncio.run(slots.load(*releases.second, Colour.BLUE, 1))

    assert (tmp_path / "slots.json").read_bytes() == before
    assert slots.lane(WIDE, Colour.BLUE).release == releases.first[0]
    asyncio.run(slots.switch(WIDE, Colour.BLUE, 1))
    assert json.loads((tmp_path / "slots.json").read_bytes())[WIDE]["live"] == "blue"
