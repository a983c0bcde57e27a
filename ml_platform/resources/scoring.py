"""Scoring: the champion answers every row of a table; reading, answering and writing go on at the same time."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from ml_platform.modeling import bundle
from ml_platform.modeling.answers import answer, column_types
from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.row_rules import misfits
from ml_platform.modeling.spec import PostgresTable
from ml_platform.resources.clock import Clock
from ml_platform.resources.score_tables import Progress, ScoreTables, Work, opened
from ml_platform.resources.score_target import REJECTED, RUNS, ScoreError, beside
from ml_platform.resources.source import SourceDatabase, SourceError
from ml_platform.resources.tracking import CHAMPION, ExperimentTracking

# One commit each. With a few of them on their way at once, they bound the memory whatever the table's size.
CHUNK_ROWS = 50_000
# Chunks under way for every processor: the next one is there when a processor becomes free.
AHEAD = 2
SAY_EVERY_SECONDS = 5.0
SAMPLED = 20_000

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that answers."""

    model: str
    version: int
    predictor: Predictor


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which table to score, by which key, and where to; `anew` does not continue an interrupted scoring."""

    table: str
    key: str
    into: str
    continue_within: timedelta
    anew: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a scoring came to. `rows` were done here and now, `rows_before` by the interrupted one that was continued.

    `rows_scored` and `rows_rejected` are of both. `sample` has some of the answers: probabilities, values, or the
    labels of a multiclass model.
    """

    version: int
    into: str
    rejected: str
    runs: str
    rows: int
    rows_before: int
    rows_scored: int
    rows_rejected: int
    seconds: float
    sample: list[Any]

    @property
    def rows_per_s(self) -> float:
        """How fast it was."""
        return self.rows / max(self.seconds, 1e-9)


def champion_of(tracking: ExperimentTracking, bundles: Path, model: str) -> Champion:
    """The model's champion, ready to answer.

    Raises:
        ScoreError: when it has none.
        BundleError: when its bundle is not what it should be.
    """
    version = tracking.version_with_alias(model, CHAMPION)
    if version is None:
        msg = f"{model} has no champion yet: run `ml-platform refresh {model}` first"
        raise ScoreError(msg)
    folder = tracking.fetch_bundle(version.run_id, bundles, version.digest)
    # One thread each: chunks are answered side by side, which wastes nothing on threads that wait for one another.
    return Champion(model=model, version=int(version.version), predictor=bundle.load(folder, version.digest))


def score(source: SourceDatabase, champion: Champion, order: Order, clock: Clock, say: Callable[[str], None]) -> Scored:
    """Every row of a snapshot of the table is answered in the target, or rejected there with the reason.

    An interrupted scoring of the same is continued: what it finished stays, the rest is read as it is now.

    Args:
        source: the database that has the table, and the target.
        champion: who answers.
        order: what is asked for.
        clock: what time it is.
        say: told in words what happens, every few seconds.

    Raises:
        ScoreError: the table does not fit the model, or the target cannot be written.
        SourceError: the source cannot be read, or its key is missing or repeated.
        SourceUnavailableError: when the database cannot be reached or goes away meanwhile.
    """
    predictor = champion.predictor
    _refuse_misfits(source, champion, order)
    table = PostgresTable(order.table, key=order.key)
    inputs = [field.name for field in predictor.fields]
    answer_columns = column_types(predictor.manifest.task, predictor.manifest.classes)
    with (
        opened(source, order.table, order.key, order.into, answer_columns) as (tables, name, expected),
        source.pull(table, None, inputs) as pull,
    ):
        work = Work(
            model=champion.model,
            model_version=champion.version,
            bundle=predictor.digest,
            source=name,
            files=f"{pull.cursor.server} {pull.cursor.table} {pull.cursor.storage} {tables.files}",
        )
        before = tables.begin(work, clock.now(), continue_within=order.continue_within, anew=order.anew)
        say(_opening(champion, order, before, expected))
        began = time.monotonic()
        rest = _Rest(tables, champion, order.key, clock, _Report(say, before.rows, expected, began))
        after = rest.done(before, pull.by_key(before.up_to))
        tables.finish(after, clock.now())
        seconds = time.monotonic() - began
        column = "label" if "probabilities" in answer_columns else list(answer_columns)[-1]
        return Scored(
            version=champion.version,
            into=order.into,
            rejected=beside(order.into, REJECTED),
            runs=beside(order.into, RUNS),
            rows=after.rows - before.rows,
            rows_before=before.rows,
            rows_scored=after.rows_scored,
            rows_rejected=after.rows_rejected,
            seconds=seconds,
            sample=tables.sample(column, after.rows_scored, SAMPLED),
        )


