"""A lane answers everybody who asked, whatever happens to its model, its journal, its threads or its clients."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ml_platform.modeling import bundle
from ml_platform.modeling.columns import Column
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.promotion import Colour
from ml_platform.serving import lane as lanes
from ml_platform.serving.http import Refusal
from ml_platform.serving.journal import Journal
from ml_platform.serving.lane import Answer, Lane, Question, UnanswerableError
from ml_platform_tests.serving.conftest import Releases
from ml_platform_tests.serving.models import KNOWN, ROW, UNSEEN

pytestmark = pytest.mark.filterwarnings("error")


def _lane(made: tuple[Any, Path], folder: Path) -> Lane:
    release, where = made
    return Lane(release, Colour.BLUE, bundle.load(where, release.digest), Journal(folder / "journal", 2**30))


@pytest.fixture
def fast(releases: Releases, tmp_path: Path) -> Lane:
    """Computes between two requests."""
    return _lane(releases.first, tmp_path)


@pytest.fixture
def slow(releases: Releases, tmp_path: Path) -> Lane:
    """Computes in a thread."""
    return _lane(releases.strict, tmp_path)


def _question(*rows: Mapping[str, Any]) -> Question:
    return Question(request_id="r", rows=[msgspec.json.encode(row) for row in rows])


async def _ask_all(lane: Lane, *questions: Question) -> list[Answer | BaseException]:
    async with asyncio.timeout(30):
        return await asyncio.gather(*(lane.ask(question) for question in questions), return_exceptions=True)


def _kinds(answers: list[Answer | BaseException]) -> list[type]:
    return [type(answer) for answer in answers]


def test_one_that_cannot_be_answered_costs_seven_others_nothing(slow: Lane) -> None:
    """Wherever it stands among them."""
    for bad in range(8):
        answers = asyncio.run(_ask_all(slow, *(_question(UNSEEN if i == bad else KNOWN) for i in range(8))))

        assert _kinds(answers) == [UnanswerableError if i == bad else Answer for i in range(8)]


def test_each_gets_the_answers_to_its_own_rows(fast: Lane) -> None:
    """Also when some are computed in one pass and some in the next."""
    rows = [[{**ROW, "size": 10.0 * i + j} for j in range(i % 7 + 1)] for i in range(60)]

    together = asyncio.run(_ask_all(fast, *(_question(*r) for r in rows)))

    for mine, answer in zip(rows, together, strict=True):
        assert isinstance(answer, Answer)
        assert bundle.differences(list(answer.predictions), fast.predictor.answer(mine)) == []


@pytest.mark.parametrize(
    "rows", [[1, 10_000], [10_000, 1], [64, 9_990, 64, 10_000, 1, 1], [1, 64, 63, 1, 10_000, 10_000]]
)
def test_small_and_large_requests_arrive_together(fast: Lane, rows: list[int]) -> None:
    """None is left behind when they do not fit into one pass."""
    assert _kinds(asyncio.run(_ask_all(fast, *(_question(*[ROW] * n) for n in rows)))) == [Answer] * len(rows)


def test_a_journal_that_fails_costs_no_answer(fast: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do metrics."""

    def fail(*_: object) -> None:
        raise RuntimeError

    for name, owner in (("append", Journal), ("_count", Lane)):
        monkeypatch.setattr(owner, name, fail)
        assert _kinds(asyncio.run(_ask_all(fast, _question(ROW), _question(ROW)))) == [Answer, Answer]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_lane_that_gets_no_thread_says_so_and_goes_on(slow: Lane, error: Exception) -> None:
    """Nobody waits for a thread that never was."""

    async def ask() -> tuple[list[Answer | BaseException], list[Answer | BaseException]]:
        loop = asyncio.get_running_loop()

        def fail(*_: object) -> Any:
            raise error

        real, loop.run_in_executor = loop.run_in_executor, fail  # type: ignore[method-assign,assignment]
        without = await _ask_all(slow, _question(KNOWN))
        loop.run_in_executor = real  # type: ignore[method-assign]
        return without, await _ask_all(slow, _question(KNOWN))

    without, after = asyncio.run(ask())

    assert _kinds(without) == [Refusal]
    assert _kinds(after) == [Answer]


def test_a_model_that_answers_too_few_rows_answers_nobody(fast: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than somebody with another's answer."""
    predictor = fast.predictor

    def short(self: object, columns: Mapping[str, Column]) -> Predictions:
        del self
        whole = predictor_predict(columns)
        return replace(whole, scores=whole.scores[:-1])

    predictor_predict = predictor.predict
    monkeypatch.setattr(type(predictor), "predict", short)

    assert _kinds(asyncio.run(_ask_all(fast, _question(ROW), _question(ROW, ROW)))) == [UnanswerableError] * 2


def test_clients_that_go_away_while_they_wait_leave_nothing_behind(slow: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered, and there is room again."""
    computing, go_on = threading.Event(), threading.Event()
    real = Lane._computed

    def held(self: Lane, waiting: Any) -> Any:
        computing.set()
        go_on.wait()
        return real(self, waiting)

    monkeypatch.setattr(Lane, "_computed", held)

    async def ask() -> list[Answer | BaseException]:
        tasks = [asyncio.create_task(slow.ask(_question(KNOWN))) for _ in range(8)]
        await asyncio.to_thread(computing.wait)
        late = [asyncio.create_task(slow.ask(_question(KNOWN))) for _ in range(8)]
        await asyncio.sleep(0)
        for task in (*tasks[::2], *late[::2]):
            task.cancel()
        go_on.set()
        return await asyncio.gather(*tasks, *late, return_exceptions=True)

    assert _kinds(asyncio.run(ask())) == [asyncio.CancelledError, Answer] * 8
    assert slow._rows == 0


def test_no_more_is_taken_in_than_can_wait(fast: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused may come back, and everybody else is answered, a batch at a time."""
    monkeypatch.setattr(lanes, "MOST_ROWS", 2000)
    monkeypatch.setattr(lanes, "BATCH_ROWS", 300)
    batches: list[int] = []
    real = Lane._computed

    def counted(self: Lane, waiting: Any) -> Any:
        batches.append(sum(len(w.values) for w in waiting))
        return real(self, waiting)

    monkeypatch.setattr(Lane, "_computed", counted)
    large = _question(*[ROW] * 100)

    answers = asyncio.run(_ask_all(fast, *[large] * 15, _question(ROW)))

    assert _kinds(answers) == [Answer] * 10 + [Refusal] * 5 + [Answer]
    assert isinstance(answers[-2], Refusal)
    assert (answers[-2].status, answers[-2].headers) == (503, ((b"retry-after", b"1"),))
    assert sorted(batches) == [1, 100, 300, 300, 300]
    assert _kinds(asyncio.run(_ask_all(fast, large))) == [Answer]
