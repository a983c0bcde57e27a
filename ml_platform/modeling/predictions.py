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
        rounded = self.scores.round(DIGITS)
        likeliest = (rounded > 0.5).astype(int) if self.task is Task.BINARY else rounded.argmax(axis=1)  # noqa: PLR2004
        labels: Column = np.asarray(self.classes)[likeliest]
        return labels

    def as_json(self) -> list[dict[str, Any]]:
        """One JSON object per row, as an answer holds it."""
        if self.task is Task.REGRESSION:
            return [{"value": value} for value in self.scores.tolist()]
        if self.task is Task.BINARY:
            negative, positive = self.classes
            return [
                {"label": positive if round(score, DIGITS) > 0.5 else negative, "probability": score}  # noqa: PLR2004
                for score in self.scores.tolist()
            ]
        names = [str(c) for c in self.classes]
        pairs = zip(self.labels().tolist(), self.scores.tolist(), strict=True)
        return [{"label": label, "probabilities": dict(zip(names, row, strict=True))} for label, row in pairs]