@dataclass
class _Report:
    """Says every few seconds how far it is."""

    say: Callable[[str], None]
    before: int
    expected: int
    began: float
    said: float = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - max(self.said, self.began) < SAY_EVERY_SECONDS:
            return
        self.said = now
        known = f" of about {self.expected:,}" if self.expected >= progress.rows else ""
        speed = (progress.rows - self.before) / (now - self.began)
        self.say(f"{progress.rows:,}{known} rows, {speed:,.0f} rows/s")


@dataclass(frozen=True)
class _Rest:
    """What is left to do of a scoring, and who does it."""

    tables: ScoreTables
    champion: Champion
    key: str
    clock: Clock
    report: _Report

    def done(self, before: Progress, batches: Iterable[pa.RecordBatch]) -> Progress:
        """Every row of the batches is answered and committed; one chunk is written while the next are answered."""
        cores = _cores()
        scored_at, progress = self.clock.now(), before
        writing: Future[Progress] | None = None
        with ThreadPoolExecutor(cores) as scorers, ThreadPoolExecutor(1) as writer:
            asked = partial(answer, self.champion.predictor, key=self.key)
            for answers in _ahead(scorers, asked, _chunks(batches, CHUNK_ROWS), AHEAD * cores):
                if writing:
                    progress = self._told(writing)
                arguments = (progress, answers, self.champion.version, scored_at, self.clock.now())
                writing = writer.submit(self.tables.write, *arguments)
            return self._told(writing) if writing else progress

    def _told(self, writing: Future[Progress]) -> Progress:
        progress = writing.result()
        self.report(progress)
        return progress


def _refuse_misfits(source: SourceDatabase, champion: Champion, order: Order) -> None:
    """The table has the key, and the model's inputs in types that fit."""
    try:
        there = source.columns(order.table)
    except SourceError as error:
        raise ScoreError(str(error).replace("source.table", "--from (scoring.table in the spec)")) from None
    if order.key not in [column.name for column in there]:
        msg = f"table {order.table} has no column {order.key}: name its key with --key (scoring.key in the spec)"
        raise ScoreError(msg)
    found = misfits(champion.predictor.fields, there)
    if found:
        msg = (
            f"table {order.table} does not fit version {champion.version} of {champion.model}: {'; '.join(found)}; "
            "make a view that has these columns in these types, and score that"
        )
        raise ScoreError(msg)


def _opening(champion: Champion, order: Order, before: Progress, expected: int) -> str:
    size = f" (about {expected:,} rows)" if expected else ""
    what = f"version {champion.version} of {champion.model} answers {order.table}{size} in {order.into}"
    return f"{what}, continuing after {before.rows:,} rows" if before.rows else what


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in the same order, `rows` at a time; fewer in the last one."""
    waiting: pl.DataFrame | None = None
    for batch in batches:
        arrived = pl.DataFrame(batch)
        waiting = arrived if waiting is None else pl.concat([waiting, arrived])
        while len(waiting) >= rows:
            yield waiting[:rows]
            waiting = waiting[rows:]
    if waiting is not None and len(waiting):
        yield waiting


def _ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """The function's results in the order of the items, of which `most` are under way at a time."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
