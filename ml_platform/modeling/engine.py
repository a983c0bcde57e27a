"""Engines: what turns features into scores; ONNX Runtime where the converted model is proven, else scikit-learn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Kind, Texts
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.spec import Task

NUMBERS, TEXTS = "all: numbers", "all: texts"
"""A converted model's inputs; no feature can have such a name."""
MISSING_TEXT = "\u2205 missing"
"""What a missing text is called inside a converted model, since ONNX has no empty strings apart from \"\"."""


class EngineKind(StrEnum):
    """What a bundle's model file is run by; the value is the file's ending."""

    ONNX = "onnx"
    SKOPS = "skops"


class Engine(Protocol):
    """A fitted model, ready to score."""

    def scores(self, features: FeatureMatrix) -> NDArray[np.float64]:
        """The scores of n rows, as `Predictions` holds them."""


@dataclass(frozen=True)
class OnnxEngine:
    """A converted model in ONNX Runtime."""

    task: Task
    session: Any
    output: str
    has_numbers: bool
    has_texts: bool

    @classmethod
    def load(cls, model: bytes, task: Task, threads: int = 1) -> "OnnxEngine":
        """The model in an ONNX file, computed by `threads` threads."""
        import onnxruntime  # noqa: PLC0415 - the other engine does without

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # What goes wrong is raised; printed as well, it would not be a line of the log.
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = {i.name for i in session.get_inputs()}
        return cls(task, session, session.get_outputs()[-1].name, NUMBERS in inputs, TEXTS in inputs)

    def scores(self, features: FeatureMatrix) -> NDArray[np.float64]:
        """The scores of n rows, as `Predictions` holds them.

        Raises:
            ValueError: when a row has none, as scikit-learn does.
        """
        feed: dict[str, Any] = {}
        if self.has_numbers:
            feed[NUMBERS] = features.numbers
        if self.has_texts:
            feed[TEXTS] = _named(features.texts)
        (found,) = self.session.run([self.output], feed)
        scores = _as_scores(self.task, found)
        if not math.isfinite(scores.sum()):
            msg = "the model has no answer: a number is missing or infinite, and its pipeline has no imputer for it"
            raise ValueError(msg)
        return scores


def _named(texts: Texts) -> Texts:
    """The texts, with the missing ones called by their name."""
    missing = texts == None  # noqa: E711 - asked of every element
    if np.count_nonzero(missing):  # Faster than any() where there are few.
        texts = texts.copy()
        texts[missing] = MISSING_TEXT
    return texts


@dataclass(frozen=True)
class SklearnEngine:
    """The fitted pipeline itself."""

    task: Task
    pipeline: Any
    kinds: Sequence[tuple[str, Kind]]

    def scores(self, features: FeatureMatrix) -> NDArray[np.float64]:
        """The scores of n rows, as `Predictions` holds them."""
        frame = as_frame(features, self.kinds)
        predict = self.pipeline.predict if self.task is Task.REGRESSION else self.pipeline.predict_proba
        return _as_scores(self.task, predict(frame))


def as_frame(features: FeatureMatrix, kinds: Sequence[tuple[str, Kind]]) -> Any:
    """Features as the pandas frame that scikit-learn's column transformers select from by name.

    Args:
        features: n rows.
        kinds: name and kind of each feature, in order.
    """
    import pandas as pd  # noqa: PLC0415 - the other engine does without

    numbers, texts = iter(features.numbers.astype(np.float64).T), iter(features.texts.T)
    return pd.DataFrame({name: next(numbers if kind is Kind.NUMBER else texts) for name, kind in kinds})


def _as_scores(task: Task, found: NDArray[Any]) -> NDArray[np.float64]:
    scores = np.asarray(found, dtype=np.float64)
    if task is Task.REGRESSION:
        return scores.reshape(-1)
    return scores[:, 1] if task is Task.BINARY else scores
