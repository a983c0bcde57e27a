"""Conversion: a fitted pipeline as an ONNX model, kept only if it is proven to answer as scikit-learn does."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.base import BaseEstimator
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting

from ml_platform.modeling.columns import DTYPES, Kind
from ml_platform.modeling.engine import MISSING_TEXT, NUMBERS, TEXTS, Engine, EngineKind, OnnxEngine, SklearnEngine
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task

OPSETS = {"": 18, "ai.onnx.ml": 3}
TOLERANCE = 1e-5
"""How far a converted model's score may be from scikit-learn's: absolute for probabilities, relative for values."""
SAMPLE_ROWS = 20_000
UNSEEN_TEXT, UNSEEN_SHARE = "\u2205 unseen", 0.05
TIMED_ROWS = 200

Kinds = Sequence[tuple[str, Kind]]


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


class _NotConvertibleError(ValueError):
    """The pipeline cannot be converted, or the converted one answers differently; the message says which."""


def convert(pipeline: Any, task: Task, kinds: Mapping[str, Kind], classes: tuple[Any, ...], seen: FeatureMatrix,
            *, seed: int) -> Converted:  # fmt: skip
    """Convert a pipeline and hold it against scikit-learn on a large sample.

    Args:
        pipeline: fitted on a frame with the features in their order.
        task: what it predicts.
        kinds: the features in their order.
        classes: its class labels, empty for a regression.
        seen: the features of real rows; the sample also has mixtures of them, and unseen and missing texts.
        seed: decides the sample.
    """
    named = tuple(kinds.items())
    reference = SklearnEngine(task, pipeline, named)
    cost = {EngineKind.SKOPS: _row_us(reference, seen)}
    sample = _sample(seen, np.random.default_rng(seed))
    try:
        model = _as_onnx(pipeline, task, named)
        engine = OnnxEngine.load(model, task)
        largest = _compared(engine, reference, task, classes, sample)
    except _NotConvertibleError as error:
        return Converted(model=None, reason=str(error), compared_rows=0, largest_difference=float("nan"), row_us=cost)
    return Converted(
        model=model,
        reason="",
        compared_rows=len(sample.numbers),
        largest_difference=largest,
        row_us=cost | {EngineKind.ONNX: _row_us(engine, seen)},
    )


def _as_onnx(pipeline: Any, task: Task, kinds: Kinds) -> bytes:
    """The pipeline as an ONNX file with one matrix of numbers and one of texts as inputs; the same for the same model.

    Raises:
        _NotConvertibleError: when the converter refuses.
    """
    from skl2onnx import convert_sklearn  # noqa: PLC0415 - a second to import, and only training needs it
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: PLC0415 - as above

    exact = _made_exact(pipeline)
    types = {Kind.NUMBER: FloatTensorType, Kind.TEXT: StringTensorType}
    options = None if task is Task.REGRESSION else {id(exact): {"zipmap": False}}
    try:
        model = convert_sklearn(
            exact,
            name="model",
            initial_types=[(name, types[kind]([None, 1])) for name, kind in kinds],
            options=options,
            target_opset=OPSETS,
        )
        _take_matrices(model.graph, kinds)
        onnx.checker.check_model(model)
    except Exception as error:
        msg = f"the converter refuses it ({type(error).__name__}): {' '.join(str(error).split())[:300]}"
        raise _NotConvertibleError(msg) from error
    return bytes(model.SerializeToString(deterministic=True))


def _made_exact(pipeline: Any) -> Any:
    """A copy whose answers in single precision are those of the pipeline in double precision.

    A threshold is rounded down to single precision: for a single-precision value x, `x <= threshold` stays as it was.
    A missing text is given the name that the engine calls it by.
    """
    exact = copy.deepcopy(pipeline)
    for part in _parts(exact):
        for nodes in _thresholds(part):
            nodes[:] = _rounded_down(nodes)
        for values in getattr(part, "categories_", ()):
            if values.dtype == DTYPES[Kind.TEXT]:
                values[[value is None or value != value for value in values]] = MISSING_TEXT  # noqa: PLR0124 - NaN
    return exact


def _parts(estimator: object) -> Iterator[BaseEstimator]:
    """The estimator and all fitted estimators in it."""
    if isinstance(estimator, BaseEstimator):
        yield estimator
        estimator = list(vars(estimator).values())
    if isinstance(estimator, np.ndarray) and estimator.dtype == object:
        estimator = estimator.ravel().tolist()
    if isinstance(estimator, Mapping):
        estimator = list(estimator.values())
    if isinstance(estimator, list | tuple):
        for part in estimator:
            yield from _parts(part)


def _thresholds(part: BaseEstimator) -> Iterator[NDArray[np.float64]]:
    """The thresholds of every tree, to be changed in place."""
    if isinstance(part, BaseHistGradientBoosting):
        for predictors in part._predictors:  # noqa: SLF001 - scikit-learn's trees have no public face
            for predictor in predictors:
                yield predictor.nodes["num_threshold"]
    elif hasattr(part, "tree_"):
        yield part.tree_.threshold


def _rounded_down(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float64)


def _take_matrices(graph: Any, kinds: Kinds) -> None:
    """One input per kind instead of one per feature: naming each costs more than the model itself."""
    del graph.input[:]
    element = {NUMBERS: TensorProto.FLOAT, TEXTS: TensorProto.STRING}
    for matrix, kind in ((TEXTS, Kind.TEXT), (NUMBERS, Kind.NUMBER)):
        names = [name for name, of_kind in kinds if of_kind is kind]
        if names:
            graph.input.append(helper.make_tensor_value_info(matrix, element[matrix], [None, len(names)]))
            widths = f"widths of {matrix}"
            graph.initializer.append(helper.make_tensor(widths, TensorProto.INT64, [len(names)], [1] * len(names)))
            graph.node.insert(0, helper.make_node("Split", [matrix, widths], names, axis=1))


def _sample(seen: FeatureMatrix, rng: np.random.Generator) -> FeatureMatrix:
    """Half real rows, half with every feature drawn from another real row, so that the model is probed off its paths.

    A mixed row's text is sometimes one that was never seen.
    """
    rows = len(seen.numbers)
    real = rng.permutation(rows)[: SAMPLE_ROWS // 2]
    mixed = [
        np.take_along_axis(matrix, rng.integers(0, rows, (SAMPLE_ROWS // 2, matrix.shape[1])), axis=0)
        for matrix in (seen.numbers, seen.texts)
    ]
    mixed[1][rng.random(mixed[1].shape) < UNSEEN_SHARE] = UNSEEN_TEXT
    return FeatureMatrix(np.concatenate([seen.numbers[real], mixed[0]]), np.concatenate([seen.texts[real], mixed[1]]))


def _compared(engine: Engine, reference: Engine, task: Task, classes: tuple[Any, ...], sample: FeatureMatrix) -> float:
    """The largest difference between the scores of both.

    Raises:
        _NotConvertibleError: when it is above the tolerance, or a label differs.
    """
    found, expected = (_scores(e, sample) for e in (engine, reference))
    scale = np.maximum(1.0, np.abs(expected)) if task is Task.REGRESSION else 1.0
    apart = np.abs(found - expected) / scale
    off = int((~(apart <= TOLERANCE)).reshape(len(apart), -1).any(axis=1).sum())
    labels = [Predictions(task=task, scores=scores, classes=classes).labels() for scores in (found, expected)]
    flipped = 0 if task is Task.REGRESSION else int((labels[0] != labels[1]).sum())
    if off or flipped:
        msg = (
            f"the converted model answers differently: {off} of {len(apart)} rows by more than {TOLERANCE:g} "
            f"(at most {np.nanmax(apart):.2g}), {flipped} labels"
        )
        raise _NotConvertibleError(msg)
    return float(apart.max(initial=0.0))


def _scores(engine: Engine, sample: FeatureMatrix) -> NDArray[np.float64]:
    try:
        return engine.scores(sample)
    except Exception as error:
        msg = f"{type(engine).__name__} cannot answer the sample ({type(error).__name__}): {str(error)[:300]}"
        raise _NotConvertibleError(msg) from error


def _row_us(engine: Engine, seen: FeatureMatrix) -> float:
    """What one row costs, in microseconds: the median of some rows asked one by one."""
    taken = []
    for i in range(min(TIMED_ROWS, len(seen.numbers))):
        row = FeatureMatrix(seen.numbers[i : i + 1], seen.texts[i : i + 1])
        began = time.perf_counter()
        engine.scores(row)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e6
