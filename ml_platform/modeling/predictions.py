"""Predictions: a model's answers, whichever engine made them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import Column
from ml_platform.modeling.spec import Task

DIGITS = 6
"""Scores that agree in so many digits are a tie, which goes to the first class, as it does in scikit-learn.

Two engines differ in the eighth digit, and votes of trees are often tied.
"""
POSITIVE = 0.5 + 0.5 * 10**-DIGITS
"""A binary model says yes beyond this, which is no tie any more."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of n rows.

    `scores` is the probability of class 1 (n,) for a binary model, of each class (n, k) for a multiclass one, and the
    value itself (n,) for a regression. `classes` are the k class labels in the order of the columns.
    """

    task: Task
    scores: NDArray[np.float64]
    classes: tuple[Any, ...] = ()

    def at(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Predictions":
        """Those of some of the rows."""
        return replace(self, scores=self.scores[rows])

    def labels(self) -> Column:
        """The predicted label of each row: the likeliest class, the first of tied ones, or the value."""
        if self.task is Task.REGRESSION:
            return self.scores
        is_binary = self.task is Task.BINARY
        likeliest = (self.scores > POSITIVE).astype(int) if is_binary else self.scores.round(DIGITS).argmax(axis=1)
        labels: Column = np.asarray(self.classes)[likeliest]
        return labels

    def as_json(self) -> list[dict[str, Any]]:
        """One JSON object per row, as an answer holds it."""
        if self.task is Task.REGRESSION:
            return [{"value": value} for value in self.scores.tolist()]
        if self.task is Task.BINARY:
            negative, positive = self.classes
            return [
                {"label": positive if score > POSITIVE else negative, "probability": score}
                for score in self.scores.tolist()
            ]
        names = [str(c) for c in self.classes]
        pairs = zip(self.labels().tolist(), self.scores.tolist(), strict=True)
        return [{"label": label, "probabilities": dict(zip(names, row, strict=True))} for label, row in pairs]
