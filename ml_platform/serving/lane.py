"""The lane: one release in one colour; requests that arrive together are answered in one pass over the model."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.engine import OnnxEngine
from ml_platform.modeling.promotion import Colour, Release
from ml_platform.serving.http import JSON
from ml_platform.serving.journal import Answered, Journal
from ml_platform.serving.metrics import DROPPED, LaneMetrics
from ml_platform.serving.reading import RowReader, Values

INLINE_ROWS = 64
"""As many rows are computed between two requests; more, or a slow engine, get a thread, so that others are answered."""
LOG = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class UnanswerableError(ValueError):
    """Sound rows that the model cannot answer, such as a category that its encoder refuses."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request for predictions. `rows` are n JSON objects, `keys` is empty or says whose each row is."""

    request_id: str
    rows: Sequence[bytes | msgspec.Raw]
    keys: Sequence[str | None] = ()
    logged: bool = True
    began: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was answered, as objects and as the JSON array of them."""

    predictions: Sequence[dict[str, Any]]
    as_json: bytes


@dataclass(frozen=True)
class _Waiting:
    question: Question
    values: Sequence[Values]
    answer: "asyncio.Future[Answer]"


class Lane:
    """Answers with one release."""

    def __init__(self, release: Release, colour: Colour, predictor: Predictor, journal: Journal) -> None:
        """Prepare everything that does not depend on the request."""
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
        self._waiting: list[_Waiting] = []
        self._is_fast = isinstance(predictor.engine, OnnxEngine)
        self._is_computing = False

    async def ask(self, question: Question) -> Answer:
        """Answer a request, together with those that arrived with it; when idle it waits for nobody.

        Raises:
            BadRowsError: when a row breaks the schema.
            UnanswerableError: when the model cannot answer the rows.
        """
        values = self.reader.read(question.rows)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Waiting(question, values, answer))
        if len(self._waiting) == 1 and not self._is_computing:
            loop.call_soon(self._begin)
        return await answer

    def _begin(self) -> None:
        """Compute what is waiting: here when it is little, otherwise in a thread."""
        waiting, self._waiting = self._waiting, []
        if self._is_fast and sum(len(w.values) for w in waiting) <= INLINE_ROWS:
            self._deliver(waiting, self._computed(waiting))
            return
        self._is_computing = True
        computing = asyncio.get_running_loop().run_in_executor(None, self._computed, waiting)
        computing.add_done_callback(lambda done: self._finish(waiting, done))

    def _finish(self, waiting: Sequence[_Waiting], done: "asyncio.Future[list[Answer | Exception]]") -> None:
        self._is_computing = False
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        self._deliver(waiting, done.result())

    def _computed(self, waiting: Sequence[_Waiting]) -> list[Answer | Exception]:
        """An answer for each, or what kept it from being answered; nobody suffers from another's rows."""
        try:
            return self._answers(waiting)
        except Exception as error:
            if len(waiting) > 1:
                return [answer for one in waiting for answer in self._computed([one])]
            LOG.warning("%s version %s cannot answer", self.release.model, self.release.version, exc_info=True)
            return [UnanswerableError(f"the model cannot answer these rows: {error}")]

    def _answers(self, waiting: Sequence[_Waiting]) -> list[Answer | Exception]:
        values = waiting[0].values if len(waiting) == 1 else [row for w in waiting for row in w.values]
        predictions = self.predictor.predict(self.reader.columns(values)).as_json()
        answers: list[Answer | Exception] = []
        start = 0
        for w in waiting:
            mine = predictions[start : start + len(w.values)]
            answers.append(Answer(predictions=mine, as_json=_encode(mine)))
            start += len(mine)
        return answers

    def _deliver(self, waiting: Sequence[_Waiting], answers: Iterable[Answer | Exception]) -> None:
        """The answers are in the journal, counted, and on their way."""
        now = time.perf_counter()
        answered = [(w, answer) for w, answer in zip(waiting, answers, strict=True) if isinstance(answer, Answer)]
        try:
            self._log([(w.question, answer) for w, answer in answered if w.question.logged], now)
        except Exception:  # Whatever is wrong with the log, the answers are right.
            LOG.exception("answers of %s could not be logged", self.release.model)
        self._metrics.requests.inc(len(answered))
        rows = sum(len(w.values) for w in waiting)
        self._metrics.rows.inc(rows)
        self._metrics.batch.observe(rows)
        for w, answer in zip(waiting, answers, strict=True):
            self._metrics.latency.observe(now - w.question.began)
            if w.answer.done():  # The client went away.
                continue
            if isinstance(answer, Answer):
                w.answer.set_result(answer)
            else:
                w.answer.set_exception(answer)

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
                    rows=[bytes(row) for row in question.rows],
                    answers=answer.as_json,
                )
                for question, answer in answered
            ]
        )
        DROPPED.inc(self._journal.dropped_rows - dropped)
