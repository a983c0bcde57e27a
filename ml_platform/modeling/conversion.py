"""Conversion: a fitted pipeline as an ONNX model, kept only if it is proven to answer as scikit-learn does."""

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.engine import Engine, EngineKind, OnnxEngine, SklearnEngine
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.onnx_model import NotConvertibleError, as_onnx
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task

TOLERANCE = 1e-5
"""How far a converted model's score may be from scikit-learn's: absolute for probabilities, relative for values."""
SAMPLE_ROWS, PART_ROWS = 20_000, 2_000
UNSEEN_TEXT, UNSEEN_SHARE = "\u2205 unseen", 0.05
BETWEEN_SHARE = 0.25
TIMED_ROWS, TIMED_SECONDS = 50, 2.0


@dataclass(frozen=True, kw_only=True)
class Converted:
    """How a fitted pipeline will be served.

    `model` is the ONNX file, None when scikit-learn itself must serve it; `reason` then says why. `compared_rows` were
    answered by both, at most `largest_difference` apart. `row_us` is what one row costs in each engine, microseconds.
    """

    model: bytes | None
    reason: str
    compared_rows: int
    largest_difference: float
    row_us: Mapping[EngineKind, float]

    @property
    def engine(self) -> EngineKind:
        """What serves it."""
        return EngineKind.SKOPS if self.model is None else EngineKind.ONNX


def convert(pipeline: Any, task: Task, kinds: Mapping[str, Kind], classes: tuple[Any, ...], seen: FeatureMatrix,
            *, seed: int) -> Converted:  # fmt: skip
    """Convert a pipeline and hold it against scikit-learn on a large sample.

    Args:
        pipeline: fitted on a frame with the features in their order.
        task: what it predicts.
        kinds: the features in their order.
        classes: its class labels, empty for a regression.
        seen: the features of real rows; the sample also has mixtures of them, values between them, and unseen texts.
        seed: decides the sample.
    """
    named = tuple(kinds.items())
    reference = SklearnEngine(task, pipeline, named)
    cost = {EngineKind.SKOPS: _row_us(reference, seen)}
    sample = _sample(seen, np.random.default_rng(seed))
    try:
        model = as_onnx(pipeline, task, named)
        engine = _loaded(model, task)
        largest = _compared(engine, reference, task, classes, sample)
    except NotConvertibleError as error:
        return Converted(model=None, reason=str(error), compared_rows=0, largest_difference=float("nan"), row_us=cost)
    return Converted(
        model=model,
        reason="",
        compared_rows=len(sample.numbers),
        largest_difference=largest,
        row_us=cost | {EngineKind.ONNX: _row_us(engine, seen)},
    )


def _loaded(model: bytes, task: Task) -> OnnxEngine:
    try:
        return OnnxEngine.load(model, task)
    except Exception as error:
        msg = f"ONNX Runtime cannot run it ({type(error).__name__}): {str(error)[:300]}"
        raise NotConvertibleError(msg) from error


def _sample(seen: FeatureMatrix, rng: np.random.Generator) -> FeatureMatrix:
    """At most half real rows; the others have every feature drawn from another one, to probe the model off its paths.

    There a number is sometimes one between two that were seen, where trees have their thresholds, and a text
    sometimes one that was never seen.
    """
    rows = len(seen.numbers)
    real = rng.permutation(rows)[: SAMPLE_ROWS // 2]
    mixed = SAMPLE_ROWS - len(real)
    numbers, texts = (
        np.take_along_axis(matrix, rng.integers(0, rows, (mixed, matrix.shape[1])), axis=0)
        for matrix in (seen.numbers, seen.texts)
    )
    for column, values in zip(numbers.T, seen.numbers.T, strict=True):
        middles = _middles(values)
        if len(middles):
            probed = rng.random(mixed) < BETWEEN_SHARE
            column[probed] = rng.choice(middles, int(probed.sum()))
    texts[rng.random(texts.shape) < UNSEEN_SHARE] = UNSEEN_TEXT
    return FeatureMatrix(np.concatenate([seen.numbers[real], numbers]), np.concatenate([seen.texts[real], texts]))


def _middles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle between each value and the next larger one; whole when all are, for they may be codes or flags."""
    distinct = np.unique(values[np.isfinite(values)]).astype(np.float64)
    middles = (distinct[:-1] + distinct[1:]) / 2
    return (np.floor(middles) if np.array_equal(distinct, np.floor(distinct)) else middles).astype(np.float32)


def _compared(engine: Engine, reference: Engine, task: Task, classes: tuple[Any, ...], sample: FeatureMatrix) -> float:
    """The largest difference between the scores of both.

    Raises:
        NotConvertibleError: when it is above the tolerance, or a label differs.
    """
    expected, found = (_scores(e, sample) for e in (reference, engine))
    apart = np.abs(found - expected) / _scale(task, expected)
    off = int((~(apart <= TOLERANCE)).reshape(len(apart), -1).any(axis=1).sum())
    labels = [Predictions(task=task, scores=scores, classes=classes).labels() for scores in (found, expected)]
    flipped = 0 if task is Task.REGRESSION else int((labels[0] != labels[1]).sum())
    if off or flipped:
        msg = (
            f"the converted model answers differently: {off} of {len(apart)} rows by more than {TOLERANCE:g} "
            f"(at most {np.max(apart):.2g}), {flipped} labels"
        )
        raise NotConvertibleError(msg)
    return float(apart.max(initial=0.0))


def _scale(task: Task, expected: NDArray[np.float64]) -> NDArray[np.float64] | float:
    """What differences are relative to: a value itself, but where values are small at most what is usual or 1."""
    if task is not Task.REGRESSION:
        return 1.0
    size = np.abs(expected)
    return np.maximum(size, min(1.0, float(size.mean())) or 1.0)


def _scores(engine: Engine, sample: FeatureMatrix) -> NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            # The sample has unseen texts on purpose; a warning about them would only puzzle.
            warnings.simplefilter("ignore")
            return np.concatenate([engine.scores(part) for part in _parts(sample)])
    except Exception as error:
        who = "scikit-learn" if isinstance(engine, SklearnEngine) else "ONNX Runtime"
        msg = f"{who} cannot answer the sample ({type(error).__name__}): {str(error)[:300]}"
        raise NotConvertibleError(msg) from error


def _parts(sample: FeatureMatrix) -> Iterator[FeatureMatrix]:
    """The sample in parts: a model of neighbours or kernels compares every row with every row it knows."""
    for start in range(0, len(sample.numbers), PART_ROWS):
        part = slice(start, start + PART_ROWS)
        yield FeatureMatrix(sample.numbers[part], sample.texts[part])


def _row_us(engine: Engine, seen: FeatureMatrix) -> float:
    """What one row costs, in microseconds: the median of some rows asked one by one."""
    taken: list[float] = []
    for i in range(min(TIMED_ROWS, len(seen.numbers))):
        row = FeatureMatrix(seen.numbers[i : i + 1], seen.texts[i : i + 1])
        began = time.perf_counter()
        engine.scores(row)
        taken.append(time.perf_counter() - began)
        if sum(taken) > TIMED_SECONDS:
            break
    return float(np.median(taken)) * 1e6
