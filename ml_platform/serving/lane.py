"""The lane: one release in one colour; requests that arrive together are answered in one pass over the model."""

import asyncio
import logging
import time
import traceback
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.engine import OnnxEngine
from ml_platform.modeling.promotion import Colour, Release
from ml_platform.serving.http import JSON, RETRY, Refusal
from ml_platform.serving.journal import Answered, Journal
from ml_platform.serving.metrics import DROPPED, LaneMetrics
from ml_platform.serving.privacy import discretion, loggable
from ml_platform.serving.reading import RowReader, Values

INLINE_ROWS = 64
"""As many rows are computed between two requests; more, or a slow engine, get a thread, so that others are answered."""
THREAD_ROWS = 256
"""As many rows are read and checked between two requests."""
BATCH_ROWS = 10_000
"""No pass over the model takes more, apart from a single request that has them."""
MOST_ROWS = 400_000
"""Rows that a lane takes in before it has answered; beyond that they would only wait, and fill the memory. Requests of
many rows leave half of it to the others."""
REASON_LENGTH = 300
LOG = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class UnanswerableError(ValueError):
    """Sound rows that the model cannot answer, such as a category that its encoder refuses."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request for predictions. `rows` are n JSON objects, `keys` is empty or says whose each row is."""

    request_id: str
    rows: Sequence[bytes | msgspec.Raw]
    keys: Sequence[str | None] = ()
    logged: bool = True
    began: float = msgspec.field(default_factory=time.perf_counter)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered, as objects and as the JSON array of them."""

    predictions: Sequence[dict[str, Any]]
    as_json: bytes


class _Waiting(msgspec.Struct, frozen=True):
    question: Question
    values: Sequence[Values]
    answer: "asyncio.Future[Answer]"


class Lane:
    """Answers with one release."""

    def __init__(
        self, release: Release, colour: Colour, predictor: Predictor, journal: Journal, hash_key: str = ""
    ) -> None:
        """Prepare everything that does not depend on the request.

        Raises:
            ValueError: when columns are to be hashed in the log, and there is no key.
        """
        self._discretion = discretion(predictor.fields, hash_key)
        self.release = release
        self.colour = colour
        self.predictor = predictor
        self.reader = RowReader(predictor.fields)
        self.headers = (
            JSON,
            (b"x-model-version", release.version.encode()),
            (b"x-model-colour", colour.encode()),
        )
        self._journal = journal
        self._metrics = LaneMetrics.of(release.model, release.version, colour)
        self._few: list[_Waiting] = []
        self._many: list[_Waiting] = []
        self._rows = 0
        self._is_fast = isinstance(predictor.engine, OnnxEngine)
        self._is_computing = False

    async def ask(self, question: Question) -> Answer:
        """Answer a request, together with those that arrived with it; when idle it waits for nobody.

        Raises:
            Refusal: when too much is waiting already.
            BadRowsError: when a row breaks the schema.
            UnanswerableError: when the model cannot answer the rows.
        """
        count = len(question.rows)
        if self._rows + count > (MOST_ROWS if count <= INLINE_ROWS else MOST_ROWS // 2):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many rows are waiting; try again", RETRY)
        self._rows += count
        try:
            if count > THREAD_ROWS:
                values = await asyncio.to_thread(self.reader.read, question.rows)
            else:
                values = self.reader.read(question.rows)
            return await self._asked(question, values)
        finally:
            self._rows -= count

    def _asked(self, question: Question, values: Sequence[Values]) -> "asyncio.Future[Answer]":
        """The answer that is to come. Whoever asks for little does not wait for those who ask for much."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(question, values, loop.create_future())
        if self._is_fast and len(values) <= INLINE_ROWS:
            self._few.append(waiting)
            if len(self._few) == 1:
                loop.call_soon(self._compute_few, 1)
        else:
            self._many.append(waiting)
            if len(self._many) == 1 and not self._is_computing:
                loop.call_soon(self._compute_many)
        return waiting.answer

    def _compute_few(self, seen: int) -> None:
        """Compute as much as may be computed here at a time, once a round of the loop has brought nothing more.

        A pass costs little more for eight rows than for one, and clients that were answered together ask again one
        by one.
        """
        count = len(self._few)
        if seen < count < INLINE_ROWS:
            asyncio.get_running_loop().call_soon(self._compute_few, count)
            return
        waiting = _taken(self._few, INLINE_ROWS)
        if self._few:
            asyncio.get_running_loop().call_soon(self._compute_few, len(self._few))
        self._deliver(waiting, self._computed(waiting))

    def _compute_many(self) -> None:
        """Compute a batch in a thread."""
        waiting = _taken(self._many, BATCH_ROWS)
        self._is_computing = True
        try:
            computing = asyncio.get_running_loop().run_in_executor(None, self._computed, waiting)
        except (RuntimeError, MemoryError):  # The system gives no thread.
            self._finish(waiting, [Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "out of threads", RETRY) for _ in waiting])
        else:
            computing.add_done_callback(lambda done: self._finish(waiting, done.result()))

    def _finish(self, waiting: Sequence[_Waiting], answers: Sequence[Answer | Exception]) -> None:
        self._is_computing = False
        if self._many:
            asyncio.get_running_loop().call_soon(self._compute_many)
        self._deliver(waiting, answers)

    def _computed(self, waiting: Sequence[_Waiting]) -> list[Answer | Exception]:
        """An answer for each, or what kept it from being answered; nobody suffers from another's rows."""
        try:
            return self._answers(waiting)
        except Exception as error:  # noqa: BLE001 - whatever a model raises is an answer to whoever asked for it
            if len(waiting) > 1:
                half = len(waiting) // 2
                return self._computed(waiting[:half]) + self._computed(waiting[half:])
            # Without the message: it may quote the row.
            where = "".join(traceback.format_tb(error.__traceback__))
            LOG.warning(
                "%s version %s cannot answer: %s\n%s", self.release.model, self.release.version, type(error).__name__,
                where,
            )  # fmt: skip
            return [UnanswerableError(f"the model cannot answer these rows: {str(error)[:REASON_LENGTH]}")]

    def _answers(self, waiting: Sequence[_Waiting]) -> list[Answer | Exception]:
        values = waiting[0].values if len(waiting) == 1 else [row for w in waiting for row in w.values]
        predictions = self.predictor.predict(self.reader.columns(values)).as_json()
        if len(predictions) != len(values):
            msg = f"{len(predictions)} answers for {len(values)} rows"
            raise ValueError(msg)
        answers: list[Answer | Exception] = []
        start = 0
        for w in waiting:
            mine = predictions[start : start + len(w.values)]
            answers.append(Answer(predictions=mine, as_json=_encode(mine)))
            start += len(mine)
        return answers

    def _deliver(self, waiting: Sequence[_Waiting], answers: Sequence[Answer | Exception]) -> None:
        """The answers are in the journal, counted, and on their way."""
        now = time.perf_counter()
        answered = [(w, answer) for w, answer in zip(waiting, answers, strict=True) if isinstance(answer, Answer)]
        try:
            self._log([(w.question, answer) for w, answer in answered if w.question.logged], now)
            self._count([w for w, _ in answered], now)
        except Exception:  # Whatever is wrong with log and metrics, the answers are right.
            LOG.exception("answers of %s could not be logged or counted", self.release.model)
        for w, answer in zip(waiting, answers, strict=True):
            if w.answer.done():  # The client went away.
                continue
            if isinstance(answer, Answer):
                w.answer.set_result(answer)
            else:
                w.answer.set_exception(answer)

    def _count(self, answered: Sequence[_Waiting], now: float) -> None:
        if not answered:
            return
        rows = sum(len(w.values) for w in answered)
        self._metrics.requests.inc(len(answered))
        self._metrics.rows.inc(rows)
        self._metrics.batch.observe(rows)
        for w in answered:
            self._metrics.latency.observe(now - w.question.began)

    def _log(self, answered: Sequence[tuple[Question, Answer]], now: float) -> None:
        if not answered:
            return
        at_us = time.time_ns() // 1000
        dropped = self._journal.dropped_rows
        self._journal.append(
            [
                Answered(
                    request_id=question.request_id,
                    at_us=at_us,
                    model=self.release.model,
                    version=self.release.version,
                    colour=self.colour,
                    latency_us=int((now - question.began) * 1e6),
                    keys=question.keys,
                    rows=self._loggable(question.rows),
                    answers=answer.as_json,
                )
                for question, answer in answered
            ]
        )
        DROPPED.inc(self._journal.dropped_rows - dropped)

    def _loggable(self, rows: Sequence[bytes | msgspec.Raw]) -> list[bytes]:
        as_bytes = list(map(bytes, rows))
        if self._discretion is None:
            return as_bytes
        return [loggable(row, self._discretion) for row in as_bytes]


def _taken(waiting: list[_Waiting], most: int) -> Sequence[_Waiting]:
    """The first of those who wait: as many as have so many rows together, or one who has more."""
    rows = count = 0
    for w in waiting:
        rows += len(w.values)
        if count and rows > most:
            break
        count += 1
    taken = waiting[:count]
    del waiting[:count]
    return taken
